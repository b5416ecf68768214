"""What a command writes: text for a person, only its result, or its result as one JSON object for a script."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import IO, Any

from pydantic import BaseModel

QUIET, JSON = "--quiet", "--json"


@dataclass(frozen=True)
class Output:
    """quiet: only results and errors.  as_json: the result as one JSON object, and nothing else on standard output."""

    quiet: bool = False
    as_json: bool = False

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Output:
        """What the flags of a command line ask for."""
        return cls(QUIET in arguments, JSON in arguments)

    @contextlib.contextmanager
    def while_running(self) -> Iterator[None]:
        """Keeps from the terminal, within the block, what the flags leave out.

        quiet: log lines below errors, and warnings.  as_json: all that is written to standard output, by libraries and
        child processes too, goes to standard error; with quiet nowhere.
        """
        with contextlib.ExitStack() as stack:
            if self.quiet:
                stack.enter_context(_without_log())
            if self.as_json:
                stack.enter_context(_without_stdout(keep=not self.quiet))
            yield

    def show(self, result: Any) -> None:
        """Writes the result of a command, if it is wanted as JSON. The text for a person was written by the command."""
        if self.as_json:
            print(json.dumps(to_jsonable(result if result is not None else {}), ensure_ascii=False))


def is_quiet() -> bool:
    """Whether a command runs with --quiet: for what is written to the terminal without the log."""
    return logging.root.manager.disable >= logging.WARNING


def to_jsonable(value: Any) -> Any:
    """A result as JSON values: dataclasses and settings become objects, arrays and tuples lists, NaN and infinity null.

    An object with `to_json()` says itself what it is; one that is nothing of all that becomes its text.
    """
    if hasattr(value, "to_json"):
        return to_jsonable(value.to_json())
    if isinstance(value, BaseModel):
        return to_jsonable(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(each) for key, each in value.items()}
    if isinstance(value, Set):
        return sorted(to_jsonable(each) for each in value)
    if type(value).__module__ == "numpy":  # not imported here: a command that needs no numbers does without
        return to_jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [to_jsonable(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _without_stdout(keep: bool) -> Iterator[None]:
    """keep: what is written to standard output goes to standard error, else nowhere."""
    with contextlib.ExitStack() as stack:
        target: IO[str] = sys.stderr if keep else stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(_moved_descriptor(sys.stdout, target))
        stack.enter_context(contextlib.redirect_stdout(target))
        yield


@contextlib.contextmanager
def _moved_descriptor(stream: IO[str], target: IO[str]) -> Iterator[None]:
    """Lets the file number of `stream` mean that of `target`, for what child processes and libraries in C write."""
    numbers = _file_number(stream), _file_number(target)
    if numbers[0] is None or numbers[1] is None:
        yield
        return
    stream.flush()
    saved = os.dup(numbers[0])
    os.dup2(numbers[1], numbers[0])
    try:
        yield
    finally:
        os.dup2(saved, numbers[0])
        os.close(saved)


def _file_number(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # not a file: an object of a test or a notebook
        return None
