"""The device of the tests in this folder, and what they share: one Ray session and one small data set.

They need a CUDA device. With UFGVC_GPU_TESTS=cpu the same code runs on the CPU, which proves nothing of a GPU but that
the tests work. Nothing here, and nothing that these tests run, needs MLflow, Optuna, ultralytics, boto3 or moto: a host
with a GPU may lack them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ON_CPU = os.environ.get("UFGVC_GPU_TESTS") == "cpu"


# Up to a minute each: every process begins with at most one of these (xdist gives each the next two tests).
LONG = ("test_a_killed_worker_is_replaced", "test_a_compiled_training", "test_a_compiled_net")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if all(item.path.is_relative_to(HERE) for item in items):
        long = [item for item in items if item.name.startswith(LONG)]
        short = [item for item in items if item not in long]
        pairs = zip(long, short, strict=False)
        items[:] = [*itertools.chain.from_iterable(pairs), *short[len(long) :], *long[len(short) :]]
    skip = pytest.mark.skip(reason="there is no CUDA device here (UFGVC_GPU_TESTS=cpu runs these tests on the CPU)")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(300 if ON_CPU else 120))
            if not ON_CPU and not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run."""
    return torch.device("cpu") if ON_CPU else torch.device("cuda", 0)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what means nothing elsewhere."""
    if device.type != "cuda":
        pytest.skip("means something on a CUDA device only")
    return device


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Products of float32 numbers with all their bits; a GPU may else round the factors to 10 (TF32)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch has another name for these switches
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        yield
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def same_sums() -> Iterator[None]:
    """cuDNN takes the same algorithms each time; a training switches its search for the fastest on, and this switches
    it off again.
    """
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One Ray session for all tests."""
    from ufgvc.runtime.session import RaySettings, ray_session

    with ray_session(RaySettings(cpus=6, object_store_mb=300)):
        yield


@pytest.fixture(scope="session")
def leaves(tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> str:
    """An ingested set of 3 cultivars, 12 training and 6 test leaves of 96 px, with exact masks. Its URI."""
    from ufgvc.data.dataset import open_dataset
    from ufgvc.data.ingest import ingest
    from ufgvc.regions.exact_masks import exact_masks
    from ufgvc.synthetic import SynthSettings, synthesize

    folder = tmp_path_factory.mktemp("leaves")
    settings = SynthSettings(preset="cotton80", cultivars=3, train_per_cultivar=4, test_per_cultivar=2, size=96)
    source = synthesize(folder / "source", settings)
    data = str(folder / "data")
    shutil.rmtree(source / "labels")  # boxes are read by a package that a host with a GPU may lack
    ingest(str(source), data, name="leaves")
    exact_masks(open_dataset(data), str(source))
    return data
