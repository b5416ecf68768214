"""Flags become settings. tyro reads them and converts their text; one check of pydantic follows, on the whole.

tyro would build every section by itself and show what pydantic refuses in pydantic's words, without the flag. So it
gets a rule by which a section becomes a plain dictionary, and the faults of all sections come out of one check, each
with its path, which is the flag.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ufgvc.commands.unread_flags import show_value, unread_flags_refused
from ufgvc.core.config import Settings, explain_problem
from ufgvc.core.errors import UserError

SettingsT = TypeVar("SettingsT", bound=Settings)


def parse_flags(
    settings: type[SettingsT], default: SettingsT, arguments: Sequence[str], program: str, description: str
) -> SettingsT:
    """The settings that flags make of a default, checked.

    Args:
        settings: their class.
        default: need not be valid; what has no value in it is required of the flags.
        arguments: the flags, as typed.
        program: the command, for messages.
        description: the first lines of --help.

    Raises:
        UserError: a flag is missing or does not exist, or a value is refused; it names the flag, the value and what is
            allowed.
        SystemExit: 0 after --help; 2 after tyro's own message for what `unread_flags` does not know.
    """
    import tyro
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.struct_rule(_section_as_dictionary)
    with unread_flags_refused(arguments, dict(_flags_of(settings)), program):
        given: Any = tyro.cli(
            settings,
            default=default,
            args=arguments,
            prog=program,
            description=description,
            use_underscores=False,
            registry=registry,
        )
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        texts = [_describe(problem, settings) for problem in error.errors()]
        raise UserError("; ".join(dict.fromkeys(texts)), fix=f"see `{program} --help`") from None


def _section_as_dictionary(info: Any) -> Any:
    """A rule of tyro (StructTypeInfo -> StructConstructorSpec or None): settings are built without being checked."""
    from tyro.constructors import MISSING_NONPROP, StructConstructorSpec, StructFieldSpec

    if not (inspect.isclass(info.type) and issubclass(info.type, Settings)):
        return None

    def section(**values: Any) -> dict[str, Any]:
        return values

    section.__doc__ = info.type.__doc__
    types = get_type_hints(info.type, include_extras=True)
    specs = []
    for name, field in info.type.model_fields.items():
        own = MISSING_NONPROP if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(info.default, name, own)
        specs.append(StructFieldSpec(name, types[name], default, helptext=field.description))
    return StructConstructorSpec(section, tuple(specs))


def _describe(problem: ErrorDetails, settings: type[Settings]) -> str:
    """`--train.epochs 0: must be greater than or equal to 1`, for one error of pydantic."""
    path: list[str] = []
    owner: Any = settings
    for piece in problem["loc"]:
        if not _is_settings(owner) or piece not in owner.model_fields:
            break  # an item of a tuple, a branch of a union: the flag has ended
        path.append(str(piece))
        owner = owner.model_fields[str(piece)].annotation
    text = explain_problem(problem)
    if not _is_settings(owner):
        return f"{_flag(path, problem['input'])}: {text}"
    # A check of several fields: those that its text names.
    values = cast("Mapping[str, Any]", problem["input"])
    named = [name for name in owner.model_fields if re.search(rf"\b{name}\b", text)]
    flags = ", ".join(_flag([*path, name], values[name]) for name in named if name in values)
    return f"{flags}: {text}" if flags else text


def _flags_of(settings: type[Settings], prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Every flag with its description."""
    import tyro

    for name, field in settings.model_fields.items():
        flag = prefix + name.replace("_", "-")
        if _is_settings(field.annotation):
            yield from _flags_of(cast("type[Settings]", field.annotation), f"{flag}.")
        elif not any(mark is tyro.conf.Suppress for mark in field.metadata):
            yield flag, field.description or ""


def _is_settings(owner: Any) -> bool:
    return inspect.isclass(owner) and issubclass(owner, Settings)


def _flag(path: Sequence[str], value: Any) -> str:
    """`--train.learning-rate 0.1`, as it is typed."""
    flag = f"--{'.'.join(path)}".replace("_", "-")
    return f"{flag} {show_value(value if isinstance(value, list | tuple) else [value])}".rstrip()
