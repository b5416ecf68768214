"""The entries of a benchmark: their networks are measured, their inputs validated, and their training jobs made."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.storage import open_store
from ufgvc.data.cache import load_decoded_split
from ufgvc.data.dataset import Dataset
from ufgvc.data.splits import HeldFold, pool_splits
from ufgvc.experiments.method_table import MethodVariant
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import TrainingJob
from ufgvc.methods import build, options_class
from ufgvc.methods.method import Method
from ufgvc.methods.modern import MODERN_FIELDS, modernise
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.regions.mask_results import check_masks
from ufgvc.training.regions import mask_fingerprint, use_regions
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings, rescale_schedule

LARGE = 20_000_000  # parameters


@dataclass(frozen=True)
class BenchmarkEntry:
    """A row of the benchmark with its method; the network is discarded after counting.

    parameters: of the network.  gflops: 1e9 operations (2 per multiply-add) of one forward pass of an image at the test
    size.
    """

    variant: MethodVariant
    method: Method
    mask_kind: str
    backbone: str
    parameters: int
    gflops: float


def make_entry(
    variant: MethodVariant, num_classes: int, settings: BenchmarkSettings, regions: Sequence[str] = PAPER_REGIONS
) -> BenchmarkEntry:
    """Builds the network and counts it. UserError for options or a crop that the method does not accept.

    regions: of the data sets.
    """
    options = use_regions(variant.method, variant.options, regions)
    method = build(variant.method, num_classes, **entry_options(variant.method, options, settings))
    entry = BenchmarkEntry(
        variant,
        replace(method, net=torch.nn.Identity()),
        variant.mask_kind or settings.mask_kind,
        str(method.options.get("backbone", variant.method)),
        sum(parameter.numel() for parameter in method.net.parameters()),
        count_gflops(method, make_recipe(method, settings).crop),
    )
    del method
    if entry.parameters > LARGE:
        gc.collect()  # half a gigabyte, which would wait for it; a collection takes a fifth of a second
    return entry


def entry_options(method: str, options: Mapping[str, Any], settings: BenchmarkSettings) -> dict[str, Any]:
    """The options, with the smaller architecture that the settings give for the method's own."""
    field = options_class(method).model_fields.get("backbone")
    return dict(options) if field is None else {"backbone": settings.backbone_for(str(field.default)), **options}


