"""A registry of named values, such as methods and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ufgvc.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named values.  kind: what they are, for messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers an object under `name`. ValueError if the name is taken."""

        def add(value: T) -> T:
            if name in self._known:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._known[name] = value
            return value

        return add

    def get(self, name: str) -> T:
        """The value of that name. UserError with the known names if there is none."""
        try:
            return self._known[name]
        except KeyError:
            known = ", ".join(self._known)
            raise UserError(f"there is no {self.kind} named {name!r}", fix=f"choose one of: {known}") from None

    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration."""
        return tuple(self._known)
