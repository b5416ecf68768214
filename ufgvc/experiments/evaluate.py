"""The `evaluate` command: scores a model on the test split, writes its report, and registers it."""

from __future__ import annotations

from collections.abc import Mapping

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.evaluation.evaluation import evaluate_scores, predictions_parquet
from ufgvc.evaluation.model_card import register_version
from ufgvc.evaluation.provenance import class_mismatch, run_store
from ufgvc.evaluation.score import score_split, session_for_scores
from ufgvc.evaluation.settings import EvaluateResult, EvaluateSettings
from ufgvc.models.model import load_model
from ufgvc.reports.evaluation_page import compose_evaluation
from ufgvc.reports.photographs import cam_panels, region_panels
from ufgvc.tracking.context import Context

OWN_LABEL = "this model"


def evaluate(
    data: str,
    model_uri: str,
    compare: Mapping[str, str] | None = None,
    settings: EvaluateSettings | None = None,
    context: Context = Context(),
) -> EvaluateResult:
    """Scores a model on the test split, and writes report.html, metrics.json, predictions.parquet and figures as PNG.

    The report folder is <run>/report, or <runs>/<dataset>/evaluate/<key>/report for a model outside of a run folder. A
    model that was trained on another version of the data set is scored, with a warning on the page.

    Args:
        data: the data set.
        model_uri: models:/name@alias, runs:/<id>/model or a folder.
        compare: label -> address of other models, for the table, the tests and the figure.

    Raises:
        UserError: there is no such model, or its classes are not those of the data set.
    """
    settings = settings or EvaluateSettings()
    dataset = open_dataset(data)
    if OWN_LABEL in (compare or {}):
        what = f"{OWN_LABEL!r} is what the report calls the model of --model"
        raise UserError(what, where="--compare", fix="give another label")
    uris = {OWN_LABEL: model_uri, **(compare or {})}
    models = {name: load_model(uri, context) for name, uri in uris.items()}
    for name, model in models.items():
        if mismatch := class_mismatch(dataset, model):
            fix = "evaluate it on the data set it was trained for, or train it on this one"
            raise UserError(mismatch, where=uris[name], fix=fix)
    with session_for_scores(dataset, settings, context.ray):
        scored = score_split(dataset, models, settings)
    evaluation = evaluate_scores(dataset, models, uris, scored, settings)
    metrics = evaluation.to_json()
    # As in the paper's figure: first the models that are compared, last the one that is evaluated.
    shown = {name: models[name] for name in (*(compare or {}), OWN_LABEL)}
    cam = cam_panels(dataset, shown, scored, dataset.classes, settings.cam_leaves, context.seed)
    regions = region_panels(dataset, scored, dataset.classes, settings.mask_kind, settings.region_leaves, context.seed)
    page = compose_evaluation(evaluation, cam, regions)
    folder = _report_folder(dataset, model_uri, context.runs)
    for figure in page.figures:
        folder.write_bytes(f"{figure.name}.png", figure.to_png())
    folder.write_bytes("predictions.parquet", predictions_parquet(scored, models))
    folder.write_json("metrics.json", metrics)
    folder.write_text("report.html", page.to_html())
    version = None
    if settings.register_version:
        version = register_version(model_uri, models[OWN_LABEL], dataset, metrics, evaluation.facts, context)
    others = {name: one for name, one in evaluation.scores.items() if name != OWN_LABEL}
    report = join(folder.uri, "report.html")
    return EvaluateResult(folder.uri, report, evaluation.scores[OWN_LABEL], others, version, metrics)


def _report_folder(dataset: Dataset, model_uri: str, runs: str) -> Store:
    run = run_store(model_uri)
    if run is not None:
        return run.child("report")
    return open_store(runs).child(dataset.name, "evaluate", short_key([model_uri, dataset.fingerprint]), "report")
