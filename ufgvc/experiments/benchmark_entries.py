"""The contestants of a benchmark made ready: their nets measured, their recipes and masks checked, their jobs written down."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.cache import decoded_split
from ufgvc.data.dataset import Dataset, read_index, read_manifest
from ufgvc.data.folds import held_out
from ufgvc.experiments.method_table import MethodVariant
from ufgvc.experiments.recipes import recipe_for
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import Job
from ufgvc.methods import build, options_class
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.regions.mask_results import check_masks as check_coverage
from ufgvc.training.run import make_plan
from ufgvc.training.settings import TrainSettings


@dataclass(frozen=True)
class BenchmarkEntry:
    """A contestant with its method (whose net is let go: only the numbers stay).

    parameters: of the net.  gflops: 1e9 operations (2 a multiply-add) of one image forward at the test size.
    """

    who: MethodVariant
    method: Method
    mask: str
    backbone: str
    parameters: int
    gflops: float


def make_entry(who: MethodVariant, num_classes: int, settings: BenchmarkSettings) -> BenchmarkEntry:
    """UserError for options or a crop that the method does not take."""
    method = build(who.method, num_classes, **options_for(who.method, who.options, settings))
    crop = recipe_for(method, settings).crop
    runner = BenchmarkEntry(
        who,
        replace(method, net=torch.nn.Identity()),
        who.mask or settings.masks,
        str(method.options.get("backbone", who.method)),
        sum(parameter.numel() for parameter in method.net.parameters()),
        gflops_of(method, crop),
    )
    del method
    gc.collect()  # the largest nets hold half a gigabyte
    return runner


def options_for(method: str, options: Mapping[str, Any], settings: BenchmarkSettings) -> dict[str, Any]:
    """The options with the architecture that stands in for the method's own."""
    field = options_class(method).model_fields.get("backbone")
    return dict(options) if field is None else {"backbone": settings.backbone_for(str(field.default)), **options}


def gflops_of(method: Method, side: int) -> float:
    """1e9 operations (2 a multiply-add) of one image (1, 3, side, side) forward, as torch counts them."""
    method.net.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        method.net(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 1e9


def check_masks(runners: Sequence[BenchmarkEntry], draws: Sequence[Dataset]) -> None:
    """UserError, with the command that makes them, for the first masks that are missing, show too little or are of other photographs."""
    for kind in dict.fromkeys(runner.mask for runner in runners if runner.method.regions):
        for draw in draws:
            check_coverage(draw, kind)


def check_draws(draws: Sequence[Dataset], frozen: Sequence[str]) -> None:
    names = [draw.name for draw in draws]
    if len(set(names)) < len(names):
        raise UserError(
            f"two data sets are named alike: {', '.join(names)}",
            where="--data",
            fix="give each its --name when it is ingested",
        )
    if frozen and len(frozen) != len(draws):
        raise UserError(
            f"{len(frozen)} fingerprints for {len(draws)} data sets",
            where="--fingerprints",
            fix="give one for each, in order",
        )
    for draw, wanted in zip(draws, frozen, strict=bool(frozen)):
        if not draw.fingerprint.startswith(wanted):
            what = f"has the fingerprint {draw.fingerprint[:12]}, the benchmark was frozen with {wanted[:12]}"
            raise UserError(
                what, where=draw.store.uri, fix="make the very leaves that were frozen, or leave --fingerprints out"
            )


def check_holdout(draw: Dataset, share: float) -> None:
    """UserError if a cultivar has no leaf to spare for choosing a learning rate."""
    index = read_index(draw, "train")
    try:
        held_out(index["label"].to_numpy().astype(np.int64), index["group"].to_pylist(), share, seed=0)
    except UserError as error:
        fix = "give a single one of --rates, so that there is nothing to choose, or ingest more photographs"
        raise UserError(error.what, where=draw.store.uri, fix=fix) from None


def rate_jobs(
    runners: Sequence[BenchmarkEntry], draws: Sequence[Dataset], settings: BenchmarkSettings, runs: str
) -> list[Job]:
    """Every learning rate once on every data set, on training leaves only; none where there is nothing to choose."""
    if settings.budget == "published" or len(settings.rates) == 1:
        return []
    for draw in draws:
        check_holdout(draw, settings.holdout)
    return [
        _job(runner, place, draw, settings, runs, seed=0, factor=factor, rate=True)
        for runner in runners
        if runner.who.rate_of is None
        for place, draw in enumerate(draws)
        for factor in settings.rates
    ]


def final_jobs(
    runners: Sequence[BenchmarkEntry],
    draws: Sequence[Dataset],
    settings: BenchmarkSettings,
    runs: str,
    factors: Mapping[str, float],
) -> list[Job]:
    """Every contestant on every data set with every seed, one seed after the other, so that a run that is cut off has whole seeds.

    factors: the chosen multiple of the learning rate by contestant; who has none and follows nobody who has is left out.
    """
    jobs = []
    for seed in range(settings.seeds):
        for runner in runners:
            factor = factors.get(runner.who.rate_of or runner.who.key)
            if factor is not None:
                jobs += [_job(runner, place, draw, settings, runs, seed, factor) for place, draw in enumerate(draws)]
    return jobs


def _job(
    runner: BenchmarkEntry,
    place: int,
    draw: Dataset,
    settings: BenchmarkSettings,
    runs: str,
    seed: int,
    factor: float,
    rate: bool = False,
) -> Job:
    train = TrainSettings(
        init=first_weights(settings.init, runner.backbone),
        mask=runner.mask,
        validation="holdout" if rate else "last",
        holdout=settings.holdout,
        precision=settings.precision,
        gpu=settings.gpu,
        cache="host",
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    method = replace(runner.method, recipe=recipe_for(runner.method, settings, factor))
    masks = read_manifest(draw, f"masks/{runner.mask}").fingerprint if method.regions else None
    plan, identity = make_plan(draw, method, train, seed, masks, runs)
    pictured = "III" in runner.who.tables and seed == 0 and place == 0 and not rate
    return Job(runner.who.key, place, seed, factor, "rate" if rate else "final", plan, identity, keep_model=pictured)


def first_weights(init: str, backbone: str) -> str:
    """What an architecture starts from. A relative path becomes a whole one: trials run in folders of their own."""
    return init if init in ("imagenet", "none") else open_store(init.replace("{backbone}", backbone)).uri


def decode(jobs: Sequence[Job], draws: Sequence[Dataset]) -> None:
    """Decodes what the trials share, once on this node, before they take its processors. Trials only map the files."""
    made: set[tuple[Any, ...]] = set()
    for job in jobs:
        plan, recipe, draw = job.plan, Recipe.model_validate(job.plan.recipe), draws[job.draw]
        wanted = [("train", recipe.resize, plan.mask_kind, plan.mask_fingerprint)]
        if job.purpose in ("rate", "fold"):
            wanted.append(("train", recipe.eval_resize, None, None))
        elif job.purpose == "final":
            wanted.append(("test", recipe.eval_resize, None, None))
        for split, side, kind, fingerprint in wanted:
            if (job.draw, split, side, kind) not in made:
                made.add((job.draw, split, side, kind))
                decoded_split(draw, split, side, kind, fingerprint, Path(plan.cache_folder))