def count_gflops(method: Method, side: int) -> float:
    """1e9 operations (2 per multiply-add) of the forward pass of an image (1, 3, side, side)."""
    method.net.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        method.net(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 1e9


def make_recipe(method: Method, settings: BenchmarkSettings, lr_factor: float = 1.0) -> Recipe:
    """The recipe of a method under the budget of the benchmark.

    lr_factor: multiple of the published learning rate (equal budget only).  UserError for a crop that the network does
    not accept.
    """
    equal = settings.budget == "equal"
    if settings.recipe == "modern" and not method.recipe.classifier_fit:
        method = replace(method, recipe=modernise(method.recipe, method.whole_leaf))
    recipe = _equal_recipe(method, settings, lr_factor) if equal else _published_recipe(method.recipe, settings)
    if recipe.crop < method.min_side:
        fix = f"use at least {method.min_side} px, or leave {method.name} out of --methods"
        what = f"{method.name} does not take images of {recipe.crop} px"
        raise UserError(what, where="--crop" if equal else "--image-scale", fix=fix)
    return recipe


def _equal_recipe(method: Method, settings: BenchmarkSettings, lr_factor: float) -> Recipe:
    """The same sizes, augmentation, batch size, number of images forwarded and schedule for all methods
    that are trained by gradient; a fitted classifier has the size only.

    Stages (what is frozen), the ratio of the learning rates of head and backbone, momentum and weight decay belong to
    the method; what a modern recipe adds stays, but for CutMix where a method measures the whole leaf.
    """
    if method.recipe.classifier_fit:
        return method.recipe.model_copy(update={"resize": settings.crop, "crop": settings.crop})
    stages = method.recipe.stages
    epochs = max(len(stages), round(settings.epochs / method.images_forwarded))

    def adapt(stage: Stage) -> Stage:
        warmup = stage.warmup_epochs if settings.recipe == "modern" else 0
        return stage.model_copy(update={"lr": stage.lr * lr_factor, "schedule": "cosine", "warmup_epochs": warmup})

    return Recipe(
        stages=tuple(adapt(stage) for stage in rescale_schedule(stages, epochs)),
        batch_size=settings.batch_size,
        resize=settings.resize,
        crop=settings.crop,
        eval_view="resize",
        **{name: getattr(method.recipe, name) for name in MODERN_FIELDS},
    )


def _published_recipe(recipe: Recipe, settings: BenchmarkSettings) -> Recipe:
    scale = 1.0 if recipe.classifier_fit else settings.epoch_scale
    epochs = max(len(recipe.stages), round(recipe.epochs * scale))
    sides = {side: round(getattr(recipe, side) * settings.image_scale) for side in ("resize", "crop")}
    return Recipe.model_validate(recipe.model_dump() | sides | {"stages": rescale_schedule(recipe.stages, epochs)})


def check_entry_masks(entries: Sequence[BenchmarkEntry], datasets: Sequence[Dataset]) -> None:
    """UserError for the first masks that are missing, cover too little or were made from other photographs."""
    for kind in dict.fromkeys(entry.mask_kind for entry in entries if entry.method.regions):
        for dataset in datasets:
            check_masks(dataset, kind)


def check_datasets(datasets: Sequence[Dataset], fingerprints: Sequence[str]) -> None:
    """UserError for two data sets of one name, or of other regions, and for one without the fingerprint that it must
    have.
    """
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        what = f"two data sets have the same name: {', '.join(names)}"
        raise UserError(what, where="--data", fix="give each its --name when it is ingested")
    other = next((dataset for dataset in datasets if dataset.regions != datasets[0].regions), None)
    if other is not None:
        what = f"has the regions {join_names(other.regions)}, {datasets[0].name} has {join_names(datasets[0].regions)}"
        raise UserError(what, where=other.store.uri, fix="give data sets that were ingested with the same --regions")
    if fingerprints and len(fingerprints) != len(datasets):
        what = f"{len(fingerprints)} fingerprints for {len(datasets)} data sets"
        raise UserError(what, where="--fingerprints", fix="give one for each, in order")
    for dataset, wanted in zip(datasets, fingerprints, strict=bool(fingerprints)):
        if not dataset.fingerprint.startswith(wanted):
            what = f"has the fingerprint {dataset.fingerprint[:12]}, the benchmark requires {wanted[:12]}"
            fix = "generate or ingest exactly the required data set, or leave --fingerprints out"
            raise UserError(what, where=dataset.store.uri, fix=fix)


def make_lr_jobs(
    entries: Sequence[BenchmarkEntry],
    datasets: Sequence[Dataset],
    settings: BenchmarkSettings,
    runs: str,
    held_fold: HeldFold | None = None,
) -> list[TrainingJob]:
    """A job for every learning rate of every tuned entry on every data set; none if there is nothing to choose.

    held_fold: of the cross-validation, whose seed is that of the jobs; None: the fixed split, with seed 0.
    """
    if not settings.chooses_lr:
        return []
    seed = 0 if held_fold is None else held_fold.seed
    return [
        _make_job(entry, index, dataset, settings, runs, seed, factor, held_fold, lr_search=True)
        for entry in entries
        if entry.variant.lr_from is None and not entry.method.recipe.classifier_fit
        if seed < _seeds_with_its_rate(entry, entries, settings)
        for index, dataset in enumerate(datasets)
        for factor in settings.lr_factors
    ]


def _seeds_with_its_rate(entry: BenchmarkEntry, entries: Sequence[BenchmarkEntry], settings: BenchmarkSettings) -> int:
    """The most seeds of the rows that use the learning rate of an entry: its own, and its controls'."""
    key = entry.variant.key
    return max(
        settings.seeds_for(each.variant.key) for each in entries if key in (each.variant.key, each.variant.lr_from)
    )


def make_final_jobs(
    entries: Sequence[BenchmarkEntry],
    datasets: Sequence[Dataset],
    settings: BenchmarkSettings,
    runs: str,
    lr_factors: Mapping[str, float],
    held_fold: HeldFold | None = None,
) -> list[TrainingJob]:
    """A job for each seed, entry and data set. Entries without a learning rate that worked are left out.

    lr_factors: of `choose_lr_factors`.  held_fold: see `make_lr_jobs`.
    """
    jobs = []
    for seed in range(settings.most_seeds) if held_fold is None else [held_fold.seed]:
        for entry in entries:
            if seed >= settings.seeds_for(entry.variant.key):
                continue
            fitted = entry.method.recipe.classifier_fit  # without a learning rate
            factor = 1.0 if fitted else lr_factors.get(entry.variant.lr_from or entry.variant.key)
            if factor is not None:
                jobs += [
                    _make_job(entry, i, each, settings, runs, seed, factor, held_fold)
                    for i, each in enumerate(datasets)
                ]
    return jobs


def _make_job(
    entry: BenchmarkEntry,
    dataset_index: int,
    dataset: Dataset,
    settings: BenchmarkSettings,
    runs: str,
    seed: int,
    lr_factor: float,
    held_fold: HeldFold | None,
    lr_search: bool = False,
) -> TrainingJob:
    train = TrainSettings(
        init=resolve_init(settings.init, entry.backbone),
        mask_kind=entry.mask_kind,
        validation="holdout" if lr_search else "last",
        holdout=settings.holdout,
        precision=settings.precision,
        device=settings.device,
        cache="host",
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    method = replace(entry.method, recipe=make_recipe(entry.method, settings, lr_factor))
    masks = mask_fingerprint(dataset, method, entry.mask_kind)
    config, identity = make_worker_config(dataset, method, train, seed, masks, runs, held_fold)
    in_figure = "III" in entry.variant.tables and seed == dataset_index == 0 and not lr_search and held_fold is None
    return TrainingJob(
        entry.variant.key,
        dataset_index,
        seed,
        lr_factor,
        "lr_search" if lr_search else "final",
        config,
        identity,
        save_model=in_figure,
    )


def resolve_init(init: str, backbone: str) -> str:
    """The initial weights of an architecture; paths become absolute, for trials have other working directories."""
    return init if init in ("imagenet", "none") else open_store(init.replace("{backbone}", backbone)).uri


def decode_images(jobs: Sequence[TrainingJob], datasets: Sequence[Dataset]) -> None:
    """Decodes the images of the jobs once on this node, before trials take its CPUs; they only map the files."""
    decoded: set[tuple[Any, ...]] = set()
    for job in jobs:
        config, recipe = job.config, Recipe.model_validate(job.config.recipe)
        needed = [(config.split, recipe.resize, config.mask_kind, config.mask_fingerprint)]
        if job.purpose in ("lr_search", "fold") or config.held_fold is not None:
            needed.append((config.split, recipe.eval_resize, None, None))
        elif job.purpose == "final":
            needed.append(("test", recipe.eval_resize, None, None))
        for split, side, kind, fingerprint in needed:
            if (job.dataset_index, split, side, kind) not in decoded:
                decoded.add((job.dataset_index, split, side, kind))
                dataset = datasets[job.dataset_index]
                dataset = pool_splits(dataset) if split == "all" else dataset
                load_decoded_split(dataset, split, side, kind, fingerprint, Path(config.cache_folder))
