"""`ufgvc <command>`: the only file that knows the flags.

`--config FILE` fills any flag from YAML: top-level keys, and the section named after the command (`mask: {kind: box}` is
`ufgvc mask --kind box`; `train` and `pipeline` keep their sections: `--train.epochs 3`). A flag beats the file. An unknown key is refused.
Exit codes: 0 done, 1 our fault, 2 the user's mistake (one message, no traceback), 3 `promote --strict` promoted nothing,
130 and 143 stopped by Control-C and by SIGTERM, 141 the reader of the output left (`| head`).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_origin

from pydantic import Field, TypeAdapter, ValidationError, create_model

from ufgvc import __version__
from ufgvc.commands import COMMANDS, Command
from ufgvc.core.config import Settings, describe_validation, load_yaml
from ufgvc.core.errors import UserError, user_error_in
from ufgvc.core.process import (
    Stopped,
    disable_telemetry,
    output_may_be_cut,
    passive_omp_wait,
    setup_logging,
    sigterm_as_interrupt,
)

SHARED_KEYS = frozenset(
    "name source data boxes reader split runs seed method options model compare out fresh tracking ray".split()  # noqa: SIM905
)
SECTIONS = frozenset(
    [
        "synth",
        "ingest",
        "detect",
        "mask",
        "train",
        "evaluate",
        "calibrate",
        "export",
        "promote",
        "predict",
        "benchmark",
        "pretrain",
        "search",
        "bench",
    ]
)
NESTED = ("train", "pipeline", "search")  # commands whose flags are grouped by section
PLACES = frozenset("source data runs run out boxes model compare artifacts".split())  # noqa: SIM905
_TRAINS = frozenset("train pipeline detect benchmark search pretrain".split())  # noqa: SIM905
WRITTEN = {  # place: the commands that write there
    "data": frozenset(("ingest", "pipeline")),
    "out": frozenset(("synth", "predict", "export", "bench")),
    "runs": _TRAINS,
    "artifacts": _TRAINS,
}
WEIGHTS = frozenset(("init", "coco_weights"))  # a name, or a file


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
    setup_logging()
    passive_omp_wait()
    disable_telemetry()
    try:
        with sigterm_as_interrupt():
            command = COMMANDS.get(arguments[0])
            settings = parse(arguments[0], command, arguments[1:])
            refuse_relative_places(settings)
            check_written_places(arguments[0], settings)
            code = command.run(settings)
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 143 if isinstance(stop, Stopped) else 130
    except BaseException as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        print(f"ufgvc {arguments[0]}: {mistake}", file=sys.stderr)
        return 2
    return code or 0


def overview() -> str:
    width = max(len(name) for name in COMMANDS.names())
    lines = [f"  {name:<{width}}  {COMMANDS.get(name).summary}" for name in COMMANDS.names()]
    return "\n".join(
        [
            "usage: ufgvc COMMAND [--config FILE] [flags]",
            "",
            "Tells plant cultivars apart from a photograph of one leaf.",
            "",
            *lines,
            "",
            "`ufgvc COMMAND --help` shows its flags with types, defaults and units; jobs/configs has a file for each known data set.",
        ]
    )


def parse(name: str, command: Command, arguments: list[str]) -> Settings:
    """Settings of a command from YAML and flags. UserError for a bad file; SystemExit(2) with tyro's message for a bad flag."""
    import tyro

    first = argparse.ArgumentParser(
        prog=f"ufgvc {name}", usage=f"ufgvc {name} [--config FILE] [flags]", add_help=False, allow_abbrev=False
    )
    first.add_argument("--config")
    first.add_argument("--method")
    known, _ = first.parse_known_args(arguments)
    rest = _without_config(arguments)
    where = known.config or "settings"
    try:
        document = load_yaml(known.config) if known.config is not None else {}
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=where, fix="check --config") from None
    unknown = sorted(map(str, set(document) - SHARED_KEYS - SECTIONS))
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: not a known setting",
            where=where,
            fix=f"known: {', '.join(sorted(SHARED_KEYS | SECTIONS))}",
        )
    model = command.settings(known.method or str(document.get("method") or "mask_guided"))
    # Elsewhere a field may be named like a section of another command: `detect` has its own `pretrain`.
    filling = SHARED_KEYS | (SECTIONS if name in NESTED else set())
    values = {key: value for key, value in document.items() if key in filling and key in model.model_fields}
    own = document.get(name, {}) if name not in NESTED else {}
    if not isinstance(own, Mapping):
        raise UserError("must be a section of `key: value` pairs", where=f"{where}, {name}")
    strange = sorted(map(str, set(own) - set(model.model_fields)))
    if strange:
        raise UserError(
            f"{', '.join(f'{name}.{key}' for key in strange)}: not a known setting",
            where=where,
            fix=f"see `ufgvc {name} --help`",
        )
    filled = with_defaults(model, values | dict(own), where)
    try:
        return cast(
            Settings,
            tyro.cli(filled, args=rest, prog=f"ufgvc {name}", description=command.description(), use_underscores=False),
        )
    except ValidationError as error:
        raise describe_validation(error, f"ufgvc {name}") from None


def with_defaults(model: type[Settings], values: Mapping[str, Any], where: str) -> type[Settings]:
    """The same settings with the file's values as defaults, checked one by one."""
    fields: dict[str, Any] = {}
    for key, value in values.items():
        field = model.model_fields[key]
        annotation = field.rebuild_annotation()
        try:
            checked = TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            problem = describe_validation(error, where)
            raise UserError(f"{key}: {problem.what}", where=where, fix=problem.fix) from None
        fields[key] = (annotation, Field(default=checked, description=field.description))
    return cast(type[Settings], create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields))


def refuse_relative_places(settings: Settings) -> None:
    """A job's working folder is a copy that Ray throws away: what is written there is lost."""
    from ufgvc.runtime.session import in_ray_job

    if not in_ray_job():
        return
    for flag, text in _texts(settings):
        key = flag.rpartition(".")[2].replace("-", "_")
        place = text.partition("=")[2] if key == "compare" else text  # label=MODEL
        if key in PLACES or (key in WEIGHTS and ("/" in place or "." in place)):
            known = re.match(r"[a-z][a-z0-9+.-]*:/", place) or os.path.isabs(
                os.path.expanduser(place)
            )  # models:/name has one slash
            if place and not known:
                raise UserError(
                    f"the relative path {place!r} would lie in Ray's copy of the project",
                    where=f"--{flag}",
                    fix="give an absolute path or s3://...",
                )


def check_written_places(command: str, settings: Settings) -> None:
    """UserError now for a place that cannot be written, and not after the work that is to be written there."""
    from ufgvc.core.storage import open_store

    for flag, text in _texts(settings):
        key = flag.rpartition(".")[2].replace("-", "_")
        if key in WRITTEN and command in WRITTEN[key]:
            open_store(text).check_writable()


def _texts(settings: Settings, before: str = "") -> Iterator[tuple[str, str]]:
    """Every free text of the settings, with its flag; choices of a few words (`--boxes annotated`) are none."""
    for key, field in type(settings).model_fields.items():
        told, flag = getattr(settings, key), f"{before}{key.replace('_', '-')}"
        if isinstance(told, Settings):
            yield from _texts(told, f"{flag}.")
        elif get_origin(field.annotation) is not Literal:
            yield from (
                (flag, text) for text in (told if isinstance(told, tuple) else (told,)) if isinstance(text, str)
            )


def _without_config(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--config":
            skip = True
        elif not argument.startswith("--config="):
            kept.append(argument)
    return kept


if __name__ == "__main__":
    raise SystemExit(main())
