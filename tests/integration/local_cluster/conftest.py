"""What jobs are submitted from: a copy of the repository, and a home folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.submission import copy_of_the_repository


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_repository(tmp_path_factory.mktemp("clone") / "ufgvc")
