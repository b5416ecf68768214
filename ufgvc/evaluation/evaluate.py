"""From a model to its report: every test leaf scored once, other models beside it, everything that made the numbers told."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.evaluation.metrics import McNemar, Proportion, Scores, mcnemar, ranking, score
from ufgvc.evaluation.paper_results import paper_accuracy
from ufgvc.evaluation.provenance import facts, history, run_config, run_store, warnings
from ufgvc.evaluation.register import register_version
from ufgvc.evaluation.reliability import reliability
from ufgvc.evaluation.score import Scored, runs_here, score_split
from ufgvc.evaluation.settings import EvaluateResult, EvaluateSettings
from ufgvc.models.calibration import softmax
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.reports.evaluation_page import EvaluationRecord, compose_evaluation
from ufgvc.reports.page import footer
from ufgvc.reports.photographs import cam_panels, region_panels
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)


def evaluate(
    data: str,
    model_uri: str,
    compare: Mapping[str, str] | None = None,
    settings: EvaluateSettings | None = None,
    context: Context = Context(),
) -> EvaluateResult:
    """Scores a model on the test split and writes <run>/report/: report.html, metrics.json, predictions.parquet, figures as PNG.

    model_uri and the values of `compare` (label -> model): models:/name@alias, runs:/<id>/model or a folder.  A model that lies
    in no run folder is reported under <runs>/<dataset>/evaluate/<key>/report/.  UserError if a model's cultivars are not those of
    the data set. A model trained on another state of the data set is scored, and the page warns.
    """
    settings = settings or EvaluateSettings()
    dataset = open_dataset(data)
    addresses = {own_label(compare or {}): model_uri, **(compare or {})}
    models = {name: load_model(uri, context) for name, uri in addresses.items()}
    for name, model in models.items():
        check_classes(dataset, model, addresses[name])
    with (
        contextlib.nullcontext()
        if runs_here(dataset, settings)
        else ray_session(context.ray, settings.gpus_to_wait_for)
    ):
        scored = score_split(dataset, models, settings)
    scores = {name: score(logits, scored.label, settings.top) for name, logits in scored.logits.items()}
    tests = compared(scored, next(iter(addresses)))
    folder = report_folder(dataset, model_uri, context.runs)
    evidence = gather(dataset, models, addresses, scored, scores, tests, settings)
    page = compose_evaluation(evidence)
    metrics = measured(dataset, scores, tests, addresses, evidence)
    for figure in page.figures:
        folder.write_bytes(f"{figure.name}.png", figure.to_png())
    folder.write_bytes("predictions.parquet", predictions(scored, models))
    folder.write_json("metrics.json", metrics)
    folder.write_text("report.html", page.to_html())
    version = None
    if settings.register_version:
        version = register_version(model_uri, next(iter(models.values())), dataset, metrics, evidence.facts, context)
    first, *others = scores
    result = EvaluateResult(
        folder.uri, join(folder.uri, "report.html"), scores[first], {k: scores[k] for k in others}, version, metrics
    )
    log.info("%s", result.summary())
    return result


def own_label(compare: Mapping[str, str]) -> str:
    """What the model of the report is called in tables; UserError if a compared model has that name."""
    name = "this model"
    if name in compare:
        raise UserError(
            f"{name!r} is what the report calls the model of --model", where="--compare", fix="give another label"
        )
    return name


def check_classes(dataset: Dataset, model: LoadedModel, uri: str) -> None:
    """UserError unless the model names exactly the data set's cultivars, in the same order."""
    told = other_cultivars(dataset, model)
    if told:
        raise UserError(told, where=uri, fix="evaluate it on the data set it was trained for, or train it on this one")


def other_cultivars(dataset: Dataset, model: LoadedModel) -> str | None:
    """How the model's cultivars differ from the data set's; None if they are the same in the same order."""
    if tuple(model.classes) == dataset.classes:
        return None
    known, wanted = set(model.classes), set(dataset.classes)
    only_model, only_data = sorted(known - wanted)[:3], sorted(wanted - known)[:3]
    sides = (("only the model knows", only_model), ("only the data set has", only_data))
    told = "; ".join(f"{text} {', '.join(names)}" for text, names in sides if names)
    return f"names {len(known)} cultivars, the data set {dataset.name} has {len(wanted)}: {told or 'the same in another order'}"


