"""A step that waits for GPUs which the cluster may still add.

None are added here; with an autoscaler it was tried by hand.
"""

from __future__ import annotations

import pytest

from ufgvc.core.errors import UserError
from ufgvc.runtime.resources import wait_for_gpus
from ufgvc.runtime.session import RaySettings, ray_session


def test_gpus_that_never_come_are_an_error_and_no_request_is_left(ray_local: None) -> None:
    import ray
    from ray.util import placement_group_table

    with pytest.raises(UserError, match="0 of 1 GPUs after 1 s"):
        wait_for_gpus(1, seconds=1)
    assert ray.is_initialized()
    # Other tests have groups of CPUs on this head.
    asked = [one for one in placement_group_table().values() if any("GPU" in each for each in one["bundles"].values())]
    assert asked
    assert all(group["state"] == "REMOVED" for group in asked)


def test_a_local_session_does_not_wait_because_it_cannot_grow(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(gpus: int, seconds: float) -> None:
        raise AssertionError("waits")

    monkeypatch.setattr("ufgvc.runtime.session.wait_for_gpus", wait)
    monkeypatch.setattr("ufgvc.runtime.session._is_local", True)
    with ray_session(RaySettings(), gpus=1):
        pass
    monkeypatch.setattr("ufgvc.runtime.session._is_local", False)
    with pytest.raises(AssertionError, match="waits"), ray_session(RaySettings(), gpus=1):
        pass
