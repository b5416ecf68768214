"""A model on storage: weights, what they mean, and how a photograph becomes what the network sees.

model.json            method, options, cultivars in label order, input, fingerprints, metrics, calibration, versions
weights.safetensors   the network's state; an exported model has model.onnx instead
known.safetensors     where the leaves that it learnt from lie, if it was calibrated
MLmodel, requirements.txt, python_env.yaml, code/ufgvc-*.whl      what MLflow needs to serve it
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, ValidationError
from torch import Tensor, nn

import ufgvc
from ufgvc.core.config import Settings, describe_validation
from ufgvc.core.errors import UserError
from ufgvc.core.process import versions
from ufgvc.core.storage import Store, open_store
from ufgvc.data.augment import eval_view
from ufgvc.data.images import decode, inspect
from ufgvc.data.stream import resize_square
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.models.calibration import REFERENCE, UNKNOWN, Calibration, FeatureSubspace, probabilities
from ufgvc.models.onnx_net import ONNX, OnnxNet
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import redact_values

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
MODEL, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1
AGAIN = "train the model again, or copy it again"
TOP = 5
BATCH = 32


class Input(Settings):
    """What the network takes.  resize: side in pixels of the whole photograph, squared.  size: side of the middle that is cut out of it."""

    resize: int = Field(gt=0)
    size: int = Field(gt=0, validation_alias=AliasChoices("size", "crop"))
    view: str = "center_crop"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to name cultivars. Everything that scores or predicts goes through it, so all see a photograph alike.

    classes: cultivars in label order.  input: resize, size, view.  info: model.json.
    calibration: None if nobody fitted one; probabilities are then the network's own, and no leaf is unknown.  reference: what a leaf must
    look like to be known; None where the calibration has no threshold.
    """

    method: Method
    classes: tuple[str, ...]
    input: dict[str, Any]
    info: dict[str, Any]
    calibration: Calibration | None = None
    reference: FeatureSubspace | None = None

    @property
    def net(self) -> nn.Module:
        """The network, in eval mode."""
        return self.method.net

    @property
    def exported(self) -> bool:
        """Whether onnxruntime runs it instead of torch."""
        return isinstance(self.method.net, OnnxNet)

    @property
    def unknown_name(self) -> str:
        """What stands for the cultivar of an unknown leaf: `unknown`, in as many parentheses as no cultivar of the model has."""
        taken, name = {cultivar.strip().casefold() for cultivar in self.classes}, UNKNOWN
        while name in taken:
            name = f"({name})"
        return name

    def to(self, device: str | torch.device) -> LoadedModel:
        """This model, its network moved to a device."""
        self.method.net.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is, whoever moved it. An exported one takes its images from the CPU."""
        first = next(self.method.net.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def read(self, photograph: bytes, orientation: int | None = None) -> NDArray[np.uint8]:
        """An encoded photograph -> (resize, resize, 3) uint8. orientation: EXIF 1-8; None: as the file says.

        BadImage if it cannot be read.
        """
        turn = inspect(photograph).orientation if orientation is None else orientation
        return self.square(decode(photograph, turn))

    def square(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An upright (H, W, 3) uint8 image -> (resize, resize, 3) uint8."""
        return resize_square(image, int(self.input["resize"]))

    def view(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Upright images of any size, (H, W, 3) uint8 -> what the network sees: (B, 3, size, size) float in [0, 1], on the device."""
        stacked = torch.from_numpy(np.stack([self.square(image) for image in images]))
        return eval_view(stacked.to(self.device), int(self.input["size"]))

    def logits(self, images: Sequence[NDArray[np.uint8]], batch_size: int = BATCH) -> NDArray[np.float32]:
        """Upright images of any size, (H, W, 3) uint8 -> (N, classes) float32."""
        return self.scores(images, batch_size)[0]

    def scores(
        self, images: Sequence[NDArray[np.uint8]], batch_size: int = BATCH
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Upright images of any size, (H, W, 3) uint8 -> logits (N, classes) float32, and strangeness (N,) (0 without a reference)."""
        found, strange = [np.zeros((0, len(self.classes)), np.float32)], [np.zeros(0)]
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                view = self.view(images[start : start + batch_size])
                if self.reference is None:
                    found.append(self.method.predict(view).float().cpu().numpy())
                    strange.append(np.zeros(len(view)))
                else:
                    logits, seen = self.method.predict_with_features(view)
                    found.append(logits.float().cpu().numpy())
                    strange.append(self.reference.strangeness(seen.cpu().numpy()))
        return np.concatenate(found), np.concatenate(strange)

    def predict(
        self, photographs: Sequence[bytes], top: int = TOP, batch_size: int = BATCH, unknown: bool = True
    ) -> pd.DataFrame:
        """Encoded photographs -> cultivar, probability, top5 (JSON: a list of {cultivar, probability}; all if there are fewer), known.

        known is false, and cultivar is `unknown` (see `unknown_name`), where the leaf is stranger than the calibration's threshold;
        probability and top5 are of the candidates all the same.  unknown: whether that is wanted.  BadImage if one cannot be read.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for start in range(0, len(photographs), batch_size):
            logits, strangeness = self.scores(
                [self.read(photograph) for photograph in photographs[start : start + batch_size]]
            )
            known = self.known(strangeness) | (not unknown)
            rows += [self._row(ranked, bool(known[row])) for row, ranked in enumerate(self.ranked(logits, top))]
        return pd.DataFrame(rows, columns=["cultivar", "probability", "top5", "known"])

    def _row(self, ranked: list[dict[str, Any]], known: bool) -> dict[str, Any]:
        name = {} if known else {"cultivar": self.unknown_name}
        return {**ranked[0], **name, "top5": json.dumps(ranked, ensure_ascii=False), "known": known}

    def ranked(self, logits: NDArray[np.float32], top: int = TOP) -> Iterator[list[dict[str, Any]]]:
        """For each row of logits the likeliest cultivars, first the likeliest; equal ones in label order."""
        for chances in probabilities(logits, self.temperature):
            order = np.argsort(-chances, kind="stable")[:top]
            yield [{"cultivar": self.classes[i], "probability": float(chances[i])} for i in order]

    def known(self, strangeness: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) whether a leaf may be one of the model's cultivars; always, without a threshold."""
        threshold = self.calibration.threshold if self.calibration else None
        return np.ones(len(strangeness), bool) if threshold is None else strangeness <= threshold

    @property
    def temperature(self) -> float:
        return self.calibration.temperature if self.calibration else 1.0


def save_model(
    folder: Path,
    method: Method,
    classes: Sequence[str],
    input: Mapping[str, Any],
    fingerprints: Mapping[str, str | None] | None = None,
    metrics: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model into a local folder, ready for MLflow to serve.

    input: {"resize", "size", "view"}, see Input.  fingerprints: of the images ("data") and masks that it was trained on.  info: what
    else model.json should tell (seed, run_id, ...).
    """
    from safetensors.torch import save_file

    from ufgvc.models.pyfunc import write_description

    if len(classes) != method.num_classes:
        raise ValueError(f"{len(classes)} names for {method.num_classes} classes")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in method.net.state_dict().items()}
    save_file(weights, str(folder / WEIGHTS))
    told = {
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
    whole = redact_values(
        {**(info or {}), **{key: value for key, value in told.items() if value or key not in (info or {})}}
    )
    if importlib.util.find_spec("mlflow") is None:  # a host that only trains (cluster/gpu) may do without
        log.warning(
            "MLflow is not installed here: %s can be evaluated and used by `ufgvc`, but not served by MLflow", folder
        )
    else:
        write_description(folder, str(method.options.get("backbone", "")))
    (folder / MODEL).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(uri: str, context: Context = Context()) -> LoadedModel:
    """A model from models:/name@alias, models:/name/3, runs:/<id>/model, or a folder (local or s3://...).

    context: where MLflow is: its server, or its database in the folder of all runs.  UserError if it is not there, with what is.
    """
    if uri.startswith(("models:", "runs:")):
        from ufgvc.tracking.registry import fetched

        with fetched(uri, context) as folder:
            return read_model(open_store(folder), uri)
    return read_model(open_store(uri), uri)


def read_model(store: Store, uri: str) -> LoadedModel:
    """A model from its folder, exported or not; `uri` is what messages call it."""
    try:
        info = dict(store.read_json(MODEL))
        exported = not store.exists(WEIGHTS) and store.exists(ONNX)
        content = store.read_bytes(ONNX if exported else WEIGHTS)
    except FileNotFoundError:
        what = f"holds no model ({MODEL} and {WEIGHTS} or {ONNX})" if store.list() else "is empty or not there"
        raise UserError(what, where=uri, fix="give <run>/model, runs:/<id>/model or models:/<name>@<alias>") from None
    if not {"method", "classes", "options", "input"} <= info.keys():
        what = (
            "is a region detector, not a classifier"
            if info.get("kind") == "regions"
            else f"is no classifier by its {MODEL}"
        )
        raise UserError(
            what, where=uri, fix="give the model folder of a training: <runs>/<data set>/<method>/<run>/model"
        )
    if info.get("format", FORMAT) > FORMAT:
        raise UserError(f"was made by a later ufgvc ({info.get('ufgvc')})", where=uri, fix="upgrade ufgvc")
    method = build(info["method"], num_classes=len(info["classes"]), init="none", **info["options"])
    if info.get("mirror") is not None:
        method = replace(method, recipe=method.recipe.model_copy(update={"mirror": info["mirror"]}))
    try:
        spec = Input.model_validate(info["input"])
        calibration = Calibration.model_validate(info["calibration"]) if info.get("calibration") else None
        reference = (
            FeatureSubspace.from_bytes(store.read_bytes(REFERENCE))
            if calibration and calibration.threshold is not None
            else None
        )
    except ValidationError as error:
        raise describe_validation(error, f"{uri}, {MODEL}") from None
    method = run_by_onnx(method, content) if exported else _filled(method, content, uri)
    return LoadedModel(
        method, tuple(info["classes"]), spec.model_dump(), info, calibration=calibration, reference=reference
    )


def run_by_onnx(method: Method, content: bytes) -> Method:
    """The method with an exported net. The file averages mirrored views itself, so nobody does it twice."""
    recipe = method.recipe.model_copy(update={"mirror": False})
    return replace(method, net=OnnxNet(content).eval(), recipe=recipe)


def _filled(method: Method, content: bytes, uri: str) -> Method:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        method.net.load_state_dict(load(content))
    except SafetensorError as error:
        raise UserError(f"is damaged: {error}", where=uri, fix=AGAIN) from None
    except RuntimeError as error:
        raise UserError(
            f"its weights do not fit: {str(error).splitlines()[0]}", where=uri, fix="was model.json edited?"
        ) from None
    method.net.eval()
    return method
