"""The base class of all settings, YAML and JSON helpers, and the short key that names a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ufgvc.core.errors import UserError
from ufgvc.core.text import decode_text

BATCH = 1024  # values of an iterator that are in memory at a time
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)
_PLAIN = frozenset((str, int, float, bool, type(None), tuple, dict))


class Settings(BaseModel):
    """Base class of all settings: frozen, and unknown keys are an error. The docstring of a field is its --help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def added(default: Any, description: str | None = None, **limits: Any) -> Any:
    """A field that is younger than some runs: it is not dumped at its default, so that these keep their key."""
    return Field(default, description=description, exclude_if=lambda value: value == default, **limits)


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A field validator that returns the values. ValueError if one of them occurs twice."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is named twice")
    return values


def unique_or_none(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """`unique` for a setting that may be None."""
    return None if values is None else unique(values)


SettingsT = TypeVar("SettingsT", bound=Settings)


def select_fields(owner: type[SettingsT], settings: BaseModel) -> SettingsT:
    """An `owner` with the fields of `settings` that it declares."""
    return owner.model_validate({key: getattr(settings, key) for key in owner.model_fields})


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. UserError if the file is missing, not YAML, or not a mapping."""
    path = Path(path)
    try:
        loaded = yaml.safe_load(decode_text(path.read_bytes(), str(path)))
    except FileNotFoundError:
        raise UserError("there is no such configuration file", where=str(path), fix="check --config") from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=str(path), fix="correct the file") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError("has no `key: value` pairs", where=str(path), fix="see jobs/configs for examples")
    return loaded


def to_yaml(values: Mapping[str, Any]) -> str:
    """The values as YAML text, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def canonical(value: Any) -> str:
    """JSON with sorted keys and without blanks, so that equal settings give equal text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return _ENCODER.encode(value)


def short_key(value: Any) -> str:
    """The first 12 hexadecimal characters of the SHA-256 of the canonical JSON.

    An iterator, also in a list, counts as a list; BATCH of its values are in memory at a time.
    """
    digest = hashlib.sha256()
    for piece in _canonical_pieces(value):
        digest.update(piece.encode())
    return digest.hexdigest()[:12]


def _canonical_pieces(value: Any) -> Iterator[str]:
    if not isinstance(value, list | Iterator):
        yield canonical(value)
        return
    rest, separator = iter(value), "["
    while batch := list(islice(rest, BATCH)):
        if _is_plain(batch):
            yield separator + canonical(batch)[1:-1]
        else:
            for place, each in enumerate(batch):
                yield "," if place else separator
                yield from _canonical_pieces(each)
        separator = ","
    yield "[]" if separator == "[" else "]"


def _is_plain(values: list[Any]) -> bool:
    """Whether the encoder knows all values, and those of lists among them: then it encodes them at once, 10 times as
    fast as one by one.
    """
    lists = [each for each in values if type(each) is list]
    kinds = {each for each in map(type, values) if each is not list}
    return kinds.union(map(type, chain.from_iterable(lists))) <= _PLAIN


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists become JSON text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat


def describe_validation(error: ValidationError, where: str) -> UserError:
    """A UserError that lists all errors of pydantic, each with its key."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(piece) for piece in problem["loc"]) or "(all)"
        lines.append(f"{key}: {explain_problem(problem)}")
    return UserError("; ".join(lines), where=where, fix="`ufgvc <command> --help` lists the settings with their types")


def explain_problem(problem: ErrorDetails) -> str:
    """What one error of pydantic asks for: "must be greater than or equal to 1"; the words of our own checks as they
    are.
    """
    if problem["type"] == "extra_forbidden":
        return "is not a known setting"
    words = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return words.replace("Input should be", "must be").replace(" should ", " must ")
