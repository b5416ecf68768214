"""The `predict` command: any number of photographs with Ray actors, in constant memory; a few in this process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import HEAD_BYTES, READABLE_TYPES, detect_file_type, explain_unreadable
from ufgvc.data.readers.scan import Rejected, find_photographs, scan, split_uri
from ufgvc.evaluation.doubt import MostDoubtful
from ufgvc.evaluation.drift import Drift, DriftCounter
from ufgvc.evaluation.prediction_writer import PredictionWriter
from ufgvc.evaluation.predictor import predict_by_actors, predict_in_threads
from ufgvc.evaluation.settings import PredictResult, PredictSettings
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.models.onnx import export_pays, has_gpu_provider
from ufgvc.runtime.resources import choose_device
from ufgvc.runtime.session import RaySettings, ray_session, runs_in_process, uses_cluster
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)

FEW = 100  # photographs; with a cluster, up to here starting an actor takes longer than it saves


@dataclass(frozen=True)
class Predicted:
    """What a page of predictions is made of.

    photographs: their store.  out: the store of the output.  model: that predicted.  rows: the most doubtful ones, in
    order, see `_predict_rows`.  result: counts and URIs.  drift: of all photographs.
    """

    photographs: Store
    out: Store
    model: LoadedModel
    rows: Sequence[Mapping[str, Any]]
    result: PredictResult
    drift: Drift
    settings: PredictSettings
    ray: RaySettings


def predict(
    source: str,
    model: str,
    out: str,
    settings: PredictSettings | None = None,
    context: Context = Context(),
    make_page: Callable[[Predicted], str] | None = None,
) -> PredictResult:
    """Writes <out>/predictions.csv, .json, predictions/*.parquet and rejected.csv for every photograph below `source`.

    Paths in the output are relative to `source`. A photograph that cannot be read is listed in rejected.csv.

    Args:
        source: a folder, a bucket or one file.
        model: models:/name@alias, runs:/<id>/model or a folder.
        out: folder or URI.
        make_page: writes a page and returns its URI; called in the same Ray session, unless `settings.page` is 0.

    Raises:
        UserError: there is no photograph, or no model.
    """
    settings = settings or PredictSettings()
    target = open_store(out)
    store, names, rejected = list_photographs(source, without=target)
    if target.path == store.path and target.fs.equals(store.fs):
        raise UserError(
            "the predictions would be written among the photographs", where="--out", fix="give another folder"
        )
    loaded = load_model(model, context)
    computing = choose_runtime(loaded, model, len(names), settings, context.ray)
    loaded = computing if settings.runtime == "onnx" else loaded  # else torch makes the maps of the page
    session: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not predicts_in_process(len(names), settings, context.ray):
        session = ray_session(context.ray, settings.gpus_to_wait_for)
    doubtful, drift = MostDoubtful(settings.page if make_page else 0), DriftCounter(loaded)
    with session, PredictionWriter(target, loaded, settings) as writer:
        for file in rejected:
            writer.reject(file.path, file.reason)
        for row in _predict_rows(store, names, computing, settings, context.ray):
            writer.add(row)
            if not row["reason"]:
                doubtful.add(row)
                drift.add(row)
        result = replace(writer.finish(len(names) + len(rejected)), drift=drift.result())
        if make_page and settings.page:
            shown = Predicted(store, target, loaded, doubtful.rows, result, drift.result(), settings, context.ray)
            result = replace(result, page=make_page(shown))
        return result


def predicts_in_process(photographs: int, settings: PredictSettings, ray: RaySettings) -> bool:
    """Whether this process predicts that many photographs itself.

    With `max_actors: 0`; without a number, for as many as a step does without Ray on one machine, and with a cluster
    for a few of them, unless they need a GPU, which the cluster may have only elsewhere.
    """
    few = photographs <= FEW and settings.device != "gpu"
    return settings.max_actors == 0 or (settings.max_actors is None and (few or runs_in_process(ray, photographs)))


def choose_runtime(
    model: LoadedModel, uri: str, photographs: int, settings: PredictSettings, ray: RaySettings
) -> LoadedModel:
    """The model for the runtime: torch, onnx (a torch model is exported and checked first), or auto: onnx where the
    export pays and this machine computes on its CPUs, else as the model was loaded.

    UserError for torch if the model is an exported one, and for onnx if it cannot be exported.
    """
    if settings.runtime == "torch" and model.exported:
        fix = "use `--runtime onnx`, or give the model that it was exported from"
        raise UserError("is an exported model, which torch cannot run", where=uri, fix=fix)
    if settings.runtime == "torch" or model.exported:
        return model
    from ufgvc.models.model import export_to_onnx

    if settings.runtime == "auto":
        views = 2 if model.method.recipe.mirror else 1
        here = settings.device != "gpu" and not uses_cluster(ray) and choose_device(settings.device) == "cpu"
        if not here or not export_pays(photographs, views, int(model.input["size"]), "cpu"):
            return model
    try:
        exported, parity = export_to_onnx(model, on_cpu=settings.runtime == "auto")
    except UserError as error:
        if settings.runtime == "onnx":
            raise
        log.info("predict: by torch, because onnxruntime cannot: %s", error)
        return model
    log.info("exported to ONNX for this prediction: %s", parity.summary())
    return exported


def list_photographs(source: str, without: Store | None = None) -> tuple[Store, list[str], list[Rejected]]:
    """The store, the names of its photographs, and the other files with the reason; the same list as that of `ingest`.

    without: a folder below the source that is skipped.  UserError if there is no photograph.
    """
    folder, file = split_uri(source)
    store = open_store(folder)
    if file:
        head = _read_head(store, file) if store.is_file(file) else b""
        if not store.is_file(file):
            raise UserError("there is no such file or folder", where=source, fix="check --source")
        if detect_file_type(head) not in READABLE_TYPES:
            raise UserError(
                explain_unreadable(head), where=source, fix="give a photograph, or a folder or bucket of photographs"
            )
        return store, [file], []
    found = find_photographs(scan(store, without=without))
    others = [Rejected(path, "is not a photograph") for path in found.others]
    rejected = [*found.rejected, *found.left_out, *others]
    if not found.sizes:
        example = f"; {rejected[0].path} {rejected[0].reason}" if rejected else ""
        raise UserError(
            f"holds no photograph that can be read{example}", where=source, fix="give a folder or bucket of photographs"
        )
    return store, list(found.sizes), rejected


def _read_head(store: Store, name: str) -> bytes:
    with store.open_input(name) as file:
        return bytes(file.read(HEAD_BYTES))


def _predict_rows(
    store: Store, names: list[str], model: LoadedModel, settings: PredictSettings, ray: RaySettings
) -> Iterator[dict[str, Any]]:
    can_use_gpu = not model.exported or has_gpu_provider()
    if settings.device == "gpu" and not can_use_gpu:
        what = "the onnxruntime that is installed cannot use a GPU"
        raise UserError(what, where="--device gpu", fix="use `--device auto`, or install onnxruntime-gpu")
    if predicts_in_process(len(names), settings, ray):
        device = choose_device(settings.device) if can_use_gpu else "cpu"
        batches = predict_in_threads(store, names, model, settings, device)
    else:
        batches = predict_by_actors(store, names, model, settings, can_use_gpu)
    classes = model.classes
    for batch in batches:
        for row in batch.to_pylist():
            row["names"] = [classes[i] for i in row.pop("classes")]
            row["known"] = row["known"] or not settings.unknown
            yield row
