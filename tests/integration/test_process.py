"""What our parts do to the process that they run in. Each test has a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SESSIONS = """
import os
from ufgvc.runtime.session import RaySettings, ray_session
for _ in range(2):
    with ray_session(RaySettings(cpus=1, object_store_mb=100)):
        import ray
        print(ray.get(ray.remote(lambda: 7).remote()))
assert not [name for name in os.listdir("/tmp") if name.startswith(f"ufgvc-ray-{os.getpid()}-")]
"""

PATCHES = """
import torch
from PIL import Image
before = Image.open, torch.save
from ufgvc.regions.yolo import build_net
build_net("yolov5n", 2)
assert (Image.open, torch.save) == before
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_two_sessions_of_ray_one_after_the_other_leave_nothing() -> None:
    done = run(SESSIONS)
    assert done.stdout.split() == ["7", "7"]
    assert "RAY_BACKEND_LOG_LEVEL" not in done.stderr, "Ray says at each start that it has read its log level"


def test_the_detector_leaves_other_libraries_as_they_were() -> None:
    run(PATCHES)
