"""Time and memory of the pipeline's steps at 1, 10 and 100 times the rows, each command in its own process."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import brentq

from ufgvc.bench.processes import TreeWatch
from ufgvc.bench.settings import GROWTH_STEPS as STEPS
from ufgvc.bench.startup import finish_command, start_command

log = logging.getLogger(__name__)
FACTORS = (1, 10, 100)
SIDE = 96  # pixels of the photographs: small, so that 100 times the rows take minutes
CROP, BATCH, EPOCHS = 64, 16, 1
CLASSES = 4
OFF = ("--tracking.uri", "off")
NEEDS = {"detect": "boxes", "mask": "boxes", "predict": "train"}
BOXES = "0 0.5 0.5 0.2 0.6\n1 0.5 0.5 0.7 0.7\n"


@dataclass(frozen=True)
class Cost:
    """One command.  seconds: from its start to its end.  cpu: CPU seconds of all its processes.  memory, own_memory:
    peak bytes of all of them, and of the first one alone."""

    seconds: float
    cpu: float
    memory: float
    own_memory: float


@dataclass(frozen=True)
class StepGrowth:
    """One step at each size, on a number of cores.

    rows: photographs, in `train` and `features` training images.  seconds, cpu, memory, own_memory: see `Cost`, one for
    each size.  cpu_exponent, memory_exponent: k in fixed + c rows^k; None if it cannot be fitted.
    """

    step: str
    cores: int
    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    memory: tuple[float, ...]
    own_memory: tuple[float, ...]
    cpu_exponent: float | None
    memory_exponent: float | None

    @property
    def growing_seconds(self) -> float:
        """Seconds that the largest size takes beyond the smallest: without what does not grow."""
        return self.seconds[-1] - self.seconds[0]


def measure_growth(
    folder: Path, rows: int, device: str, seed: int, cores: Sequence[int], chosen: Sequence[str], in_process: int
) -> list[StepGrowth]:
    """Runs the steps at `rows` times each of FACTORS through the command line.

    cores: of each series.  chosen: the steps; ingest and those that they need run too.  in_process: see `RaySettings`.
    """
    ray = ("--ray.in-process", str(in_process))
    wanted = {"ingest", *chosen, *(NEEDS[step] for step in chosen if step in NEEDS)}
    steps = [step for step in STEPS if step in wanted]
    found: dict[tuple[str, int], list[tuple[int, Cost]]] = {(step, used): [] for step in steps for used in cores}
    for factor in FACTORS:
        source = write_photographs(folder / str(factor), rows * factor, seed)
        for used in cores:
            for step in steps:
                count = num_train(rows * factor) if step in ("train", "features") else rows * factor
                flags = step_flags(step, source, folder / f"{factor}-{used}", count, device)
                cost = run_measured(*flags, *ray, cores=used)
                log.info("%s, %d rows, %d cores: %.1f s, %.1f CPU s", step, count, used, cost.seconds, cost.cpu)
                found[step, used].append((count, cost))
    return [_fit_growth(step, used, points) for (step, used), points in found.items()]


def step_flags(step: str, source: Path, work: Path, rows: int, device: str) -> list[str]:
    """The command of a step.  source: of `write_photographs`.  work: for its results."""
    data, runs, leaves = (["--data", str(work / "data")], ["--runs", str(work / "runs")], str(source / "leaves"))
    if step in ("ingest", "boxes"):
        boxes = ["--boxes", str(source / "boxes")] if step == "boxes" else []
        return ["ingest", "--source", leaves, *boxes, "--shard-mb", "1", *data]
    if step == "detect":
        quick = ["--epochs", "1", "--init", "none", "--image-size", str(CROP), "--num-annotated", str(rows // 2)]
        return ["detect", *data, *runs, *quick, "--device", device, *OFF]
    if step == "mask":
        return ["mask", *data, *runs, "--box-source", "annotated", *OFF]
    if step == "predict":
        (model,) = (work / "runs").glob("*/resnet50/*/model")
        places = ["--source", leaves, "--model", str(model), "--out", str(work / "out")]
        return ["predict", *places, "--device", device, *OFF]
    epochs = ["--train.resize", str(SIDE), "--train.batch-size", str(BATCH), "--train.epochs", str(EPOCHS)]
    method = ["linear_probe"] if step == "features" else ["resnet50", *epochs]
    backbone = ["--options.backbone", "shufflenet_v2_x0_5", "--train.init", "none"]
    crop = ["--train.crop", str(CROP), "--train.device", device]
    return ["train", *data, *runs, "--method", *method, *backbone, *crop, *OFF]


def _fit_growth(step: str, cores: int, points: Sequence[tuple[int, Cost]]) -> StepGrowth:
    rows = tuple(count for count, _ in points)
    seconds, cpu, memory, own = zip(
        *((one.seconds, one.cpu, one.memory, one.own_memory) for _, one in points), strict=True
    )
    return StepGrowth(step, cores, rows, seconds, cpu, memory, own, exponent(rows, cpu), exponent(rows, memory))


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


def speed_up(one: StepGrowth, grown: Sequence[StepGrowth]) -> float | None:
    """How many times as fast what grows is as on the fewest cores; None on these, or where it takes no time."""
    fewest = min((other for other in grown if other.step == one.step), key=lambda other: other.cores)
    if fewest.cores == one.cores or min(one.growing_seconds, fewest.growing_seconds) <= 0:
        return None
    return fewest.growing_seconds / one.growing_seconds


def num_train(count: int) -> int:
    """Training images among `count` photographs."""
    return sum(number // CLASSES % 4 != 3 for number in range(count))


def write_photographs(folder: Path, count: int, seed: int) -> Path:
    """<folder>/leaves/<split>/<cultivar>/<k>.jpg, all different, with a box file each in <folder>/boxes; three of four
    are training images. Returns the folder.
    """
    random = np.random.default_rng(seed)
    patterns = random.integers(0, 128, (CLASSES, 12, 12, 3), dtype=np.uint8)  # else nothing could be learned
    for number in range(count):
        split = "test" if number // CLASSES % 4 == 3 else "train"
        place = Path(split, f"cultivar-{number % CLASSES + 1}")
        for top in ("leaves", "boxes"):
            (folder / top / place).mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 128, (12, 12, 3), dtype=np.uint8) + patterns[number % CLASSES]
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (folder / "leaves" / place / f"{number}.jpg").write_bytes(buffer.getvalue())
        (folder / "boxes" / place / f"{number}.txt").write_text(BOXES)
    (folder / "boxes" / "classes.txt").write_text("vein\ncontour\n")
    return folder


def run_measured(*arguments: str, cores: int | None = None) -> Cost:
    """What one `ufgvc` command costs. RuntimeError if it fails.  cores: that it may use; None: all."""
    started = time.monotonic()
    process = start_command(*arguments, cores=cores)
    with TreeWatch(process.pid) as watch:
        finish_command(process, *arguments)
    seconds = time.monotonic() - started
    return Cost(seconds, watch(), watch.memory, watch.own_memory)


def plot_growth(grown: Sequence[StepGrowth]) -> bytes:
    """A PNG: CPU seconds and peak memory over the rows, both axes logarithmic."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from ufgvc.reports.figures import STYLE

    most = max(one.cores for one in grown)
    with mpl.rc_context(STYLE | {"text.parse_math": True}):  # the powers of ten at the axes are formulae
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, one in enumerate(each for each in grown if each.cores == most):
            for axes, values, k in (
                (left, one.cpu, one.cpu_exponent),
                (right, [m / 1e9 for m in one.memory], one.memory_exponent),
            ):
                label = f"{one.step}: rows^{k:.2f}" if k is not None else f"{one.step}: no power of the rows"
                axes.plot(one.rows, values, marker="o", color=f"C{number}", label=label)
        for axes, title in ((left, "CPU seconds"), (right, "peak memory, GB")):
            axes.set(xscale="log", yscale="log", title=title, xlabel="rows")
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()
