"""`python3 -m cluster.gpu.pack`: fills .gpu/ with what the GPU host lacks; a second call adds only what is missing.

.gpu/wheels   packages, for the first call (tests and speeds)
.gpu/data     data sets and initial weights, for the second call (trainings)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster.gpu import datasets, wheels
from cluster.gpu.paths import COMMIT, DATA, LIMIT, ROOT, WHEELS, GpuCallError, git_commit, size_of


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 with one message if something is missing or too large."""
    parser = argparse.ArgumentParser(
        prog="python3 -m cluster.gpu.pack", description="fill .gpu/ for a GPU host without a network"
    )
    parser.add_argument("what", nargs="*", choices=[[], "wheels", "data"], help="default: both")
    parser.add_argument(
        "--product", type=Path, default=ROOT / ".venv" / "bin" / "python", help="Python with the project installed"
    )
    flags = parser.parse_args(arguments)
    try:
        for name in flags.what or ("wheels", "data"):
            folder, lines = pack(name, flags.product)
            for line in (*lines, describe_size(folder)):
                print(line)
    except GpuCallError as error:
        print(f"gpu-pack: {error}", file=sys.stderr)
        return 1
    return 0


def pack(name: str, product: Path) -> tuple[Path, list[str]]:
    """Fills one folder. Returns it with a line for each thing that was done."""
    if name == "wheels":
        folder, lines = WHEELS, ["wheels: fetched"] if wheels.fill(WHEELS) else []
    else:
        folder, lines = DATA, datasets.fill(DATA, product)
    # Written every time: the wheels may be older than the code.
    (folder / COMMIT).write_text(f"{git_commit() or 'unknown'}\n")
    return folder, lines


def describe_size(folder: Path, limit: int = LIMIT) -> str:
    """The folder's size as text; GpuCallError if it is too large for one call."""
    size = size_of(folder)
    if size > limit:
        largest = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)[
            :3
        ]
        names = ", ".join(f"{path.relative_to(folder)} {path.stat().st_size / 2**20:.1f} MiB" for path in largest)
        too_large = f"{size / 2**20:.1f} MiB, more than the {limit / 2**20:.0f} MiB that fit into one call"
        raise GpuCallError(f"{folder} holds {too_large}; largest: {names}")
    return f"{folder.relative_to(folder.parents[1])}: {size / 2**20:.1f} MiB of at most {limit / 2**20:.0f}"


if __name__ == "__main__":
    sys.exit(main())
