"""What tyro cannot read (a missing flag, an unknown one, a value of another type) as the program's one message.

tyro prints a box and exits; its public functions offer nothing else. Its hook for that is in a private module, which
any version may change: without it, or for an error that is not as known here, the box stays.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ufgvc.core.errors import UserError

MAX_VALUE = 80  # characters of a value in a message
TYPES = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text"}  # tyro's names


@contextlib.contextmanager
def unread_flags_refused(arguments: Sequence[str], flags: Mapping[str, str], program: str) -> Iterator[None]:
    """UserError in place of tyro's box, within the block.

    arguments: as typed.  flags: every flag of the command, and its description.  program: for the message.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return

    def refuse(event: Any) -> None:
        try:
            text = _describe(type(event).__name__, event, arguments, flags)
        except (AttributeError, TypeError, IndexError):  # another version's
            return
        if text:
            raise UserError(text, fix=f"see `{program} --help`")

    with on_parse_error(refuse):
        yield


def show_value(values: Iterable[Any]) -> str:
    """Values as they are typed, cut off where they are long."""
    text = " ".join(shlex.quote(str(value)) for value in values)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "..."


def _describe(kind: str, event: Any, arguments: Sequence[str], flags: Mapping[str, str]) -> str:
    """`--train.epochs abc: must be a whole number or None`; nothing for an error that is not known."""
    if kind == "MissingArgs":
        names = [each.arg.lowered.name_or_flags[0] for each in event.missing_arguments]
        missing = [f"{name} is missing: {flags[name]}" if flags.get(name) else f"{name} is missing" for name in names]
        return "; ".join([*missing, *_unknown(event.unrecognized_tokens, flags)])
    if kind == "UnrecognizedArgs":
        return "; ".join(_unknown(event.tokens, flags))
    argument = getattr(event, "argument", None)
    if argument is None:
        return ""
    name, metavar = argument.lowered.name_or_flags[0], argument.lowered.metavar or ""
    if kind == "InvalidChoice":
        return f"{name} {show_value([event.value])}: must be one of {', '.join(event.choices)}"
    if kind == "BadValue" and event.reason == "too_few_values":
        return f"{name} needs a value: {flags.get(name, '') if 'STR' in metavar else _allowed(metavar)}"
    if kind == "InstantiationFailure":
        return f"{name} {show_value(_typed(name, arguments))}: must be {_allowed(metavar)}"
    return ""


def _unknown(tokens: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """A text for each flag that does not exist, with one that is alike; for values without a flag one text."""
    found = []
    for token in (token.split("=")[0] for token in tokens if token.startswith("--")):
        name = token.replace("_", "-")
        last = name.lstrip("-").split(".")[-1]
        near = [flag for flag in flags if flag.lstrip("-").split(".")[-1] == last]
        near = near or difflib.get_close_matches(name, flags, n=1, cutoff=0.75)
        found.append(f"{token}: there is no such flag" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    return found or ([f"{show_value(tokens)}: belongs to no flag"] if tokens else [])


def _typed(name: str, arguments: Sequence[str]) -> list[str]:
    """The values of a flag among the arguments, `--name a b` or `--name=a`. The last use of a flag counts."""
    for place, argument in reversed(list(enumerate(arguments))):
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == name:
            rest = [value] if equals else list(arguments[place + 1 :])
            end = next((k for k, word in enumerate(rest) if word.startswith("--")), len(rest))
            return rest[:end]
    return []


def _allowed(metavar: str) -> str:
    """`{None}|INT` as `a whole number or None`."""
    parts = metavar.split("|")
    several = any(part.startswith("[") for part in parts)
    names = [TYPES.get(word, word) for part in parts if "None" not in part for word in [part.strip("[]").split(" ")[0]]]
    text = " or ".join(dict.fromkeys([*names, *(["None"] if len(names) < len(parts) else [])]))
    return f"{text} (one or several)" if several else text
