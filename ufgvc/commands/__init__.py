"""The commands as data: what each can be told, and which part of the program does it. `cli` makes flags of it."""

from ufgvc.commands import bench, data, models, registry, studies  # noqa: F401  (each registers its commands)
from ufgvc.commands.command import COMMANDS, Command

__all__ = ["COMMANDS", "Command"]
