"""Times the loader: batches from the cache of decoded images, and training steps that it feeds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufgvc.bench.dataset import MASKS, BenchData
from ufgvc.bench.reading import PLAIN, SingleThreaded, plain_sample
from ufgvc.bench.steps import StepCase, options_of
from ufgvc.bench.timing import Measurement, Spread, Timed, time_in_turn
from ufgvc.data.cache import CachedSource, DecodedSplit, load_decoded_split
from ufgvc.data.dataset import read_index
from ufgvc.methods import build
from ufgvc.methods.mask_guided import attention_target
from ufgvc.methods.method import Batch
from ufgvc.methods.recipe import Recipe
from ufgvc.training.checkpoint import FILE
from ufgvc.training.data_wait import DataWait
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings, WorkerConfig
from ufgvc.training.sources import make_loader
from ufgvc.training.steps import train_step
from ufgvc.training.worker import Worker

RESIZE, CROP = 512, 448  # pixels, of the paper's recipes
CELLS = (14, 14)  # of the attention map of a stride-32 backbone at CROP
CACHED_BATCHES = (16, 64)


def worker_config(
    data: BenchData, case: StepCase, runs: str, cache: str, seed: int, resize: int | None = None
) -> WorkerConfig:
    """The configuration that `ufgvc train` would give to its worker."""
    settings = TrainSettings.model_validate(
        {
            "init": "none",
            "mask_kind": MASKS,
            "crop": case.side,
            "resize": resize or round(case.side * RESIZE / CROP),
            "batch_size": case.batch,
            "precision": case.precision,
            "compile": case.compile,
            "cuda_graphs": "on" if case.graphs else "off",
            "cache": cache,
            "checkpoint_seconds": 1e9,
        }
    )
    method = build(case.method, num_classes=len(data.dataset.classes), init="none", **options_of(case))
    return make_worker_config(data.dataset, method, settings, seed, data.mask_fingerprint, runs)[0]


def time_cached_batches(data: BenchData, runs: str, device: torch.device, rounds: int, seed: int) -> list[Measurement]:
    """Batches with crop, flip and masks from the cache, compared with copying its bytes, and with decoding.

    "bytes for the device": up to what goes to the device; else with numbers and attention targets on it.
    On a CPU single-threaded in process time (images a second and core), on a GPU in wall time, waiting for the device.
    """
    index = read_index(data.dataset, "train")
    unit = "images/s" if device.type == "cuda" else "images/s/core"
    rows: list[Measurement] = []
    for size in CACHED_BATCHES:
        case = StepCase("mask_guided", "shufflenet_v2_x0_5", CROP, size, "fp32")
        calls: dict[str, Callable[[], object]] = {}
        copy = f"copying the same bytes, batch {size}"
        for where in ("host", "device") if device.type == "cuda" else ("host",):
            plan = worker_config(data, case, runs, where, seed, resize=RESIZE)
            feed = _feed(plan, data, index, device)
            at = np.resize(np.random.default_rng(seed).permutation(feed.num_train), size).astype(np.int64)
            calls[f"ufgvc, {where} cache, batch {size}"] = partial(_one_batch, feed, at)
            if where == "host":
                calls[f"ufgvc, host cache, batch {size}: bytes for the device"] = partial(_bytes, feed, at)
        held = load_decoded_split(data.dataset, "train", RESIZE, MASKS, data.mask_fingerprint, Path(plan.cache_folder))
        calls[copy] = partial(_copy, held, at, device)
        if size == CACHED_BATCHES[0] and device.type == "cpu":
            photographs = cycle(zip(data.encoded, data.masks, strict=True))
            calls[PLAIN] = partial(_decode_plainly, list(islice(photographs, size)))
        timed = _time(calls, rounds, device, seed)
        rows += [timed.rate(each, unit, size) for each in (copy, PLAIN) if each in calls]
        for name in (each for each in calls if each not in (copy, PLAIN)):
            rows += [timed.rate(name, unit, size, baseline=each) for each in (copy, PLAIN) if each in calls]
    return rows + time_attention_targets(device, rounds, seed)


def _feed(plan: WorkerConfig, data: BenchData, index: Any, device: torch.device) -> BatchLoader:
    return make_loader(plan, Recipe.model_validate(plan.recipe), data.dataset, index, Ranks(0, 1, device))


def _time(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device, seed: int) -> Timed:
    if device.type == "cuda":
        return time_in_turn(calls, rounds * 4, device=device, budget=3, seed=seed)
    with SingleThreaded():
        return time_in_turn(calls, rounds, clock=time.process_time, budget=3, seed=seed)


def _one_batch(feed: BatchLoader, at: np.ndarray) -> list[Tensor]:
    source = feed.source
    assert isinstance(source, CachedSource)
    batch = feed.augment(source.gather(at), epoch=0)
    return [batch.images, *(target for mask in batch.masks.values() for target in attention_target(mask, CELLS))]


def _bytes(feed: BatchLoader, at: np.ndarray) -> object:
    source = feed.source
    assert isinstance(source, CachedSource)
    raw = source.gather(at)
    return feed.crop_on_host(raw, epoch=0)


def _decode_plainly(samples: Sequence[tuple[bytes, Sequence[bytes]]]) -> object:
    return [plain_sample(*each) for each in samples]


def _copy(held: DecodedSplit, at: np.ndarray, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(array[at]).to(device) for array in (held.images, *held.packed_masks.values())]


def time_attention_targets(device: torch.device, rounds: int, seed: int) -> list[Measurement]:
    """Microseconds an image for the attention targets of both masks, once the masks are cropped."""
    size = CACHED_BATCHES[0]
    masks = (torch.rand(size, 1, CROP, CROP, generator=torch.Generator().manual_seed(seed)) > 0.9).byte().to(device)
    timed = _time({"targets": lambda: [attention_target(masks, CELLS) for _ in range(2)]}, rounds, device, seed)
    measured = timed.time("targets", scale=1e6 / size)
    return [Measurement("attention targets of both masks", measured.value, "µs/image")]


def time_fed_steps(
    data: BenchData, case: StepCase, runs: str, device: torch.device, rounds: int, seed: int
) -> list[Measurement]:
    """Whole epochs of `ufgvc train`'s worker, compared with the same steps on batches that are on the device
    already."""
    folder = Path(runs) / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)

    def keep(written: Path | None, epoch: int) -> None:
        assert written is not None
        shutil.move(written / FILE, folder / FILE)
        written.rmdir()

    worker = Worker.start(worker_config(data, case, runs, "auto", seed), 0, 1, 1, device, None, keep)
    worker.model.train()
    resident = list(worker.loader.training(0))
    images = sum(len(batch.labels) for batch in resident)
    waits: list[float] = []

    def fed() -> None:
        started, waited = time.perf_counter(), DataWait(device)
        for batch in waited.watch(worker.loader.training(0)):
            _step(worker, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        waits.append(waited.seconds / (time.perf_counter() - started))

    def on_resident() -> None:
        for batch in resident:
            _step(worker, batch)

    outside: list[float] = []

    def whole_epoch() -> None:
        started = time.perf_counter()
        row = worker.step()
        outside.append(time.perf_counter() - started - images / row["images_per_second"])

    baseline = "the same batches, resident"
    calls: dict[str, Callable[[], object]] = {"fed by the loader": fed, baseline: on_resident, "whole": whole_epoch}
    timed = time_in_turn(calls, rounds, device=device, budget=15, seed=seed)
    measured = timed.rate("fed by the loader", "images/s", images, baseline=baseline)
    rows = [timed.rate(baseline, "images/s", images), measured]  # of the two lists, the first entries warmed up
    rows.append(Measurement("share of the time spent waiting for the loader", Spread.of(waits[1:]).scaled(100), "%"))
    rows.append(Measurement("an epoch outside of its steps", Spread.of(outside[1:]).scaled(1000), "ms"))
    return [*rows, *time_checkpoints(worker, folder, rounds, seed)]


def _step(worker: Worker, batch: Batch) -> None:
    train_step(worker.method, worker.model, batch, worker.optimizer, worker.precision, graphs=worker.graphs)


def time_checkpoints(worker: Worker, folder: Path, rounds: int, seed: int) -> list[Measurement]:
    """A checkpoint as the worker writes it, compared with writing as many bytes.  folder: where `keep` puts it."""
    worker.save()
    content = (folder / FILE).read_bytes()
    baseline = f"writing its {len(content) / 1e6:.0f} MB"
    calls: dict[str, Callable[[], object]] = {
        "a checkpoint": worker.save,
        baseline: lambda: (folder / "plain").write_bytes(content),
    }
    timed = time_in_turn(calls, rounds, budget=5, seed=seed)
    return [timed.time("a checkpoint", baseline=baseline), timed.time(baseline)]
