"""From finished jobs to the comparison that tables, charts and the page show."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from ufgvc.core.config import flatten
from ufgvc.core.errors import UserError
from ufgvc.core.process import git_commit, versions
from ufgvc.core.storage import join
from ufgvc.core.types import REGIONS
from ufgvc.data.dataset import Dataset, read_index, read_manifest
from ufgvc.data.images import decode, decode_mask
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult
from ufgvc.evaluation.cam import mean_energy
from ufgvc.evaluation.metrics import ranking
from ufgvc.evaluation.paper_results import paper_accuracy
from ufgvc.experiments.benchmark_entries import BenchmarkEntry
from ufgvc.experiments.method_table import ABLATIONS, OURS, PAPER_ROWS
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import Job, read_scored
from ufgvc.experiments.trial_runner import Finished
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.reports.photographs import energy_panels, read_test_rows, sample_leaves
from ufgvc.tracking.settings import TrackingSettings

FIG_4 = ("mask_guided:none", "mask_guided:vein", "mask_guided:contour", "mask_guided")  # the paper's order
ENERGY_LEAVES = 200  # test leaves whose maps are measured; the figure shows a few of them


def gather(
    draws: Sequence[Dataset],
    runners: Sequence[BenchmarkEntry],
    settings: BenchmarkSettings,
    rates: Sequence[Finished],
    finals: Sequence[Finished],
) -> BenchmarkRecord:
    labels = {draw.name: read_index(draw, "test")["label"].to_numpy().astype(np.int64) for draw in draws}
    kind = measured_kind(draws[0], settings)
    panels, energy = look_inside(draws[0], runners, settings, finals, kind) if kind else (None, {})
    return BenchmarkRecord(
        title=", ".join(draw.name for draw in draws),
        budget=settings.budget,
        datasets=tuple(BenchmarkDataset(draw.name, labels[draw.name], len(draw.classes)) for draw in draws),
        references=("resnet50", "mask_guided", *(row.key for row in OURS if _has_controls(row.key, runners))),
        methods=tuple(_entry(runner, draws, settings, rates, finals) for runner in runners),
        facts=_facts(draws, runners, settings, finals) | ({"Maps measured inside": f"{kind} masks"} if energy else {}),
        warnings=_warnings(settings),
        cam=panels,
        energy=energy,
    )


def _has_controls(method: str, runners: Sequence[BenchmarkEntry]) -> bool:
    return any(runner.who.key.startswith(f"{method}:") for runner in runners)


def _entry(
    runner: BenchmarkEntry,
    draws: Sequence[Dataset],
    settings: BenchmarkSettings,
    rates: Sequence[Finished],
    finals: Sequence[Finished],
) -> MethodResult:
    who = runner.who
    own = [end for end in finals if end.job.contestant == who.key]
    cells = [_cell(end, draws) for end in own]
    out = {end.job.factor: end.error for end in rates if end.job.contestant == who.key and end.error}
    if not own:  # no learning rate worked, so there was nothing to train with
        failed = [end for end in rates if end.job.contestant == (who.rate_of or who.key) and end.error]
        cells = [RunResult(draws[end.job.draw].name, end.job.seed, None, end.error) for end in failed[:1]]
    published = who in PAPER_ROWS or who in ABLATIONS
    options = flatten(who.options)
    return MethodResult(
        key=who.key,
        label=who.label,
        method=who.method,
        backbone=runner.backbone,
        tables=who.tables,  # type: ignore[arg-type]
        regions=tuple(runner.method.regions),
        options=", ".join(f"{name} {value}" for name, value in options.items())
        if "controls" in who.tables and not published
        else "",
        paper=paper_accuracy(settings.paper, who.method, runner.method.options) if published else None,
        parameters=runner.parameters,
        gflops=runner.gflops,
        note="; ".join(
            f"learning rate x{factor:g} left out, its trial failed: {error}" for factor, error in out.items()
        )
        if own
        else "",
        runs=tuple(cells),
    )


def _cell(end: Finished, draws: Sequence[Dataset]) -> RunResult:
    draw, seed = draws[end.job.draw], end.job.seed
    if end.result is None:
        return RunResult(draw.name, seed, None, end.error)
    index = read_index(draw, "test")
    logits = read_scored(end.job.store, index["image_id"].to_pylist())
    return RunResult(
        draw.name,
        seed,
        ranking(logits)[:, 0] == index["label"].to_numpy(),
        seconds=end.result["seconds"],
        images_per_second=end.result["images_per_second"],
        learning_rate=end.job.plan.recipe["stages"][-1]["lr"],
        train_accuracy=end.result["train_accuracy"],
    )


def measured_kind(draw: Dataset, settings: BenchmarkSettings) -> str | None:
    """The masks that maps are measured in: those that guide the networks, else exact ones; None without any."""
    for kind in (settings.masks, "exact"):
        with contextlib.suppress(UserError):  # missing, or made from other images
            read_manifest(draw, f"masks/{kind}")
            return kind
    return None


def look_inside(
    draw: Dataset, runners: Sequence[BenchmarkEntry], settings: BenchmarkSettings, finals: Sequence[Finished], kind: str
) -> tuple:
    """(panels, energy) of the ablations' class activation maps on test leaves (Fig. 4); (None, {}) where there is nothing to look at.

    kind: of the masks that the maps are measured in. No net was trained on these leaves.
    """
    kept: list[Job] = [end.job for end in finals if end.job.keep_model and end.result is not None]
    kept.sort(key=lambda job: FIG_4.index(job.contestant))
    labels = {runner.who.key: runner.who.label for runner in runners}
    if not kept or not settings.cam_leaves:
        return None, {}
    device = "cuda" if torch.cuda.is_available() and settings.gpu != "no" else "cpu"
    off = TrackingSettings(uri="off")
    models: dict[str, LoadedModel] = {
        labels[job.contestant]: load_model(join(job.plan.run, "model"), off).to(device) for job in kept
    }
    test = read_index(draw, "test")
    truth = test["label"].to_numpy().astype(np.int64)
    rows = sample_leaves(truth, ENERGY_LEAVES, seed=0)
    images, masks = regions_of(draw, kind, rows)
    # The leaves of the figure are the first of those that are measured: the same seed draws both.
    places = [rows.index(row) for row in sample_leaves(truth, settings.cam_leaves, seed=0)]
    captions = [draw.classes[truth[rows[place]]] for place in places]
    panels = energy_panels([images[i] for i in places], [masks[i] for i in places], models, captions)
    return panels, mean_energy(images, masks, models)


def regions_of(draw: Dataset, kind: str, rows: Sequence[int]) -> tuple[list, list]:
    """(images (H, W, 3) uint8, masks (H, W) bool of vein and contour together) of test leaves, upright."""
    manifest = read_manifest(draw, f"masks/{kind}")
    images = [decode(row["image"], row["orientation"]) for row in read_test_rows(draw, rows)]
    masks = []
    for image, row in zip(images, read_test_rows(draw, rows, f"masks/{kind}", manifest), strict=True):
        found = [decode_mask(row[region]) for region in REGIONS if row[region] is not None]
        masks.append(np.logical_or.reduce(found) if found else np.zeros(image.shape[:2], bool))
    return images, masks


def _facts(
    draws: Sequence[Dataset], runners: Sequence[BenchmarkEntry], settings: BenchmarkSettings, finals: Sequence[Finished]
) -> dict[str, str]:
    """Everything that made the figures, for the end of the page."""
    if settings.budget == "equal":
        dear = {
            runner.who.label: runner.method.images_forwarded
            for runner in runners
            if runner.method.images_forwarded != 1
        }
        fewer = (
            f", divided by the images that it forwards for each leaf ({', '.join(f'{k} {n:g}' for k, n in dear.items())})"
            if dear
            else ""
        )
        budget = (
            f"{settings.epochs} passes over the training leaves{fewer}; "
            f"photographs resized to {settings.resize} px, random crop and mirror at {settings.crop} px, batches of {settings.batch_size}, "
            f"cosine schedule; tested at {settings.crop} px; learning rate the best of {len(settings.rates)} multiples "
            f"({', '.join(f'{rate:g}' for rate in settings.rates)}) of the published one on {settings.holdout:.0%} of the training leaves"
        )
    else:
        budget = "each method's published recipe"
        if settings.shorten > 1 or settings.shrink > 1:
            budget += f", epochs divided by {settings.shorten:g} and sides by {settings.shrink:g}"
    beside = "" if settings.trials == 1 else "; trainings side by side"
    machines = sorted({str(end.result["machine"]) for end in finals if end.result and "machine" in end.result})
    stand_in = f"; smaller architectures: {', '.join(settings.backbones)}" if settings.backbones else ""
    return {
        "Data sets": "; ".join(
            f"{d.name}: {len(d.classes)} cultivars, {d.counts['train']} train, {d.counts['test']} test" for d in draws
        ),
        "Fingerprints": ", ".join(f"{draw.name} {draw.fingerprint}" for draw in draws),
        "Budget": budget + stand_in,
        "Initial weights": {"none": "none (random)", "imagenet": "ImageNet (torchvision, V1)"}.get(
            settings.init, settings.init
        ),
        "Masks": f"{settings.masks}, found by the detector" if settings.masks != "exact" else "exact",
        "Epoch chosen by": "last epoch; no selection",
        "Seeds": f"{settings.seeds}, from 0 on",
        "Trained on": f"{'; '.join(machines) or 'not recorded'}{beside}",
        "Trained with": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Code": git_commit() or "",
    }


def _warnings(settings: BenchmarkSettings) -> tuple[str, ...]:
    found = []
    if settings.seeds < 3:
        found.append("Fewer than three seeds: the spread between trainings is not known.")
    if settings.budget == "published" and (settings.shorten > 1 or settings.shrink > 1):
        found.append("Published recipes, but shortened or shrunk: these are not the published methods' figures.")
    return tuple(found)
