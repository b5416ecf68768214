"""The call on a GPU host, made on this machine from a copy of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def processes(words: str) -> list[int]:
    """Processes whose command line holds these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words in line:
                found.append(int(entry.name))
    return found


def call(
    project: Path, tmp_path: Path, *flags: str, python: str = sys.executable, within: float = 120
) -> tuple[int, str, Path]:
    """(exit code, what was said, folder of results) of the runner, with a home and a temporary folder that must be
    empty at the end.
    """
    home, temporary, out = tmp_path / "home", tmp_path / "t", tmp_path / "out"
    for folder in (home, temporary, out):
        folder.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"OUT": str(out), "HOME": str(home), "TMPDIR": str(temporary)}
    before = files(project)
    done = subprocess.run(
        [python, "-m", "cluster.gpu.run", *flags],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )
    assert files(project) == before
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert processes(str(project)) == []
    return done.returncode, done.stdout + done.stderr, out


def files(project: Path) -> set[str]:
    """All that lies in the project, but for .gpu, and the compiled modules of the runner itself."""
    found = {path.relative_to(project) for path in project.rglob("*")}
    return {str(path) for path in found if path.parts[0] != ".gpu" and "__pycache__" not in path.parts}
