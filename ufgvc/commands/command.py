"""What a command is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ufgvc.core.config import Settings
from ufgvc.core.registry import Registry

Run = Callable[[Any], int | None]


@dataclass(frozen=True)
class Command:
    """settings: the class of what it can be told, for a method.  run: does it, prints the result, and returns the exit code (None: 0)."""

    summary: str
    settings: Callable[[str], type[Settings]]
    run: Run

    def description(self) -> str:
        return self.summary[0].upper() + self.summary[1:] + "."


COMMANDS: Registry[Command] = Registry("command")


def command(name: str, summary: str, settings: Callable[[str], type[Settings]]) -> Callable[[Run], Run]:
    def keep(run: Run) -> Run:
        COMMANDS.register(name)(Command(summary, settings, run))
        return run

    return keep
