"""An epoch on the device: the same leaves from either cache, without a wait in between, and an end that tells of too
little memory.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.gpu.parts import PROBES, TRAINED, make_worker, small
from ufgvc.core.errors import UserError
from ufgvc.data.augment import eval_view
from ufgvc.data.cache import load_decoded_split
from ufgvc.data.dataset import open_dataset, read_index
from ufgvc.evaluation.score import score_split
from ufgvc.evaluation.settings import ScoreSettings
from ufgvc.models.model import LoadedModel
from ufgvc.training.data_wait import DataWait
from ufgvc.training.ddp import Ranks
from ufgvc.training.optim import train_mode
from ufgvc.training.sources import make_loader
from ufgvc.training.steps import train_step
from ufgvc.training.worker import Worker

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("same_sums")]
WAITS: dict[str, str] = {}  # a method whose steps wait for the GPU: why it cannot do without


def test_both_caches_give_the_same_batches_to_the_bit(leaves: str, tmp_path: Path, device: torch.device) -> None:
    host, resident = (
        make_worker(leaves, tmp_path, "mask_guided", device, cache).loader for cache in ("host", "device")
    )
    assert resident.resident
    assert not host.resident
    for epoch in (0, 1):
        for step, (one, other) in enumerate(zip(host.training(epoch), resident.training(epoch), strict=True)):
            place = f"epoch {epoch}, step {step}"
            assert one.images.device.type == other.images.device.type == device.type
            assert torch.equal(one.images, other.images), (
                f"{place}: {(one.images != other.images).sum()} numbers differ"
            )
            assert torch.equal(one.labels, other.labels), place
            assert torch.equal(one.uniforms, other.uniforms), place
            assert set(one.masks) == set(other.masks) == {"vein", "contour"}
            for region in one.masks:
                assert torch.equal(one.masks[region], other.masks[region]), f"{place}, {region}"
                assert torch.equal(one.has_mask[region], other.has_mask[region]), f"{place}, {region}"
        assert step == 2


def test_both_caches_end_an_epoch_alike(leaves: str, tmp_path: Path, device: torch.device) -> None:
    rows = []
    for cache in ("host", "device"):
        worker = make_worker(
            leaves, tmp_path / cache, "mask_guided", device, cache, validation="test", learning_rate=1e-3
        )
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        rows.append(worker.step())
    for name in ("loss", "loss_vein", "loss_contour", "train_accuracy", "validation_loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-3), name


@contextlib.contextmanager
def waiting(device: torch.device, mode: Literal["warn", "error"]) -> Iterator[None]:
    """Within it torch tells of each wait for the GPU, or refuses it; on the CPU there is none."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this switch is a prototype
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def num_batches(worker: Worker, epoch: int) -> None:
    """The steps of an epoch as `Worker` makes them, without what it tells at the end."""
    for batch in worker.loader.training(epoch):
        train_step(worker.method, worker.model, batch, worker.optimizer, worker.precision)


@pytest.mark.parametrize("name", TRAINED)
def test_no_step_waits_for_the_gpu(name: str, leaves: str, tmp_path: Path, device: torch.device) -> None:
    """The first epoch may: it loads kernels. A wait is a RuntimeError whose traceback shows the line."""
    if name in WAITS:
        pytest.skip(WAITS[name])
    worker = make_worker(leaves, tmp_path, name, device)
    train_mode(worker.method, worker.model, worker.recipe.stages[0])
    num_batches(worker, 0)
    with waiting(device, "error"):
        num_batches(worker, 1)


def test_no_step_of_the_modern_recipe_waits_for_the_gpu(leaves: str, tmp_path: Path, device: torch.device) -> None:
    """Jitter and CutMix on the device, AdamW with a learning rate a layer, averaged weights."""
    worker = make_worker(leaves, tmp_path, "mask_guided", device, recipe="modern")
    average = worker.average
    assert average is not None
    train_mode(worker.method, worker.model, worker.recipe.stages[0])

    def steps(epoch: int) -> None:
        for batch in worker.loader.training(epoch):
            train_step(worker.method, worker.model, batch, worker.optimizer, worker.precision)
            average.update(worker.method.net)

    steps(0)
    with waiting(device, "error"):
        steps(1)


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_fitted_on_both_devices(name: str, leaves: str, tmp_path: Path, device: torch.device) -> None:
    """The same answers on the test leaves. Not the same weights: of twelve leaves some columns hardly vary, and
    standardising them enlarges the last bits in which the devices differ. On images of noise it does so with the logits
    as well: on the CPU alone they differ by 1e6 if the weights of the backbone move by 1e-6 of themselves.
    """
    rows, found = [], []
    for place in (torch.device("cpu"), device):
        folder = tmp_path / f"{name}-{place.type}"
        worker = make_worker(leaves, folder, name, place, "host", precision="fp32", epochs=None, batch_size=None)
        rows.append(worker.step())
        test = load_decoded_split(open_dataset(leaves), "test", worker.recipe.resize, None, None, folder / "test")
        net, images = worker.method.net.eval(), eval_view(torch.from_numpy(test.images.copy()), worker.recipe.crop)
        with torch.inference_mode():
            found.append(net(images.to(place))["logits"].softmax(dim=1).cpu())
    assert rows[0]["strength"] == rows[1]["strength"]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-2)
    gap = float((found[1] - found[0]).abs().max())
    assert gap < 3e-2, f"probabilities differ by up to {gap:.1e}"


