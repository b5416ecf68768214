"""Temporary folders of checkpoints: those that a killed process left are deleted, and no others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ufgvc.training.checkpoint import TEMPORARY, make_checkpoint_folder


def test_what_a_killed_process_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = socket.gethostname()
    left = tmp_path / f"{TEMPORARY}{here}-{ended.pid}-a"
    others = [f"{here}-{os.getpid()}-a", f"{here}-{os.getppid()}-a", f"another-machine-{ended.pid}-a", "from-before"]
    kept = {tmp_path / f"{TEMPORARY}{name}" for name in others}
    for folder in (left, *kept):
        folder.mkdir()
        (folder / "state.pt").write_bytes(b"state")
    made = make_checkpoint_folder()
    assert set(tmp_path.iterdir()) == kept | {made}
    assert not list(made.iterdir())
