"""A good source of photographs, which each test of bad inputs spoils, and `ingest` without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import image_folder
from ufgvc.data import ingest as module


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process."""
    monkeypatch.setattr(module, "_pack", lambda packer, jobs, ray: [packer(job) for job in jobs])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two photographs of two cultivars in each split."""
    return image_folder(tmp_path / "source")
