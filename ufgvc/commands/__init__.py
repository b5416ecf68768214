"""The commands: one module each, with the class of its settings and the function that runs it."""

from ufgvc.commands.command import COMMANDS, Command

__all__ = ["COMMANDS", "Command"]
