"""A job that waits for GPUs. That an autoscaler brings them was tried by hand (cluster/README.md); here, what must hold where none come."""

from __future__ import annotations

import pytest

from ufgvc.core.errors import UserError
from ufgvc.runtime.session import RaySettings, ray_session


def test_gpus_that_never_come_are_a_mistake_and_no_wish_is_left(ray_local: None) -> None:
    import ray
    from ray.util import placement_group_table

    with pytest.raises(UserError, match="0 of 1 GPUs after 1 s"):
        with ray_session(RaySettings(gpus=1, patience=1)):
            raise AssertionError("let in")
    assert ray.is_initialized()
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())


def test_nobody_waits_who_asks_for_none(ray_local: None) -> None:
    with ray_session(RaySettings(patience=1)):
        pass
