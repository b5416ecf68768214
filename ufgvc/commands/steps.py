"""The steps in order, and what may be skipped. Each step finds its own finished result; a changed setting redoes what depends on it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from ufgvc.commands.fields import context_of
from ufgvc.core.config import select_fields, short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.runtime.session import ray_session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What a step left.  summary: a line or more for people.  result: what the next step needs."""

    summary: str
    result: Any
    found: bool = False


def run_pipeline(told: Any) -> dict[str, Step]:
    """All steps; prints a line for each. A killed pipeline started again goes on where it was. UserError for a training over folds."""
    if told.train.validation == "kfold" and told.train.fold is None:
        raise UserError(
            "kfold trains a model for each fold, to measure; a pipeline needs one model to evaluate and register",
            where="--train.validation kfold",
            fix="use last, holdout or test here; after `ufgvc ingest` (and `mask`), `ufgvc train --train.validation kfold` measures",
        )
    _check_later_steps(told)
    steps: dict[str, Step] = {}

    def done(name: str, started: float, step: Step) -> Step:
        steps[name] = step
        note = "found, not done again" if step.found else f"{time.monotonic() - started:.0f} s"
        print(f"\n== {name} ({note})\n{step.summary}", flush=True)
        return step

    with ray_session(told.ray):
        started = time.monotonic()
        done("ingest", started, ingest_step(told, told.ingest))
        detector: str | None = None
        if _needs_masks(told):
            if told.mask.kind != "exact":
                started = time.monotonic()
                detector = done("detect", started, detect_step(told, told.detect)).result.model
            started = time.monotonic()
            done("mask", started, mask_step(told, told.mask, detector))
        started = time.monotonic()
        model = done("train", started, train_step(told)).result.model
        started = time.monotonic()
        done("evaluate", started, evaluate_step(told, told.evaluate, model, told.compare))
    return steps


def _check_later_steps(told: Any) -> None:
    """UserError now for places that only the last steps read."""
    from ufgvc.methods.weights import check_init
    from ufgvc.models.model import load_model

    check_init(told.train.init)
    for pair in told.compare:
        load_model(_labelled(pair)[1], context_of(told))


def _needs_masks(told: Any) -> bool:
    return bool(getattr(told.options, "regions", ()))


def ingest_step(told: Any, settings: Any) -> Step:
    """Skipped when the source's files and the settings are those of the data set that is there."""
    from ufgvc.data.dataset import open_dataset
    from ufgvc.data.ingest import IngestSettings, ingest
    from ufgvc.data.readers.snapshot import boxes_state, source_state

    settings = select_fields(IngestSettings, settings)
    store = open_store(told.data)
    state = [source_state(told.source, without=store), boxes_state(told.boxes) if told.boxes else None]
    places = [open_store(place).uri if place else None for place in (told.source, told.boxes)]
    key = short_key([*places, told.name, told.reader, told.split, told.seed, settings.model_dump(mode="json"), state])
    if not told.fresh and store.exists("ingested.json") and store.read_json("ingested.json").get("key") == key:
        dataset = open_dataset(told.data)
        return Step(
            f"{_describe(dataset)}\nnothing in the source has changed since; --fresh reads it again",
            dataset,
            found=True,
        )
    with ray_session(told.ray):
        dataset = ingest(
            told.source, told.data, told.name, told.reader, told.boxes, told.split, told.seed, settings, told.ray
        )
    store.write_json("ingested.json", {"key": key, "fingerprint": dataset.fingerprint})
    return Step(_describe(dataset), dataset)


def _describe(dataset: Any) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in dataset.counts.items())
    return f"{dataset.name}: {len(dataset.classes)} cultivars, {counts} leaves; fingerprint {dataset.fingerprint[:12]}; {dataset.store.uri}"


def detect_step(told: Any, settings: Any) -> Step:
    from ufgvc.regions.settings import DetectSettings
    from ufgvc.regions.train_detector import detect

    result = detect(told.data, select_fields(DetectSettings, settings), context_of(told))
    return Step(result.summary(), result, result.found)


def mask_step(told: Any, settings: Any, detector: str | None) -> Step:
    from ufgvc.regions.mask_dataset import mask
    from ufgvc.regions.settings import MaskSettings

    result = mask(told.data, select_fields(MaskSettings, settings), detector, told.source, context_of(told))
    return Step(result.summary(), result, result.found)


def train_step(told: Any) -> Step:
    from ufgvc.training.run import train, train_folds

    options = told.options.model_dump(mode="json")
    if told.train.validation == "kfold" and told.train.fold is None:
        results = train_folds(told.data, told.method, options, told.train, context_of(told))
    else:
        results = [train(told.data, told.method, options, told.train, context_of(told))]
    lines = []
    for result in results:
        row = result.metrics
        text = f"train accuracy {100 * row['train_accuracy']:.1f} %"
        if "validation_accuracy" in row:
            share = f"{int(row['validation_correct'])} of {int(row['validation_leaves'])}"
            selected = "selected on test" if result.validation == "test" else f"best on {result.validation}"
            text += f", {selected}: {share} = {100 * row['validation_accuracy']:.1f} %"
        lines.append(f"{text}; model {result.model}")
    return Step("\n".join(lines), results[0], all(result.found for result in results))


def evaluate_step(told: Any, settings: Any, model: str, compare: tuple[str, ...]) -> Step:
    from ufgvc.evaluation.settings import EvaluateSettings
    from ufgvc.experiments.evaluate import evaluate

    others = dict(_labelled(pair) for pair in compare)
    result = evaluate(told.data, model, others, select_fields(EvaluateSettings, settings), context_of(told))
    return Step(result.summary(), result)


def _labelled(pair: str) -> tuple[str, str]:
    label, equals, model = pair.partition("=")
    if not (label and equals and model):
        raise UserError(
            f"{pair!r} is not label=MODEL", where="--compare", fix="e.g. --compare backbone=models:/ufgvc-cotton80/1"
        )
    return label, model
