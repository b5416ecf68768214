"""A model as an ONNX file that other programs run, checked against torch before anybody gets it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.methods.method import POOLED_FEATURES, Method
from ufgvc.models.calibration import REFERENCE
from ufgvc.models.model import MODEL, WEIGHTS, LoadedModel, run_by_onnx
from ufgvc.models.onnx_net import IMAGES, LOGITS, ONNX, OnnxNet, missing

# Of the largest logit: float32 sums in another order differ by about 1e-6 of it, a wrong operation by far more.
TOLERANCE = 1e-4
LARGEST = 1 << 31  # bytes of a protocol buffer


class ExportSettings(Settings):
    """A model as an ONNX file."""

    opset: int = Field(18, ge=18, le=23)
    """version of ONNX's operators; what runs the file must know it"""


@dataclass(frozen=True)
class Parity:
    """difference: the largest between a logit of ONNX and of torch.  largest: logit.  images: compared.  same: with the same top-1.

    seen_difference: of what the net saw, in parts of its largest number.
    """

    difference: float
    largest: float
    seen_difference: float
    images: int
    same: int

    @property
    def holds(self) -> bool:
        near = self.difference <= TOLERANCE * max(1.0, self.largest) and self.seen_difference <= TOLERANCE
        return near and self.same == self.images

    def summary(self) -> str:
        """One line for people."""
        return (
            f"logits differ from torch's by at most {self.difference:.1e} (the largest is {self.largest:.3g}), "
            f"the same cultivar first on {self.same} of {self.images} images"
        )


def export(model: LoadedModel, out: str, settings: ExportSettings | None = None) -> Parity:
    """Writes <out>/model.onnx and <out>/model.json (and known.safetensors of a calibrated model), which `predict --model <out>` takes.

    The file takes `images` (B, 3, S, S) float32, plain RGB in [0, 1], any B, S as model.json says. It gives `logits` (B, K), mirrored views
    averaged where the method does so, and `seen` (B, C), from which a leaf's strangeness is told.
    UserError if the folder holds a model already, if the model cannot be exported, or if onnxruntime does not compute what torch does.
    """
    settings = settings or ExportSettings()
    store = open_store(out)
    if store.exists(WEIGHTS):
        raise UserError("holds a model to train on and would lose it", where=out, fix="give another folder")
    exported, parity = exported_model(model, settings.opset)
    write_exported(store, exported)
    return parity


def write_exported(store: Store, model: LoadedModel) -> None:
    """model.json goes last: it says that the model is there."""
    assert isinstance(model.net, OnnxNet)
    store.write_bytes(ONNX, model.net.content)
    if model.reference is not None:
        store.write_bytes(REFERENCE, model.reference.to_bytes())
    store.write_json(MODEL, model.info)


def exported_model(model: LoadedModel, opset: int = 18) -> tuple[LoadedModel, Parity]:
    """The same model run by onnxruntime, and how near it is to torch. UserError as of `export`."""
    if isinstance(model.net, OnnxNet):
        raise UserError(
            "is an exported model already",
            where="--model",
            fix="copy its folder, or give the model that it was made from",
        )
    side = int(model.input["size"])
    content = to_onnx(model.method, side, opset)
    told = {"file": ONNX, "opset": opset, "input": IMAGES, "outputs": [LOGITS, POOLED_FEATURES]}
    exported = run_by_onnx(model.method, content)
    parity = compare(model.method, exported, side)
    if not parity.holds:
        what = f"onnxruntime does not compute what torch does: {parity.summary()}"
        raise UserError(what, where=model.method.name, fix="predict with `--runtime torch`; another --opset may do")
    told |= {"difference": parity.difference, "images": parity.images}
    return replace(model, method=exported, info=model.info | {"onnx": told}), parity


class _Tested(nn.Module):
    """What is exported: images to logits and what the net saw, as the method is tested."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.net = method, method.net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.method.predict_with_features(images)


def to_onnx(method: Method, side: int, opset: int = 18) -> bytes:
    """The content of an ONNX file for images of `side` px. UserError for a net that torch cannot export, with torch's reason."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing() from None
    if sum(tensor.nbytes for tensor in method.net.state_dict().values()) >= LARGEST:
        raise UserError(
            "has 2 GB of weights or more, which no ONNX file holds",
            where=method.name,
            fix="predict with `--runtime torch`",
        )
    # Two images: a batch of one would be taken for a batch that is always one.
    example = torch.zeros(2, 3, side, side)
    net = _Tested(method).eval()
    talkative = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    for logger in talkative:
        logger.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[IMAGES],
            output_names=[LOGITS, POOLED_FEATURES],
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"torch cannot export it: {_reason(error)}", where=method.name, fix="predict with `--runtime torch`"
        ) from error
    finally:
        for logger, level in talkative.items():
            logger.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _stable_sort(values: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """torch.sort(stable=True), for which the exporter has nothing. ONNX's TopK puts the first of equals first, so all of it is that."""
    from onnxscript import opset18 as op

    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))  # type: ignore[type-var]  # of onnxscript's own annotations
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def _reason(error: BaseException) -> str:
    """The first line of what began it: the exporter's own text is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def compare(torch_method: Method, onnx_method: Method, side: int, seed: int = 0) -> Parity:
    """Both on the same images, alone and three at a time."""
    difference, largest, seen_difference, images, same = 0.0, 0.0, 0.0, 0, 0
    with torch.inference_mode():
        for batch in trial_images(side, seed):
            (wanted, seen), (found, seen_too) = (
                [tensor.numpy().astype(np.float64) for tensor in method.predict_with_features(batch)]
                for method in (torch_method, onnx_method)
            )
            difference = max(difference, float(np.abs(wanted - found).max()))
            largest = max(largest, float(np.abs(wanted).max()))
            seen_difference = max(
                seen_difference, float(np.abs(seen - seen_too).max() / max(np.abs(seen).max(), 1e-12))
            )
            images += len(batch)
            same += int((wanted.argmax(axis=1) == found.argmax(axis=1)).sum())
    return Parity(difference, largest, seen_difference, images, same)


def trial_images(side: int, seed: int = 0) -> Iterator[Tensor]:
    """Batches (B, 3, side, side) in [0, 1] of one and of three: noise, black, white, a slope, one bright pixel."""
    noise = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(seed))
    black, white = torch.zeros(3, side, side), torch.ones(3, side, side)
    slope = torch.linspace(0, 1, side).expand(3, side, side)
    point = black.clone()
    point[:, side // 3, side // 2] = 1
    alone: Sequence[Tensor] = (noise[0], black, white, slope, point)
    for image in alone:
        yield image[None].contiguous()
    yield noise[1:]
    yield torch.stack([black, white, slope])
