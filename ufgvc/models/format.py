"""The files of a saved model: writing them, reading them, and upgrading those of earlier versions.

model.json                       method, options, class names, input sizes, fingerprints, metrics, calibration,
                                 versions, and the package of the method if that is not ours
weights.safetensors              the state dict of the network; an exported model has model.onnx instead
feature_subspace.safetensors     what out-of-distribution scores are computed from, if the model was calibrated
training_leaves.parquet          embeddings and thumbnails of training leaves, unless it was trained without
MLmodel, requirements.txt, conda.yaml, python_env.yaml, code/ufgvc/      what MLflow needs to load and serve the model
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, ValidationError

import ufgvc
from ufgvc.core.config import Settings, describe_validation, short_key
from ufgvc.core.errors import UserError
from ufgvc.core.process import versions
from ufgvc.core.storage import Store, open_store
from ufgvc.methods.method import Method
from ufgvc.methods.plugins import package_of
from ufgvc.models.calibration import Calibration, FeatureSubspace
from ufgvc.models.mlflow_files import write_mlflow_files
from ufgvc.models.onnx import ONNX
from ufgvc.models.training_leaves import TRAINING_LEAVES, TrainingLeaves
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.tracking.settings import redact_values

log = logging.getLogger(__name__)
MODEL, WEIGHTS, SUBSPACE = "model.json", "weights.safetensors", "feature_subspace.safetensors"
FORMAT = 2
_SUBSPACE_1 = "known.safetensors"
_VALIDATION_1 = {
    "last epoch": "last",
    "selected on test": "test",
    "best on holdout": "holdout",
    "best on kfold": "kfold",
}
# Options of format 1 by method: where they are now.
_OPTIONS_1: dict[str, dict[str, tuple[str, ...]]] = {
    "mask_guided": {
        "reading": ("variant",),
        **{name: ("control", name) for name in ("guide", "maps", "statistics", "gain")},
    },
    "region_tokens": {"guide": ("control", "guide")},
    "leaf_traits": {"trunk": ("control", "trunk")},
}


class Input(Settings):
    """What the network takes."""

    resize: int = Field(gt=0)
    """side in pixels to which the whole image is resized; the aspect ratio is not kept"""
    size: int = Field(gt=0, validation_alias=AliasChoices("size", "crop"))
    """side in pixels of the centre crop of it"""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, read and checked.

    info: model.json in the current format.  content: of the weights or the ONNX file.
    """

    info: dict[str, Any]
    input: Input
    content: bytes
    exported: bool
    calibration: Calibration | None
    subspace: FeatureSubspace | None
    leaves: TrainingLeaves | None


def save_model(
    folder: Path,
    method: Method,
    classes: Sequence[str],
    input: Mapping[str, Any],
    fingerprints: Mapping[str, str | None] | None = None,
    metrics: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    leaves: TrainingLeaves | None = None,
) -> None:
    """Writes a model into a local folder, so that `load_model` and MLflow can load it.

    Args:
        folder: is made; files of an earlier model in it are overwritten.
        method: with the weights to save.
        classes: names in label order. ValueError unless there are `method.num_classes`.
        input: {"resize", "size"}, see `Input`.
        fingerprints: of the images ("data") and masks that the model was trained on.
        metrics: of the saved epoch.
        info: further entries of model.json (seed, run_id, ...).
        leaves: the training leaves that it carries.
    """
    from safetensors.torch import save_file

    if len(classes) != method.num_classes:
        raise ValueError(f"{len(classes)} names for {method.num_classes} classes")
    folder.mkdir(parents=True, exist_ok=True)
    package = package_of(method.name)
    if not _has_mlflow():
        log.warning("MLflow is not installed: `ufgvc` can use %s, but MLflow cannot serve it", folder)
    else:
        write_mlflow_files(folder, str(method.options.get("backbone", "")), package)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in method.net.state_dict().items()}
    save_file(weights, str(folder / WEIGHTS))
    (folder / TRAINING_LEAVES).unlink(missing_ok=True)
    if leaves is not None:
        (folder / TRAINING_LEAVES).write_bytes(leaves.to_bytes())
    own = {
        "format": FORMAT,
        "ufgvc": ufgvc.__version__,
        "method": method.name,
        "options": method.options,
        "mirror": method.recipe.mirror,
        "classes": list(classes),
        "input": Input.model_validate(dict(input)).model_dump(),
        "fingerprints": dict(fingerprints or {}),
        "metrics": dict(metrics or {}),
        "versions": versions(),
    }
    if package is not None:
        own["package"] = package.to_json()
    more = dict(info or {})
    whole = redact_values(more | {key: value for key, value in own.items() if value or key not in more})
    (folder / MODEL).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_files(store: Store, uri: str) -> ModelFiles:
    """Reads and checks the files of a model, exported or not. UserError if there is none, or none of a classifier.

    uri: how error messages name the folder.
    """
    try:
        info = dict(store.read_json(MODEL))
        exported = not store.exists(WEIGHTS) and store.exists(ONNX)
        content = store.read_bytes(ONNX if exported else WEIGHTS)
    except FileNotFoundError:
        what = f"holds no model ({MODEL} and {WEIGHTS} or {ONNX})" if store.list() else "is empty or not there"
        raise UserError(what, where=uri, fix="give <run>/model, runs:/<id>/model or models:/<name>@<alias>") from None
    if not {"method", "classes", "options", "input"} <= info.keys():
        detector = info.get("kind") == "regions"
        what = "is a region detector, not a classifier" if detector else f"is not a classifier according to its {MODEL}"
        fix = "give the model folder of a training: <runs>/<data set>/<method>/<run>/model"
        raise UserError(what, where=uri, fix=fix)
    if info.get("format", FORMAT) > FORMAT:
        raise UserError(f"was made by a later ufgvc ({info.get('ufgvc')})", where=uri, fix="upgrade ufgvc")
    info = upgrade(info)
    try:
        input_sizes = Input.model_validate(info["input"])
        calibration = Calibration.model_validate(info["calibration"]) if info.get("calibration") else None
    except ValidationError as error:
        raise describe_validation(error, f"{uri}, {MODEL}") from None
    subspace = None
    if calibration and calibration.threshold is not None:
        name = SUBSPACE if store.exists(SUBSPACE) else _SUBSPACE_1
        subspace = FeatureSubspace.from_bytes(store.read_bytes(name))
    return ModelFiles(info, input_sizes, content, exported, calibration, subspace, _read_leaves(store, uri))


