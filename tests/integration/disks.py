"""Small, full and read-only disks of their own for a test, as an ordinary user may have them (a mount namespace)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_SCRIPT = """
set -e
mount -t tmpfs -o size=$SIZE,mode=777 none "$DISK"
[ -z "$BEFORE" ] || cp -a "$BEFORE"/. "$DISK"
(cd "$DISK"; find . -type f -print0 | sort -z | xargs -0 -r sha256sum) > "$SUMS"
set +e
"$@"
code=$?
cd "$DISK"
[ ! -s "$SUMS" ] || sha256sum -c --quiet "$SUMS" || echo "LOST what was there before"
find . -name '*.ufgvc-tmp-*' -printf 'LEFT %p\\n'
exit $code
"""


def on_small_disk(
    command: list[str],
    folder: Path,
    size: str = "1m",
    before: Path | None = None,
) -> tuple[int, str]:
    """Runs a command while <folder>/disk is a disk of its own; its exit code and output, with LOST and LEFT lines if
    files changed.

    before: a folder whose files the disk holds.
    """
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    if subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    own = {"DISK": str(disk), "SUMS": str(folder / "sums"), "SIZE": size, "BEFORE": str(before or "")}
    done = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", _SCRIPT, "bash", *command],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout
