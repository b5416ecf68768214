"""Times the start of a training, evaluate and predict."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ufgvc.bench.dataset import MASKS, BenchData
from ufgvc.bench.steps import StepCase
from ufgvc.bench.timing import Measurement, Spread, time_in_turn
from ufgvc.data.images import decode
from ufgvc.runtime.resources import Device
from ufgvc.training.loader import EVAL_BATCH

if TYPE_CHECKING:
    from ufgvc.models.model import LoadedModel

EPOCHS = 1
TIMEOUT = 900.0  # seconds that a command may take


def start_command(*arguments: str, cores: int | None = None) -> subprocess.Popen[str]:
    """Starts `ufgvc ...` as a process with its own Ray session; stderr goes to stdout.

    cores: that it and its processes may use; None: those of this process.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "ufgvc", *arguments]
    with _only_cores(cores):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@contextlib.contextmanager
def _only_cores(count: int | None) -> Iterator[None]:
    """What this thread starts may use the first `count` of its cores."""
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def finish_command(process: subprocess.Popen[str], *arguments: str) -> None:
    """Waits for the process. RuntimeError with its last lines if it fails; it is killed after TIMEOUT seconds."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"`ufgvc {' '.join(arguments)}` ended with {process.returncode}:\n{output[-2000:]}")


def train_command(
    data: str, runs: str, case: StepCase, epochs: int, gpu: bool, extra: tuple[str, ...] = ()
) -> list[str]:
    """The flags of a short training of a bench case."""
    flags = ["train", "--data", data, "--runs", runs, "--method", case.method, "--tracking.uri", "off"]
    flags += [
        "--train.init",
        "none",
        "--train.crop",
        str(case.side),
        "--train.batch-size",
        str(case.batch),
        "--train.epochs",
        str(epochs),
    ]
    flags += ["--train.precision", case.precision, "--train.device", "gpu" if gpu else "cpu"]
    flags += ["--options.backbone", case.backbone] if case.backbone else []
    return [*flags, *extra]


def time_start(data: BenchData, case: StepCase, runs: str, gpu: bool) -> tuple[list[Measurement], str]:
    """Seconds of each phase of one `ufgvc train` up to the first step, and the run's folder."""
    command = train_command(data.dataset.store.uri, runs, case, EPOCHS, gpu, ("--mask-kind", MASKS))
    finish_command(start_command(*command), *command)
    (found,) = Path(runs, data.dataset.name, case.method).glob("*/startup.json")
    phases = json.loads(found.read_text())["seconds"]
    rows = [Measurement(f"to the first step: {name}", _once(seconds), "s") for name, seconds in phases.items()]
    rows.append(Measurement("from the command to the first step", _once(sum(phases.values())), "s"))
    return rows, str(found.parent)


def _once(value: float) -> Spread:
    return Spread(value, value, value)


def time_use(data: BenchData, run: str, device: torch.device, rounds: int, seed: int) -> list[Measurement]:
    """Scoring as in `evaluate`, and `predict`, compared with the bare network on resident batches."""
    from ufgvc.evaluation.predict import predict
    from ufgvc.evaluation.score import score_split
    from ufgvc.evaluation.settings import PredictSettings, ScoreSettings
    from ufgvc.models.model import load_model
    from ufgvc.tracking.context import Context
    from ufgvc.tracking.settings import TrackingSettings

    off = Context(str(Path(run).parent), TrackingSettings(uri="off"))
    on: Device = "gpu" if device.type == "cuda" else "cpu"
    model = load_model(str(Path(run) / "model"), off).to(device)
    views = _resident_views(data, model)
    count = data.dataset.counts["train"]
    folder = Path(run).parent / "predicted"
    settings = PredictSettings(device=on)
    source = data.source / "images"

    def bare() -> None:
        with torch.inference_mode():
            for view in views:
                model.method.predict(view)

    baseline = "the bare network, resident batches"
    calls: dict[str, Callable[[], object]] = {
        baseline: bare,
        "evaluate: reading and scoring, one process": lambda: score_split(
            data.dataset, {"model": model}, ScoreSettings(device=on, max_actors=0), split="train"
        ),
    }
    timed = time_in_turn(calls, rounds, device=device, budget=10, seed=seed)
    rows = [timed.rate(name, "photographs/s", count, baseline=None if name == baseline else baseline) for name in calls]
    photographs = len(list(source.iterdir()))
    once = time_in_turn(
        {"predict": lambda: predict(str(source), str(Path(run) / "model"), str(folder), settings, off)},
        rounds=1,
        warm_up=False,
    )
    measured = once.rate("predict", "photographs/s", photographs)
    ratio = _once(measured.value.median / rows[0].value.median)
    return [
        *rows,
        Measurement(
            f"predict, its start included, {photographs} photographs", measured.value, "photographs/s", baseline, ratio
        ),
    ]


def _resident_views(data: BenchData, model: LoadedModel) -> list[torch.Tensor]:
    images = [decode(image) for image in data.encoded]
    squares = np.stack([model.resize(image) for image in images])
    return [model.view(list(squares[start : start + EVAL_BATCH])) for start in range(0, len(squares), EVAL_BATCH)]
