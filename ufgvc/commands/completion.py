"""Tab completion of all commands and flags, which tyro writes as a script for bash, zsh or tcsh."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any

from pydantic import Field, create_model

from ufgvc.commands.command import COMMANDS, Command


def write_completion(arguments: list[str]) -> None:
    """Writes the script that tyro's own flags ask for, and ends with SystemExit.

    arguments: --tyro-print-completion SHELL, or --tyro-write-completion SHELL FILE.

    The script names the options of each command's default method.
    """
    import tyro

    kinds = [_subcommand(COMMANDS.get(name)) for name in COMMANDS.names()]
    any_of_them: Any = functools.reduce(operator.or_, kinds)
    tyro.cli(any_of_them, prog="ufgvc", args=arguments, use_underscores=False)


def _subcommand(command: Command) -> Any:
    """What tyro takes for the settings of a command and the flags that the command line itself takes."""
    import tyro

    flags: dict[str, Any] = {
        "config": (str | None, Field(None, description="YAML file that fills any flag")),
        "quiet": (bool, Field(False, description="write only results and errors")),
        "as_json": (
            Annotated[bool, tyro.conf.arg(name="json")],
            Field(False, description="write the result as one JSON object"),
        ),
    }
    settings = command.settings()
    return Annotated[
        create_model(settings.__name__, __base__=settings, **flags),
        tyro.conf.subcommand(name=command.name, description=command.summary),
    ]
