"""A step of the pipeline as a command runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Step(Generic[Result]):
    """A finished step.  summary: a line or more for the user.  result: what later steps need.

    found: the result was there already, from an earlier run with the same settings.
    """

    summary: str
    result: Result
    found: bool = False
