"""Unit tests use no Ray: a head of its own takes each pytest process half a minute, and runs until it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.auto_init_hook.enable_auto_connect", False)  # else the first use starts a head
        yield
