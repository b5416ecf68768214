"""Time and memory of ingest, an epoch and predict at 1, 10 and 100 times the rows, each in its own process."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from scipy.optimize import brentq

from ufgvc.bench.startup import finish_command, start_command

FACTORS = (1, 10, 100)
SIDE = 96  # pixels of the photographs: small, so that 100 times the rows take minutes
CROP, BATCH, EPOCHS = 64, 16, 3
CLASSES = 4
SAMPLE_SECONDS = 0.3
STEPS = ("ingest", "an epoch", "predict")


@dataclass(frozen=True)
class StepGrowth:
    """One step at each size.

    rows: training and test images together, or those of an epoch.  seconds, memory: one for each size; memory is the
    peak of all processes, in bytes.  time_exponent, memory_exponent: k in fixed + c rows^k; None if it cannot be
    fitted.
    """

    step: str
    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    memory: tuple[float, ...]
    time_exponent: float | None
    memory_exponent: float | None


def measure_growth(folder: Path, rows: int, gpu: bool, seed: int) -> list[StepGrowth]:
    """Runs the steps at `rows` times each of FACTORS through the command line."""
    found: dict[str, list[tuple[int, float, float]]] = {step: [] for step in STEPS}
    for factor in FACTORS:
        for step, point in _measure_size(folder / str(factor), rows * factor, "gpu" if gpu else "cpu", seed).items():
            found[step].append(point)
    return [_fit_growth(step, points) for step, points in found.items()]


def _measure_size(folder: Path, rows: int, device: str, seed: int) -> dict[str, tuple[int, float, float]]:
    """{step: (rows, seconds, peak bytes)} for one number of rows."""
    source = write_photographs(folder / "leaves", rows, seed)
    data, runs, out = (str(folder / name) for name in ("data", "runs", "predictions"))
    seconds, memory = run_measured("ingest", "--source", str(source), "--data", data)
    found = {"ingest": (rows, seconds, memory)}
    off = ["--tracking.uri", "off"]
    training = ["--train.crop", CROP, "--train.resize", SIDE, "--train.batch-size", BATCH, "--train.epochs", EPOCHS]
    flags = ["--method", "resnet50", "--options.backbone", "shufflenet_v2_x0_5", "--train.init", "none"]
    flags += [*map(str, training), "--train.device", device, *off]
    _, memory = run_measured("train", "--data", data, "--runs", runs, *flags)
    (metrics,) = Path(runs).rglob("metrics.jsonl")
    epochs = [json.loads(line)["seconds"] for line in metrics.read_text().splitlines()]
    num_train = json.loads((Path(data) / "dataset.json").read_text())["counts"]["train"]
    found["an epoch"] = (num_train, float(np.median(epochs[1:])), memory)
    places = ["--source", str(source), "--model", str(metrics.parent / "model"), "--out", out, "--runs", runs]
    seconds, memory = run_measured("predict", *places, "--device", device, *off)
    found["predict"] = (rows, seconds, memory)
    return found


def _fit_growth(step: str, points: Sequence[tuple[int, float, float]]) -> StepGrowth:
    rows, seconds, memory = zip(*points, strict=True)
    return StepGrowth(step, rows, seconds, memory, exponent(rows, seconds), exponent(rows, memory))


def exponent(rows: Sequence[float], values: Sequence[float]) -> float | None:
    """k of fixed + c rows^k through three points; None if no such curve passes through them."""
    small, middle, large = values
    if not small < middle < large:
        return None
    wanted = (large - small) / (middle - small)

    def excess(k: float) -> float:
        first, second, third = (float(each) ** k for each in rows)
        return (third - first) / (second - first) - wanted

    low, high = 0.02, 4.0
    return None if excess(low) * excess(high) > 0 else float(brentq(excess, low, high))


def write_photographs(folder: Path, count: int, seed: int) -> Path:
    """<split>/<cultivar>/<k>.jpg, all different; three of four are training images."""
    random = np.random.default_rng(seed)
    for number in range(count):
        split = "test" if number // CLASSES % 4 == 3 else "train"
        place = folder / split / f"cultivar-{number % CLASSES + 1}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (place / f"{number}.jpg").write_bytes(buffer.getvalue())
    return folder


def run_measured(*arguments: str) -> tuple[float, float]:
    """(seconds, peak bytes of the process and its descendants) of one `ufgvc` command. RuntimeError if it fails."""
    started = time.monotonic()
    process = start_command(*arguments)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    finish_command(process, *arguments)
    seconds = time.monotonic() - started
    watcher.join()
    return seconds, peak[0]


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], process_tree_memory(process.pid))
        time.sleep(SAMPLE_SECONDS)


def process_tree_memory(pid: int) -> float:
    """Bytes of a process and its descendants; shared memory counts once (proportional set size) where the system
    reports it."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0.0
    for each in tree:
        try:
            about: Any = each.memory_full_info()
            total += getattr(about, "pss", about.uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
            continue
    return total


def plot_growth(grown: Sequence[StepGrowth]) -> bytes:
    """A PNG: seconds and peak memory over the rows, both axes logarithmic."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from ufgvc.reports.figures import ACCENT, INK, SECOND, STYLE

    with mpl.rc_context(STYLE | {"text.parse_math": True}):  # the powers of ten at the axes are formulae
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for one, colour in zip(grown, (ACCENT, SECOND, INK), strict=True):
            for axes, values, k in (
                (left, one.seconds, one.time_exponent),
                (right, [m / 1e9 for m in one.memory], one.memory_exponent),
            ):
                label = f"{one.step}: rows^{k:.2f}" if k is not None else f"{one.step}: no power of the rows"
                axes.plot(one.rows, values, marker="o", color=colour, label=label)
        for axes, title in ((left, "seconds"), (right, "peak memory, GB")):
            axes.set(xscale="log", yscale="log", title=title, xlabel="rows")
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()
