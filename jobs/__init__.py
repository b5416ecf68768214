"""Entry points for `ray job submit`, one a command. They are run from the repository's root and not installed."""

import sys

from ufgvc.cli import main


def start(command: str) -> None:
    """Runs `ufgvc COMMAND` with the flags of this process and exits with its code."""
    raise SystemExit(main([command, *sys.argv[1:]]))