def _read_leaves(store: Store, uri: str) -> TrainingLeaves | None:
    if not store.exists(TRAINING_LEAVES):
        return None
    return TrainingLeaves.from_bytes(store.read_bytes(TRAINING_LEAVES), f"{uri}, {TRAINING_LEAVES}")


def upgrade(info: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a model.json in the current format."""
    new = dict(info)
    if new.get("format", FORMAT) >= FORMAT:
        return new
    new["format"] = FORMAT
    new["input"] = {key: value for key, value in info["input"].items() if key != "view"}
    if info.get("calibration"):
        renamed = {"known_share": "coverage", "leaves": "num_images"}
        new["calibration"] = {renamed.get(key, key): value for key, value in info["calibration"].items()}
    selection = new.pop("selection", None)
    if selection:
        new["validation"] = _VALIDATION_1.get(selection, selection)
    if info.get("metrics"):
        new["metrics"] = {key: value for key, value in info["metrics"].items() if key != "selection"}
    if info.get("recipe"):
        renamed = {"test_view": "eval_view"}
        new["recipe"] = {renamed.get(key, key): value for key, value in info["recipe"].items()}
    options: dict[str, Any] = {}
    for key, value in info["options"].items():
        *groups, name = _OPTIONS_1.get(info["method"], {}).get(key, (key,))
        place = options
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    new["options"] = options
    return new


def write_exported(
    store: Store,
    info: Mapping[str, Any],
    content: bytes,
    subspace: FeatureSubspace | None,
    leaves: TrainingLeaves | None,
) -> None:
    """Writes an exported model. model.json is last: its presence says that the model is complete."""
    store.write_bytes(ONNX, content)
    if subspace is not None:
        store.write_bytes(SUBSPACE, subspace.to_bytes())
    if leaves is not None:
        store.write_bytes(TRAINING_LEAVES, leaves.to_bytes())
    store.write_json(MODEL, dict(info))


def write_calibration(
    run: Store, calibration: Calibration, subspace: FeatureSubspace, experiment: str, context: Context
) -> None:
    """Adds a calibration to the model of a run, and logs the calibrated model as a new artifact on MLflow.

    Versions that were registered before keep their files; the next `register` registers the new artifact. A run that
    was not tracked is not tracked now. The run's model is calibrated at the end: interrupted, it is as it was.
    """
    model, artifact = run.child("model"), f"model-{short_key(calibration)}"
    info = upgrade(model.read_json(MODEL)) | {"calibration": calibration.model_dump(), "artifact": artifact}
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as temporary:
        folder = Path(temporary)
        if model.exists("MLmodel") and _has_mlflow():  # an earlier version's package may not read this calibration
            write_mlflow_files(folder, str(info["options"].get("backbone", "")), package_of(info["method"]))
            model.upload(folder)
        if Journal(run.child("journal")).read_identity() is not None:
            model.download(folder)
            (folder / SUBSPACE).write_bytes(subspace.to_bytes())
            open_store(folder).write_json(MODEL, info)
            with finish_run_on_exit(start_run(context, experiment, run.uri, {}, {}, store=run)) as mlflow_run:
                mlflow_run.log_folder(folder, artifact)
    model.write_bytes(SUBSPACE, subspace.to_bytes())
    model.write_json(MODEL, info)


def _has_mlflow() -> bool:
    """A host that only trains (cluster/gpu) may do without."""
    return importlib.util.find_spec("mlflow") is not None
