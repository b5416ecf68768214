"""Unit tests use no Ray, for a head of its own takes each pytest process half a minute and runs until it ends; and
they draw the same initial weights once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.known_draws import copy_known_draws


@pytest.fixture(scope="package", autouse=True)
def _without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.auto_init_hook.enable_auto_connect", False)  # else the first use starts a head
        yield


@pytest.fixture(scope="package", autouse=True)
def _same_weights_are_drawn_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        copy_known_draws(patch)
        yield
