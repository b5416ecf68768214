"""Running our commands in this process, as a person would start them."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from ufgvc.cli import main, parse
from ufgvc.commands import COMMANDS

# Flags of a training that takes seconds.
QUICK_TRAINING = (
    "--method",
    "resnet50",
    "--options.backbone",
    "shufflenet_v2_x0_5",
    "--train.init",
    "none",
    "--train.epochs",
    "1",
)


@dataclass(frozen=True)
class Ended:
    """code: the exit code.  out, err: what was written; the log goes to err."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def ufgvc(*arguments: object) -> Ended:
    """Runs one command line. A traceback of the command is raised here."""
    out, err = io.StringIO(), io.StringIO()
    log = logging.StreamHandler(err)
    log.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(log)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([str(argument) for argument in arguments])
            except SystemExit as stopped:
                code = stopped.code if isinstance(stopped.code, int) else 0 if stopped.code is None else 1
    finally:
        logging.getLogger().removeHandler(log)
    return Ended(code, out.getvalue(), err.getvalue())


def settings_of(name: str, *arguments: str) -> Any:
    """The settings that a command makes of its flags."""
    return parse(COMMANDS.get(name), [*arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a person reads of a command that is refused: exit code 2, one message, no traceback, nothing on standard
    output."""
    try:
        code = main([*arguments])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    output = capsys.readouterr()
    assert code == 2, output.err
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.strip()
    return " ".join(output.err.replace("│", " ").split())
