"""A trained model in memory: from images to logits, classes and probabilities."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError, first_line
from ufgvc.core.storage import Store, open_store
from ufgvc.data.augment import eval_view
from ufgvc.data.images import BadImage, decode, decode_photograph
from ufgvc.data.resize import resize_square
from ufgvc.methods import build
from ufgvc.methods.method import POOLED_FEATURES, Method
from ufgvc.methods.plugins import check_package
from ufgvc.models.calibration import Calibration, FeatureSubspace, softmax
from ufgvc.models.format import WEIGHTS, read_files, write_exported
from ufgvc.models.onnx import IMAGES, LOGITS, ONNX, OnnxNet, Parity, export_method, with_onnx_net
from ufgvc.models.photographs import Photograph, as_list, paths_of, read_content
from ufgvc.models.score import device_of, rank_classes, score_images
from ufgvc.models.training_leaves import TrainingLeaves
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    import pandas as pd

TOP_K = 5
BATCH_SIZE = 32
UNKNOWN = "unknown"


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to predict. All scoring goes through it, so that images are always preprocessed alike.

    method: the network with its weights.  classes: names in label order.  input: {"resize", "size"} in pixels.
    info: model.json.  calibration: None: probabilities are uncalibrated and no image is unknown.
    subspace: of the features of the training images; None where the calibration has no threshold.
    leaves: training leaves to show next to a new one; None: the model was trained without, or by an earlier version.
    """

    method: Method
    classes: tuple[str, ...]
    input: dict[str, Any]
    info: dict[str, Any]
    calibration: Calibration | None = None
    subspace: FeatureSubspace | None = None
    leaves: TrainingLeaves | None = None

    @property
    def net(self) -> nn.Module:
        """The network, in eval mode."""
        return self.method.net

    @property
    def exported(self) -> bool:
        """Whether onnxruntime runs the network instead of torch."""
        return isinstance(self.method.net, OnnxNet)

    @property
    def unknown_name(self) -> str:
        """The name of unknown images: `unknown`, in as many parentheses as it takes to differ from every class."""
        taken, name = {cultivar.strip().casefold() for cultivar in self.classes}, UNKNOWN
        while name in taken:
            name = f"({name})"
        return name

    @property
    def temperature(self) -> float:
        """Of the calibration; 1 without one."""
        return self.calibration.temperature if self.calibration else 1.0

    def to(self, device: str | torch.device) -> LoadedModel:
        """This model, its network moved to a device."""
        self.method.net.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is. An exported one takes its images from the CPU."""
        return device_of(self.method.net)

    def read(self, encoded: bytes, orientation: int | None = None) -> NDArray[np.uint8]:
        """Decodes an image file to (resize, resize, 3) uint8. BadImage if it cannot be read.

        orientation: EXIF 1-8; None: as the file says.
        """
        return self.resize(decode_photograph(encoded) if orientation is None else decode(encoded, orientation))

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An upright (H, W, 3) uint8 image -> (resize, resize, 3) uint8."""
        return resize_square(image, int(self.input["resize"]))

    def view(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Upright images (H, W, 3) uint8 of any size -> (B, 3, size, size) float in [0, 1] on the network's device."""
        stacked = torch.from_numpy(np.stack([self.resize(image) for image in images]))
        return eval_view(stacked.to(self.device), int(self.input["size"]))

    def logits(self, images: Sequence[NDArray[np.uint8]], batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
        """Upright images (H, W, 3) uint8 of any size -> logits (N, K) float32."""
        return self.score(images, batch_size)[0]

    def score(
        self, images: Sequence[NDArray[np.uint8]], batch_size: int = BATCH_SIZE
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Logits (N, K) float32 and out-of-distribution scores (N,) of upright images (H, W, 3) uint8 of any size.

        The scores are 0 for a model without a feature subspace.
        """
        return self.score_with_features(images, batch_size)[:2]

    def score_with_features(
        self, images: Sequence[NDArray[np.uint8]], batch_size: int = BATCH_SIZE
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32] | None]:
        """As `score`, and the pooled features (N, C), which `TrainingLeaves.nearest` takes.

        None for a model that needs none: without a feature subspace and without training leaves.
        """
        starts = range(0, len(images), batch_size)
        batches = (np.stack([self.resize(image) for image in images[at : at + batch_size]]) for at in starts)
        needed = self.subspace is not None or self.leaves is not None
        logits, features = score_images(self.method, batches, int(self.input["size"]), with_features=needed)
        if self.subspace is None or features is None:
            return logits, np.zeros(len(logits)), features
        return logits, self.subspace.ood_score(features), features

    def relative_lengths(self, features: NDArray[Any] | None, count: int) -> list[float | None]:
        """`FeatureSubspace.relative_lengths` of the features of `count` images, for `why_unknown`; None without."""
        found = None if self.subspace is None or features is None else self.subspace.relative_lengths(features)
        return [None] * count if found is None else found.tolist()

    def predict(
        self,
        photographs: Photograph | Sequence[Photograph],
        top: int = TOP_K,
        batch_size: int = BATCH_SIZE,
        unknown: bool = True,
    ) -> pd.DataFrame:
        """Predicts photographs: paths, URIs or the content of image files, one or several.

        Returns a row for each, with the columns cultivar, probability, top5 and known. Rows have the path as their
        name, and numbers if content is among them. BadImage for content that cannot be read, UserError for a path.
        top5 is JSON: a list of `top` {cultivar, probability}, the likeliest first. An image whose out-of-distribution
        score exceeds the threshold has known false and cultivar `unknown_name`; its probability and top5 are those of
        the classes all the same.
        unknown: False to call no image unknown.
        """
        import pandas as pd

        given = as_list(photographs)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(given), batch_size):
            logits, ood_score = self.score([self._read(image) for image in given[start : start + batch_size]])
            known = self.is_known(ood_score) | (not unknown)
            for ranked, in_distribution in zip(self.top_classes(logits, top), known.tolist(), strict=True):
                row = {**ranked[0], "top5": json.dumps(ranked, ensure_ascii=False), "known": in_distribution}
                rows.append(row if in_distribution else row | {"cultivar": self.unknown_name})
        paths = paths_of(given)
        index = None if paths is None else pd.Index(paths, name="path", dtype=object)
        return pd.DataFrame(rows, index=index, columns=["cultivar", "probability", "top5", "known"])

    def _read(self, photograph: Photograph) -> NDArray[np.uint8]:
        content = read_content(photograph)
        try:
            return self.read(content)
        except BadImage as error:
            if isinstance(photograph, bytes):
                raise
            raise UserError(error.reason, where=os.fspath(photograph), fix="leave it out") from None

    def top_k(self, logits: NDArray[Any], k: int = TOP_K) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Indices and probabilities (N, k) of the likeliest classes of logits (N, K), the likeliest first."""
        probabilities = softmax(logits, self.temperature)
        order = rank_classes(probabilities, k)
        return order, np.take_along_axis(probabilities, order, axis=1)

    def top_classes(self, logits: NDArray[Any], k: int = TOP_K) -> Iterator[list[dict[str, Any]]]:
        """`top_k` by class name: for each row of logits a list of {cultivar, probability}."""
        for order, probabilities in zip(*self.top_k(logits, k), strict=True):
            yield [
                {"cultivar": self.classes[i], "probability": float(value)}
                for i, value in zip(order, probabilities, strict=True)
            ]

    def is_known(self, ood_score: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) whether each out-of-distribution score is within the threshold; all True without a threshold."""
        threshold = self.calibration.threshold if self.calibration else None
        return np.ones(len(ood_score), bool) if threshold is None else ood_score <= threshold


def load_model(uri: str, context: Context = Context()) -> LoadedModel:
    """Loads a model from models:/name@alias, models:/name/3, runs:/<id>/model, or a folder (local or s3://...).

    context: names the MLflow that knows the model.  UserError if there is no such model; the message lists those that
    there are.
    """
    if uri.startswith(("models:", "runs:")):
        from ufgvc.tracking.registry import download_model

        with download_model(uri, context) as folder:
            return read_model(open_store(folder), uri)
    return read_model(open_store(uri), uri)


def read_model(store: Store, uri: str) -> LoadedModel:
    """Loads a model from its folder, exported or not.  uri: how error messages name it."""
    files = read_files(store, uri)
    info = files.info
    check_package(info["method"], info.get("package"), uri)
    method = build(info["method"], num_classes=len(info["classes"]), init="none", **info["options"])
    if info.get("mirror") is not None:
        method = replace(method, recipe=method.recipe.model_copy(update={"mirror": info["mirror"]}))
    method = with_onnx_net(method, files.content) if files.exported else _load_weights(method, files.content, uri)
    classes, sizes = tuple(info["classes"]), files.input.model_dump()
    return LoadedModel(method, classes, sizes, info, files.calibration, files.subspace, files.leaves)


def _load_weights(method: Method, content: bytes, uri: str) -> Method:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        method.net.load_state_dict(load(content))
    except SafetensorError as error:
        raise UserError(f"is damaged: {error}", where=uri, fix="train the model again, or copy it again") from None
    except RuntimeError as error:
        what = f"its weights do not fit: {first_line(error)}"
        raise UserError(what, where=uri, fix="was model.json edited?") from None
    method.net.eval()
    return method


class ExportSettings(Settings):
    """Export of a model as an ONNX file."""

    opset: int = Field(18, ge=18, le=23)
    """version of the ONNX operator set; the runtime must support it"""


def export(model: LoadedModel, out: str, settings: ExportSettings | None = None) -> Parity:
    """Writes <out>/model.onnx and <out>/model.json (and the feature subspace), which `predict --model <out>` takes.

    The ONNX file takes `images` (B, 3, S, S) float32, RGB in [0, 1], for any B, with S as in model.json. It returns
    `logits` (B, K), with mirrored views averaged where the method does so, and the pooled features (B, C), from which
    out-of-distribution scores are computed.
    UserError if the folder holds a trained model, if the model cannot be
    exported, or if onnxruntime does not compute what torch does.
    """
    settings = settings or ExportSettings()
    store = open_store(out)
    if store.exists(WEIGHTS):
        raise UserError("holds the weights of a trained model", where=out, fix="give another folder")
    exported, parity = export_to_onnx(model, settings.opset)
    assert isinstance(exported.net, OnnxNet)
    write_exported(store, exported.info, exported.net.content, exported.subspace, exported.leaves)
    return parity


def export_to_onnx(model: LoadedModel, opset: int = 18, on_cpu: bool = False) -> tuple[LoadedModel, Parity]:
    """The same model run by onnxruntime, and how close it is to torch. UserError as for `export`.

    on_cpu: also where onnxruntime could use a GPU.
    """
    if model.exported:
        fix = "copy its folder, or give the model that it was exported from"
        raise UserError("is an exported model already", where="--model", fix=fix)
    method, parity = export_method(model.method, int(model.input["size"]), opset, on_cpu)
    onnx = {"file": ONNX, "opset": opset, "input": IMAGES, "outputs": [LOGITS, POOLED_FEATURES]}
    onnx |= {"difference": parity.difference, "images": parity.images}
    return replace(model, method=method, info=model.info | {"onnx": onnx}), parity
