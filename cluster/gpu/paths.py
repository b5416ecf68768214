"""Paths of a GPU call, its JSON files, and the error that is shown without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu"  # ignored by git
WHEELS, DATA, SITE, WORK = FOLDER / "wheels", FOLDER / "data", FOLDER / "site", FOLDER / "work"
WEIGHTS = "lite0.safetensors"  # in DATA: ImageNet weights of timm's tf_efficientnet_lite0
MANIFEST, COMMIT = "manifest.json", "commit"
LIMIT = 60 << 20  # bytes that may travel in one call in addition to the repository


class GpuCallError(Exception):
    """An error that the user can fix: shown as one message, without a traceback."""


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or incomplete."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Replaces the file atomically: a call may be cut off at any moment, and what is in its folder then is what comes
    back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" if files differ from it; None without git or a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def packed_commit() -> str | None:
    """The commit that `gpu-pack` recorded last, for hosts to which the repository travels without its history."""
    found = [path for folder in (DATA, WHEELS) if (path := folder / COMMIT).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime).read_text().strip() if found else None
