"""The command line: flags and a YAML file become the settings of a command; its outcome becomes the exit code.

`--config FILE` fills any flag from YAML, and a flag overrides the file. A top-level key is shared by all commands that
have it (`runs`, `seed`, `mask_kind`, ...); a section named like a command holds its own flags (`detect: {epochs: 80}`).
A command whose flags are grouped in sections (`--train.epochs 3`) takes these sections from the file. An unknown key is
refused.

Exit codes: 0 done, 1 an error in the program, 2 an error of the user (one message, no traceback), 3 `promote --strict`
promoted nothing, 130 and 143 stopped by Control-C and by SIGTERM, 141 the reader of the output left (`| head`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ufgvc import __version__
from ufgvc.commands import COMMANDS, Command
from ufgvc.commands.flags import parse_flags
from ufgvc.core.config import Settings, describe_validation, load_yaml
from ufgvc.core.errors import UserError, user_error_in
from ufgvc.core.output import JSON, QUIET, Output
from ufgvc.core.process import (
    Stopped,
    disable_telemetry,
    keep_freed_memory,
    let_idle_threads_sleep,
    output_may_be_cut,
    setup_logging,
    sigterm_as_interrupt,
)

COMMANDS_PACKAGE = "ufgvc.commands"
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")  # SHELL; SHELL FILE


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    with output_may_be_cut():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ufgvc {__version__}")
        return 0
    if arguments[0].startswith(COMPLETION):
        from ufgvc.commands.completion import write_completion

        write_completion(arguments)
    while len(arguments) > 1 and arguments[0] in (QUIET, JSON):  # before the command they mean the same
        arguments = [*arguments[1:], arguments[0]]
    output = Output.of(arguments)
    setup_logging()
    let_idle_threads_sleep()
    keep_freed_memory()
    disable_telemetry()
    try:
        with sigterm_as_interrupt():
            command = COMMANDS.get(arguments[0])
            settings = parse(command, arguments[1:])
            check_places(settings)
            with output.while_running():
                outcome = command.run(settings)
            output.show(outcome.result)
            return outcome.code
    except KeyboardInterrupt as stop:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 143 if isinstance(stop, Stopped) else 130
    except BaseException as error:
        users_error = user_error_in(error)
        if users_error is None:
            raise
        print(f"ufgvc {arguments[0]}: {users_error}", file=sys.stderr)
        return 2


def overview() -> str:
    """What `ufgvc --help` prints."""
    width = max(len(name) for name in COMMANDS.names())
    lines = [f"  {name:<{width}}  {COMMANDS.get(name).summary}" for name in COMMANDS.names()]
    return "\n".join(
        [
            "usage: ufgvc COMMAND [--config FILE] [--quiet] [--json] [flags]",
            "",
            "Identifies plant cultivars from a photograph of one leaf.",
            "",
            *lines,
            "",
            "--config FILE fills flags from YAML; --quiet writes only results and errors; --json writes the result as "
            "one\nJSON object to standard output, and everything else to standard error.",
            "`ufgvc COMMAND --help` shows its flags with types, defaults and units; "
            "jobs/configs has a file for each known data set.",
        ]
    )


def parse(command: Command, arguments: list[str]) -> Any:
    """The settings of a command from YAML and flags.

    UserError for a bad file, a flag that is missing or does not exist, and a value that the settings refuse.
    """
    import tyro

    program = f"ufgvc {command.name}"
    first = argparse.ArgumentParser(
        prog=program, usage=f"{program} [--config FILE] [flags]", add_help=False, allow_abbrev=False
    )
    first.add_argument("--config")
    for flag in (QUIET, JSON):  # of `Output`
        first.add_argument(flag, action="store_true")
    rest = first.parse_known_args(arguments)[1]
    first.add_argument("--method")
    known, _ = first.parse_known_args(arguments)
    document = _read_document(known.config) if known.config is not None else {}
    settings = command.settings(known.method or str(document.get("method") or "") or None)
    values = _ConfigFile(known.config or "settings", document).values_for(command.name, settings)
    # What neither the file nor a default gives is required of the flags.
    required = {name: tyro.MISSING for name, field in settings.model_fields.items() if field.is_required()}
    default = settings.model_construct(**{**required, **values})
    summary = f"{command.summary[0].upper()}{command.summary[1:]}. Also --config, --quiet, --json: see ufgvc --help."
    return parse_flags(settings, default, rest, program, summary)


def _read_document(path: str) -> dict[str, Any]:
    try:
        return load_yaml(path)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path, fix="check --config") from None


def shared_fields(settings: type[Settings]) -> dict[str, FieldInfo]:
    """The fields that YAML has at the top level: those declared in `ufgvc.commands`, shared by several commands."""

    def declared_in(name: str) -> str:
        return next(base.__module__ for base in settings.__mro__ if name in vars(base).get("__annotations__", {}))

    return {
        name: field
        for name, field in settings.model_fields.items()
        if name == "options" or declared_in(name).startswith(COMMANDS_PACKAGE)
    }


def known_keys() -> list[str]:
    """Every top-level key that YAML may have: the shared fields and the names of the commands."""
    return sorted(
        {*COMMANDS.names(), *(key for name in COMMANDS.names() for key in shared_fields(COMMANDS.get(name).settings()))}
    )


@dataclass(frozen=True)
class _ConfigFile:
    """The content of a YAML file.  where: its path, for messages."""

    where: str
    document: Mapping[str, Any]

    def values_for(self, command: str, settings: type[Settings]) -> dict[str, Any]:
        """The checked values of the fields of a command's settings that the file gives."""
        shared = shared_fields(settings)
        self._refuse_unknown(self.document, {*shared, *COMMANDS.names()}, known_keys)
        for key, value in self.document.items():
            if isinstance(value, Mapping) and "mask_kind" in value:
                what = f"{key}.mask_kind: the kind of masks is one setting for all commands"
                raise UserError(what, where=self.where, fix="write `mask_kind: ...` at the top level")
        values = {key: value for key, value in self.document.items() if key in shared}
        own = self.document.get(command, {}) if command not in settings.model_fields else {}
        if not isinstance(own, Mapping):
            raise UserError("must be a section of `key: value` pairs", where=f"{self.where}, {command}")
        if unknown := sorted(map(str, set(own) - set(settings.model_fields))):
            names = ", ".join(f"{command}.{key}" for key in unknown)
            raise UserError(f"{names}: not a known setting", where=self.where, fix=f"see `ufgvc {command} --help`")
        return {key: self._checked(key, value, settings.model_fields[key]) for key, value in {**values, **own}.items()}

    def _refuse_unknown(self, keys: Any, likely: set[str], known: Any) -> None:
        # Only a key that this command lacks needs the list of all keys, which imports every command.
        unknown = set(keys) - likely
        unknown -= set(known()) if unknown else set()
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise UserError(f"{names}: not a known setting", where=self.where, fix=f"known: {', '.join(known())}")

    def _checked(self, key: str, value: Any, field: FieldInfo) -> Any:
        """The value as the field's type has it. UserError for a wrong one."""
        try:
            return TypeAdapter(field.rebuild_annotation()).validate_python(value)
        except ValidationError as error:
            problem = describe_validation(error, self.where)
            raise UserError(f"{key}: {problem.what}", where=self.where, fix=problem.fix) from None


def check_places(settings: Settings) -> None:
    """UserError for a place that cannot be written, and inside of a Ray job for a relative path."""
    from ufgvc.core.places import check_absolute, check_writable
    from ufgvc.runtime.session import in_ray_job

    if in_ray_job():
        check_absolute(settings)
    check_writable(settings)


if __name__ == "__main__":
    raise SystemExit(main())
