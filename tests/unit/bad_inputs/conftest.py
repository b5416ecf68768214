"""A good source of photographs, which each test of bad inputs spoils."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import image_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two photographs of two cultivars in each split."""
    return image_folder(tmp_path / "source")
