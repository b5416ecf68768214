"""Runs the parts of `ufgvc bench`."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ufgvc.bench import evaluation, feeding, reading, startup, steps, streaming
from ufgvc.bench.dataset import BenchData, check_source, make_data
from ufgvc.bench.growth import measure_growth, plot_growth
from ufgvc.bench.machine import describe_machine, free_memory, matrix_rates
from ufgvc.bench.report import BenchReport, Rates
from ufgvc.bench.settings import BenchSettings
from ufgvc.bench.steps import StepCase
from ufgvc.bench.timing import Measurement
from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.core.storage import open_store
from ufgvc.runtime.resources import choose_device
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.tracking.context import Context
from ufgvc.training.threads import threads_restored

log = logging.getLogger(__name__)
EVALUATION, READING, CACHED, FEED, START, USE = (
    "Evaluation of a batch",
    "Reading: decode, square to 512 px, both masks",
    "Cached: batches at 448 px from 512",
    "Steps fed by the loader",
    "From the command to the first step",
    "Evaluate and predict",
)


def bench(settings: BenchSettings, context: Context = Context()) -> BenchReport:
    """Measures the chosen parts and writes <out>/bench.json and bench.md (and growth.png).

    UserError, before anything is measured, for an unknown method, a batch larger than memory, a missing GPU, and a
    source without photographs.
    """
    started = time.monotonic()
    device = torch.device(choose_device(settings.device))
    torch.set_num_threads(cpu_count())
    out = open_store(settings.out).local_path
    if next(path for path in (out, *out.parents) if path.exists()).is_file():
        raise UserError("is a file, or lies below one", where=settings.out, fix="give a folder as --out")
    cases = steps.choose_cases(settings, device)
    report = BenchReport(describe_machine(device), settings.model_dump(mode="json"), command_line(sys.argv[1:]))
    if settings.source:
        check_source(settings.source)
    costs = steps.check_cases(cases, device, settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="ufgvc-bench-"))

    def save() -> None:
        """Called after each part, so that an interrupted run leaves its results."""
        report.rates = _rates(report, device, out)
        report.seconds = time.monotonic() - started
        report.write(out)

    try:
        if "step" in settings.parts:
            log.info("the training step: %d cases", len(cases))
            report.matrix_rates = matrix_rates(device, settings.rounds, settings.seed)
            report.steps = steps.time_steps(cases, costs, device, settings.rounds, settings.seed)
            save()
            report.measured[EVALUATION] = evaluation.time_evaluation(cases[-1], device, settings.rounds, settings.seed)
            report.notes[EVALUATION] = "On one resident batch, in turn with the training step."
            save()
        if set(settings.parts) - {"step"}:
            _with_photographs(settings, device, cases[-1], work, report, context.ray, save)
        if settings.growth:
            log.info("growth: %d, %d and %d rows", *(settings.growth_rows * factor for factor in (1, 10, 100)))
            cores, use = settings.growth_cores or (cpu_count(),), "gpu" if device.type == "cuda" else "cpu"
            of = settings.growth_rows, use, settings.seed, cores, settings.growth_steps, context.ray.in_process
            report.growth = measure_growth(work / "growth", *of)
            (out / "growth.png").write_bytes(plot_growth(report.growth))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    save()
    return report


def command_line(arguments: list[str]) -> str:
    """The command as `ufgvc bench ...`, also if it was started as `python -m jobs.bench`."""
    return shlex.join(["ufgvc", "bench", *(arguments[1:] if arguments[:1] == ["bench"] else arguments)])


def _with_photographs(
    settings: BenchSettings,
    device: torch.device,
    case: StepCase,
    work: Path,
    report: BenchReport,
    ray: RaySettings,
    save: Callable[[], None],
) -> None:
    """The parts that read photographs. A Ray session serves them; the command that `startup` times starts one of its
    own."""
    count = settings.photographs or (512 if device.type == "cuda" else 64)
    runs, rounds, seed = str(work / "runs"), settings.rounds, settings.seed
    with ray_session(ray):
        log.info("photographs: %s", settings.source or f"{count} synthetic ones")
        data = make_data(work, settings.source, count, seed)
        report.settings["photograph_bytes"] = data.photograph_bytes
        if "cached" in settings.parts:
            log.info("cached")
            report.measured[CACHED] = feeding.time_cached_batches(data, runs, device, rounds, seed)
            save()
        if "feed" in settings.parts:
            log.info("steps fed by the loader")
            with threads_restored():
                report.measured[FEED] = feeding.time_fed_steps(data, case, runs, device, rounds, seed)
            report.notes[FEED] = f"{case.name}, {data.dataset.counts['train']} leaves an epoch."
            save()
        if "reading" in settings.parts:
            log.info("reading")
            rows = reading.read_on_one_core(data, rounds, seed)
            report.measured[READING] = rows + streaming.read_on_all_cores(data, rounds, seed)
            clocks = "On one core: process time. On all cores: wall time, and CPU time of all processes."
            report.notes[READING] = f"{_photographs_text(data)}. {clocks}"
            save()
        if "startup" in settings.parts:
            log.info("from the command to the first step")
            report.measured[START], run = startup.time_start(data, case, str(work / "command"), device.type == "cuda")
            report.notes[START] = f"`ufgvc train`, {case.name}, one start, in its own process."
            save()
            log.info("evaluate and predict")
            report.measured[USE] = startup.time_use(data, run, device, rounds, seed)
            report.notes[USE] = "predict: once, from its start to its files; the others in turn."


def _photographs_text(data: BenchData) -> str:
    kind = "The user's photographs" if data.own else "Synthetic photographs of 1200 x 900"
    return f"{kind}, {data.photograph_bytes / 1e3:.0f} KB each on average, two 1-bit masks each"


def _rates(report: BenchReport, device: torch.device, out: Path) -> Rates | None:
    size = report.settings.get("photograph_bytes")
    if size is None:
        return None
    step = report.steps[-1] if report.steps else None
    return Rates(
        photograph_bytes=size,
        decode=_rate(report, READING, "Ray Data"),
        train=step.row.value.median if step else None,
        case=step.case.name if step else "",
        predict=_rate(report, USE, "evaluate"),
        device_memory=free_memory(device) if device.type == "cuda" else None,
        disk=shutil.disk_usage(out).free,
    )


def _rate(report: BenchReport, title: str, beginning: str) -> float | None:
    found: list[Measurement] = [row for row in report.measured.get(title, []) if row.name.startswith(beginning)]
    return found[0].value.median if found else None