def compared(scored: Scored, first: str) -> dict[str, McNemar]:
    """McNemar's test of the model of the report against every other one."""
    right = {name: ranking(logits)[:, 0] == scored.label for name, logits in scored.logits.items()}
    return {name: mcnemar(right[first], right[name]) for name in right if name != first}


def report_folder(dataset: Dataset, model_uri: str, runs: str) -> Store:
    """<run>/report of a run's model, else a folder named after the model and the data."""
    run = run_store(model_uri)
    if run is not None:
        return run.child("report")
    return open_store(runs).child(dataset.name, "evaluate", short_key([model_uri, dataset.fingerprint]), "report")


def gather(
    dataset: Dataset,
    models: Mapping[str, LoadedModel],
    addresses: Mapping[str, str],
    scored: Scored,
    scores: Mapping[str, Scores],
    tests: Mapping[str, McNemar],
    settings: EvaluateSettings,
) -> EvaluationRecord:
    """Figures, training history and provenance beside the scores."""
    runs = {name: run_store(uri) for name, uri in addresses.items()}
    configs = {name: run_config(run) for name, run in runs.items()}
    first, *others = models
    # The paper's order: the models compared with, then the one that is reported.
    shown = {name: models[name] for name in (*others, first)}
    return EvaluationRecord(
        dataset=dataset.name,
        method=models[first].method.name,
        classes=dataset.classes,
        scores=scores,
        tests=tests,
        history=history(runs[first]),
        cam=cam_panels(dataset, shown, scored, dataset.classes, settings.cam_leaves, settings.seed),
        regions=region_panels(
            dataset, scored, dataset.classes, settings.mask_kind, settings.region_leaves, settings.seed
        ),
        paper={
            name: paper_accuracy(settings.paper, model.method.name, model.method.options)
            for name, model in models.items()
        },
        reliability={name: reliability(model, scored, name) for name, model in models.items()},
        facts=facts(dataset, models[first], addresses[first], configs[first]),
        warnings=warnings(dataset, models, configs),
        footer=footer(),
    )


def measured(
    dataset: Dataset,
    scores: Mapping[str, Scores],
    tests: Mapping[str, McNemar],
    addresses: Mapping[str, str],
    evidence: EvaluationRecord,
) -> dict[str, Any]:
    """metrics.json: rates in [0, 1], counts beside them."""
    models = {}
    for name, one in scores.items():
        models[name] = {
            "uri": addresses[name],
            "accuracy": _proportion(one.accuracy),
            "balanced_accuracy": one.balanced_accuracy,
            f"top{one.top_k}": _proportion(one.top),
            "mean_probability": one.mean_probability,
            "reliability": evidence.reliability[name].to_json(),
            "recall": dict(zip(dataset.classes, (None if r != r else r for r in one.recall.tolist()), strict=True)),
        }
        if name in tests:
            models[name]["mcnemar"] = {
                "gains": tests[name].only_second,
                "losses": tests[name].only_first,
                "p": tests[name].p_value,
            }
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": "test",
        "warnings": list(evidence.warnings),
        "models": models,
    }


def _proportion(value: Proportion) -> dict[str, float]:
    return {"k": value.k, "n": value.n, "value": value.value, "low": value.low, "high": value.high}


def predictions(scored: Scored, models: Mapping[str, LoadedModel]) -> bytes:
    """predictions.parquet: one row a test leaf; per model the likeliest cultivar, its probability as `predict` tells it, whether it was
    right, and whether `predict` would call the leaf unknown.
    """
    classes = next(iter(models.values())).classes
    columns: dict[str, Any] = {"image_id": scored.image_id, "cultivar": [classes[i] for i in scored.label]}
    for name, logits in scored.logits.items():
        named = ranking(logits)[:, 0]
        columns[f"{name}: predicted"] = [classes[i] for i in named]
        columns[f"{name}: probability"] = softmax(logits, models[name].temperature).max(axis=1)
        columns[f"{name}: right"] = named == scored.label
        columns[f"{name}: unknown"] = ~models[name].is_known(scored.ood_score[name])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()
