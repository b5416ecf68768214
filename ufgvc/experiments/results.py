"""Collects the outcomes of a benchmark into a BenchmarkRecord, and writes the files of a report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from ufgvc.core.config import flatten
from ufgvc.core.errors import UserError
from ufgvc.core.process import git_commit, versions
from ufgvc.core.storage import Store, join
from ufgvc.data.dataset import Dataset, read_index, read_manifest
from ufgvc.data.images import decode
from ufgvc.data.mask_png import decode_mask
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, Protocol, RunResult
from ufgvc.evaluation.cam import mean_energy
from ufgvc.evaluation.paper_results import paper_accuracy
from ufgvc.experiments.crossval import COSTS, Leaves, assemble_runs, list_held_folds, scored_leaves
from ufgvc.experiments.entries import BenchmarkEntry
from ufgvc.experiments.method_table import OURS, PAPER_ROWS
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import JobOutcome, read_scores
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.models.score import rank_classes
from ufgvc.reports.figures import Panels
from ufgvc.reports.page import Page
from ufgvc.reports.photographs import energy_panels, read_test_rows, sample_leaves
from ufgvc.reports.tables import Table
from ufgvc.runtime.resources import choose_device
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import Run
from ufgvc.tracking.settings import TrackingSettings

MEASURED_LEAVES = 200  # test leaves whose activation maps are measured; the figure shows a few of them


def collect_results(
    datasets: Sequence[Dataset],
    entries: Sequence[BenchmarkEntry],
    settings: BenchmarkSettings,
    lr_outcomes: Sequence[JobOutcome],
    final_outcomes: Sequence[JobOutcome],
    protocol: Protocol,
) -> tuple[BenchmarkRecord, Panels | None]:
    """The results of one protocol, and the class activation maps of the ablations (None without any).

    lr_outcomes: of the jobs that try learning rates.  final_outcomes: of the trainings that are scored.
    """
    kind = _mask_kind_of_maps(datasets[0], settings)
    panels, energy = measure_maps(datasets[0], entries, settings, final_outcomes, kind) if kind else (None, {})
    facts = _facts(datasets, entries, settings, final_outcomes, protocol)
    leaves = [scored_leaves(dataset, protocol) for dataset in datasets]
    keys = [entry.variant.key for entry in entries]
    compared = [row.key for row in OURS if row.key in keys and is_reference(row.key, keys)]
    record = BenchmarkRecord(
        title=", ".join(dataset.name for dataset in datasets),
        budget=settings.budget,
        protocol=protocol,
        datasets=tuple(each for each, _ in leaves),
        references=("resnet50", "mask_guided", *compared),
        methods=tuple(
            _method_result(entry, leaves, settings, lr_outcomes, final_outcomes, protocol) for entry in entries
        ),
        facts=facts | ({"Maps measured inside": f"{kind} masks"} if energy else {}),
        warnings=_warnings(settings, datasets, protocol),
        energy=energy,
        regions=datasets[0].regions,
    )
    return record, panels


def is_reference(key: str, keys: Sequence[str]) -> bool:
    """Whether every row is compared with the row: linear_probe, the simplest method, and those that have controls."""
    return key == "linear_probe" or any(each.startswith(f"{key}:") for each in keys)


def _test_labels(dataset: Dataset) -> np.ndarray:
    return read_index(dataset, "test")["label"].to_numpy().astype(np.int64)


def _method_result(
    entry: BenchmarkEntry,
    leaves: Sequence[Leaves],
    settings: BenchmarkSettings,
    lr_outcomes: Sequence[JobOutcome],
    final_outcomes: Sequence[JobOutcome],
    protocol: Protocol,
) -> MethodResult:
    variant = entry.variant
    own = [outcome for outcome in final_outcomes if outcome.job.variant == variant.key]
    failed = [each for each in lr_outcomes if each.job.variant == (variant.lr_from or variant.key) and each.error]
    excluded = {each.job.lr_factor: each.error for each in failed if each.job.variant == variant.key}
    if protocol == "crossval":
        runs = assemble_runs(own, failed, list_held_folds(protocol, settings, variant.key), leaves)
    elif own:
        runs = [_run_result(outcome, *leaves[outcome.job.dataset_index]) for outcome in own]
    else:  # no learning rate worked, so nothing could be trained
        runs = [RunResult(leaves[o.job.dataset_index][0].name, o.job.seed, None, o.error) for o in failed[:1]]
    published = variant in PAPER_ROWS or "III" in variant.tables
    show_options = "controls" in variant.tables and not published
    options = ", ".join(f"{name} {value}" for name, value in flatten(variant.options).items())
    note = "; ".join(f"learning rate x{factor:g} left out, its trial failed: {why}" for factor, why in excluded.items())
    return MethodResult(
        key=variant.key,
        label=variant.label,
        method=variant.method,
        backbone=entry.backbone,
        tables=variant.tables,  # type: ignore[arg-type]
        regions=tuple(entry.method.regions),
        options=options if show_options else "",
        paper=paper_accuracy(settings.paper, variant.method, entry.method.options) if published else None,
        parameters=entry.parameters,
        gflops=entry.gflops,
        note=note if own else "",
        runs=tuple(runs),
    )


def _run_result(outcome: JobOutcome, dataset: BenchmarkDataset, image_ids: list[str]) -> RunResult:
    job, result = outcome.job, outcome.result
    if result is None:
        return RunResult(dataset.name, job.seed, None, outcome.error)
    right = rank_classes(read_scores(job.store, image_ids), 1)[:, 0] == dataset.labels
    costs = {name: result[name] for name in COSTS}
    return RunResult(dataset.name, job.seed, right, learning_rates=job.learning_rates, **costs)


def _mask_kind_of_maps(dataset: Dataset, settings: BenchmarkSettings) -> str | None:
    """The masks in which activation maps are measured: those of the benchmark, else exact ones, else None."""
    for kind in (settings.mask_kind, "exact"):
        with contextlib.suppress(UserError):  # missing, or made from other images
            read_manifest(dataset, f"masks/{kind}")
            return kind
    return None


def measure_maps(
    dataset: Dataset,
    entries: Sequence[BenchmarkEntry],
    settings: BenchmarkSettings,
    outcomes: Sequence[JobOutcome],
    kind: str,
) -> tuple[Panels | None, dict[str, tuple[float, float, int]]]:
    """(panels, energy) of the class activation maps of the ablations on test leaves (Fig. 4).

    (None, {}) if no model was saved.  kind: of the masks in which the maps are measured.
    """
    jobs = [outcome.job for outcome in outcomes if outcome.job.save_model and outcome.result is not None]
    jobs.sort(key=lambda job: len(job.config.options["regions"]))  # the order of the paper: none, each, both
    if not jobs or not settings.cam_leaves:
        return None, {}
    labels = {entry.variant.key: entry.variant.label for entry in entries}
    device = choose_device("cpu" if settings.device == "cpu" else "auto")  # the driver may be on a node without a GPU
    untracked = Context(tracking=TrackingSettings(uri="off"))
    models: dict[str, LoadedModel] = {
        labels[job.variant]: load_model(join(job.config.run, "model"), untracked).to(device) for job in jobs
    }
    truth = _test_labels(dataset)
    rows = sample_leaves(truth, MEASURED_LEAVES, seed=0)
    images, masks = read_leaves(dataset, kind, rows)
    # The leaves of the figure are the first of those that are measured, because the same seed samples both.
    shown = [rows.index(row) for row in sample_leaves(truth, settings.cam_leaves, seed=0)]
    captions = [dataset.classes[truth[rows[place]]] for place in shown]
    panels = energy_panels([images[i] for i in shown], [masks[i] for i in shown], models, captions, dataset.regions)
    return panels, mean_energy(images, masks, models)


def read_leaves(dataset: Dataset, kind: str, rows: Sequence[int]) -> tuple[list, list]:
    """(images, masks) of test leaves, upright: (H, W, 3) uint8, and (H, W) bool of all regions together."""
    manifest = read_manifest(dataset, f"masks/{kind}")
    images = [decode(row["image"], row["orientation"]) for row in read_test_rows(dataset, rows)]
    masks = []
    for image, row in zip(images, read_test_rows(dataset, rows, f"masks/{kind}", manifest), strict=True):
        found = [decode_mask(row[region]) for region in dataset.regions if row[region] is not None]
        masks.append(np.logical_or.reduce(found) if found else np.zeros(image.shape[:2], bool))
    return images, masks


def _facts(
    datasets: Sequence[Dataset],
    entries: Sequence[BenchmarkEntry],
    settings: BenchmarkSettings,
    outcomes: Sequence[JobOutcome],
    protocol: Protocol,
) -> dict[str, str]:
    """What determined the results, for the end of the page."""
    machines = sorted({str(each.result["machine"]) for each in outcomes if each.result and "machine" in each.result})
    concurrent = "" if settings.max_concurrent_trials == 1 else "; several trainings at a time"
    smaller = f"; smaller architectures: {', '.join(settings.backbones)}" if settings.backbones else ""
    init = {"none": "none (random)", "imagenet": "ImageNet"}.get(settings.init, settings.init)
    return {
        "Data sets": "; ".join(
            f"{d.name}: {len(d.classes)} cultivars, {d.counts['train']} train, {d.counts['test']} test"
            for d in datasets
        ),
        "Protocol": _describe_protocol(settings, protocol),
        "Fingerprints": ", ".join(f"{dataset.name} {dataset.fingerprint}" for dataset in datasets),
        "Budget": _describe_budget(entries, settings) + smaller,
        "Initial weights": init,
        "Masks": _describe_masks(datasets, settings.mask_kind),
        "Epoch chosen by": "last epoch; no selection",
        "Seeds": ", ".join([f"{settings.seeds}, from 0", *(f"{row}: {n}" for row, n in settings.more_seeds.items())]),
        "Trained on": f"{'; '.join(machines) or 'not recorded'}{concurrent}",
        "Reported with" if settings.report_only else "Trained with": ", ".join(
            f"{name} {version}" for name, version in versions().items()
        ),
        "Code": git_commit() or "",
    }


def _describe_masks(datasets: Sequence[Dataset], kind: str) -> str:
    """The kind of the masks, and where their boxes come from."""
    if kind == "exact":
        return kind
    sources = set()
    for dataset in datasets:
        with contextlib.suppress(UserError):  # no row of the benchmark needs masks
            sources.add(read_manifest(dataset, f"masks/{kind}").extra["origin"]["boxes"])
    described = {"annotated": "in annotated boxes"}
    return ", ".join([kind, *(described.get(each, "found by the detector") for each in sorted(sources))])


def _describe_budget(entries: Sequence[BenchmarkEntry], settings: BenchmarkSettings) -> str:
    if settings.budget == "published":
        scaled = f", epochs times {settings.epoch_scale:g} and image sides times {settings.image_scale:g}"
        return f"each method's {settings.recipe} recipe" + (scaled if _is_scaled(settings) else "")
    forwarded = {each.variant.label: each.method.images_forwarded for each in entries}
    several = ", ".join(f"{label} {count:g}" for label, count in forwarded.items() if count != 1)
    divided = f", divided by the images that a method forwards for each leaf ({several})" if several else ""
    factors = ", ".join(f"{factor:g}" for factor in settings.lr_factors)
    chosen = f"the best of {len(settings.lr_factors)} multiples ({factors}) of the {settings.recipe} one on "
    chosen += f"{settings.holdout:.0%} of the training leaves"
    rate = chosen if len(settings.lr_factors) > 1 else f"{factors} times the {settings.recipe} one"
    modern = "; modern recipes (AdamW, crops of random size, CutMix and more)" if settings.recipe == "modern" else ""
    return (
        f"{settings.epochs} passes over the training leaves{divided}; photographs resized to {settings.resize} px, "
        f"random crop and mirror at {settings.crop} px, batches of {settings.batch_size}, cosine schedule; tested at "
        f"{settings.crop} px; learning rate {rate}{modern}"
    )


def _describe_protocol(settings: BenchmarkSettings, protocol: Protocol) -> str:
    if protocol == "fixed":
        return "trained on the training leaves, scored on the test leaves"
    chosen = "; learning rate chosen within the other folds" if settings.chooses_lr else ""
    return (
        f"cross-validation over the training and test leaves together: {settings.folds} folds, stratified by cultivar, "
        f"groups (plants, photographs) undivided, another partition for each seed{chosen}"
    )


def _is_scaled(settings: BenchmarkSettings) -> bool:
    return settings.budget == "published" and min(settings.epoch_scale, settings.image_scale) < 1


def _warnings(settings: BenchmarkSettings, datasets: Sequence[Dataset], protocol: Protocol) -> tuple[str, ...]:
    found = []
    if protocol == "fixed" and sum(len(dataset.classes) for dataset in datasets) < 3:
        found.append("Two cultivars: the intervals resample cultivars, so with two they say little.")
    if min([settings.seeds, *settings.more_seeds.values()]) < 3:
        some = "Some rows have fewer" if settings.most_seeds >= 3 else "Fewer"
        found.append(f"{some} than three seeds: the spread between trainings is not known.")
    if _is_scaled(settings):
        found.append("Published recipes, but with fewer epochs or smaller images: not the published methods' figures.")
    return tuple(found)


def table_files(tables: Mapping[str, Table], appendix: str = "") -> dict[str, str]:
    """{"table-<name>.md": table with its note and the appendix}."""
    return {f"table-{name}.md": f"{table.to_markdown()}\n\n{table.note}\n{appendix}" for name, table in tables.items()}


def write_report(folder: Store, run: Run, page: Page, files: Mapping[str, str]) -> None:
    """Writes report.html, its figures and other texts by file name, and attaches them to the run on MLflow."""
    contents = {name: text.encode() for name, text in files.items()} | {"report.html": page.to_html().encode()}
    contents |= {f"{figure.name}.png": figure.to_png() for figure in page.figures}
    for name, content in contents.items():
        folder.write_bytes(name, content)
        run.log_artifact_bytes(f"report/{name}", content)