def test_the_host_cache_does_not_wait_either(leaves: str, tmp_path: Path, device: torch.device) -> None:
    worker = make_worker(leaves, tmp_path, "mask_guided", device, "host")
    train_mode(worker.method, worker.model, worker.recipe.stages[0])
    num_batches(worker, 0)
    with waiting(device, "error"):
        num_batches(worker, 1)


def test_an_epoch_waits_once_to_tell_its_numbers(leaves: str, tmp_path: Path, device: torch.device) -> None:
    worker = make_worker(leaves, tmp_path, "mask_guided", device)
    worker.step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with waiting(device, "warn"):
            row = worker._train_epoch()
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    places = ", ".join(f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits)
    assert len(waits) <= 1, f"{len(waits)} waits: {places}"
    assert row["loss"] > 0


@contextlib.contextmanager
def no_more_memory(cuda: torch.device) -> Iterator[None]:
    """Within it this process gets no more memory of the GPU than torch holds already."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(cuda) / whole, cuda)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
        torch.cuda.empty_cache()


def test_a_batch_too_large_ends_in_one_message(leaves: str, tmp_path: Path, cuda: torch.device) -> None:
    worker = make_worker(leaves, tmp_path, "mask_guided", cuda, side=448)
    with no_more_memory(cuda), pytest.raises(UserError) as caught:
        worker.step()
    message = str(caught.value)
    for part in (
        "train.batch_size: a batch of 5 images of 448 px",
        "GiB",
        "--train.batch-size 2",
        "--train.crop",
        "--train.cache host",
    ):
        assert part in message, f"{part!r} is missing in: {message}"
    worker.step()  # with the memory back the same process goes on


def test_a_cache_too_large_ends_in_one_message(leaves: str, tmp_path: Path, cuda: torch.device) -> None:
    worker = make_worker(leaves, tmp_path, "mask_guided", cuda, "host", side=1024)
    plan, index = worker.config.with_train(cache="device"), read_index(open_dataset(leaves), "train")
    with no_more_memory(cuda), pytest.raises(UserError) as caught:
        make_loader(plan, worker.recipe, open_dataset(leaves), index, Ranks(0, 1, cuda))
    assert "train.cache: the cache of 0.0 GiB" in str(caught.value), str(caught.value)
    assert "--train.cache host" in str(caught.value), str(caught.value)


def test_too_many_leaves_at_once_end_in_one_message(leaves: str, cuda: torch.device) -> None:
    dataset = open_dataset(leaves)
    method = small("resnet50", len(dataset.classes))
    model = LoadedModel(method, dataset.classes, {"resize": 2048, "size": 2048}, {}).to(cuda)
    with no_more_memory(cuda), pytest.raises(UserError) as caught:
        score_split(dataset, {"model": model}, ScoreSettings(max_actors=0, device="gpu", batch_size=6))
    assert "--batch-size 3" in str(caught.value), str(caught.value)


def test_a_gpu_at_work_does_not_wait_for_data(cuda: torch.device) -> None:
    """Batches that come while the GPU works cost nothing; a slow loader's count."""
    work = torch.randn(4096, 4096, device=cuda)

    def watched(pause: float) -> tuple[float, float]:
        waited, started = DataWait(cuda), time.monotonic()
        for _ in waited.watch(_batches(4, pause)):
            for _ in range(20 if pause == 0 else 1):
                torch.mm(work, work)
        torch.cuda.synchronize(cuda)
        return waited.seconds, time.monotonic() - started

    watched(0.0)  # the first multiplication loads its kernel
    quick, whole = watched(0.0)
    assert quick < 0.2 * whole
    slow, _ = watched(0.1)
    assert slow > 0.8 * 4 * 0.1


def _batches(count: int, pause: float) -> Iterator[int]:
    for batch in range(count):
        time.sleep(pause)
        yield batch
