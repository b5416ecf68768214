"""Finding the processes of a test among those of other tests."""

from __future__ import annotations

from pathlib import Path

import psutil


def processes_reading(folder: Path, name: str) -> list[psutil.Process]:
    """Processes with this name in their command line that have a file below the folder mapped into their memory.

    All tests share one Ray, whose processes nothing else tells apart.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if name in " ".join(process.cmdline()) and any(
                Path(mapped.path).is_relative_to(folder) for mapped in process.memory_maps()
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
