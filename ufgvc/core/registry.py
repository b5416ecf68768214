"""Names for things that can be chosen in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ufgvc.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A closed set of named values: a name is registered once, an unknown name lists the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under `name`; ValueError if the name is taken."""

        def keep(value: T) -> T:
            if name in self._known:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._known[name] = value
            return value

        return keep

    def get(self, name: str) -> T:
        try:
            return self._known[name]
        except KeyError:
            known = ", ".join(self._known)
            raise UserError(f"there is no {self.kind} named {name!r}", fix=f"choose one of: {known}") from None

    def names(self) -> tuple[str, ...]:
        return tuple(self._known)
