"""What our parts do to the process that they run in. Each test has a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SESSIONS = """
import os
from ufgvc.runtime.session import RaySettings, in_ray_session, keep_ray_session, ray_session

def answer():
    with ray_session(RaySettings(cpus=1, object_store_mb=100)):
        import ray
        print(ray.get(ray.remote(lambda: 7).remote()), ray.get_runtime_context().get_node_id())

answer()
assert not in_ray_session()
with keep_ray_session():
    assert not in_ray_session()
    answer()
    assert in_ray_session()
    answer()
assert not in_ray_session()
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
def test_sessions_of_ray_one_after_the_other_leave_nothing() -> None:
    done = run(SESSIONS)
    answers, nodes = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert answers == ("7", "7", "7")
    assert nodes[0] != nodes[1] == nodes[2], "a session that is kept is used again"
    assert "RAY_BACKEND_LOG_LEVEL" not in done.stderr, "Ray says at each start that it has read its log level"


def test_the_detector_leaves_other_libraries_as_they_were() -> None:
    run(PATCHES)
