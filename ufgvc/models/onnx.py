"""ONNX: exporting a network, checking the file against torch, and running it with onnxruntime."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.core.process import disable_telemetry
from ufgvc.methods.method import POOLED_FEATURES, Method, Outputs

ONNX = "model.onnx"
IMAGES, LOGITS = "images", "logits"
# Relative to the largest logit: another order of summation in float32 changes about 1e-6, a wrong operation far more.
TOLERANCE = 1e-4
MISMATCH = (ImportError, AttributeError, TypeError, ValueError)  # of an onnxscript that does not fit torch
SESSION_ERRORS = ("InvalidProtobuf", "InvalidGraph", "InvalidArgument", "Fail", "NotImplemented", "RuntimeException")
MAX_BYTES = 1 << 31  # of a protocol buffer
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# From here on an export pays: it takes 4 to 7 s on two idle cores, twice as long on busy ones, and EfficientNet-Lite0
# computes four times as many images a second with onnxruntime as with torch (docs/results/speed.md).
MIN_PIXELS = 40e6


class OnnxNet(nn.Module):
    """An exported network that runs in onnxruntime; takes and returns what a torch network does.

    (B, 3, S, S) float in [0, 1] -> {"logits": (B, K), "pooled_features": (B, C)}. UserError without onnxruntime.
    content: of an ONNX file. It is pickled; the session is opened once in each process.
    on_cpu: also where onnxruntime could use a GPU.
    """

    def __init__(self, content: bytes, on_cpu: bool = False) -> None:
        super().__init__()
        self.content, self.on_cpu = content, on_cpu
        self._session: Any = None

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, S, S) in [0, 1] -> logits (B, K) and pooled features."""
        # By position: the names of the outputs differ between versions of the format.
        logits, features = self.session.run(None, {IMAGES: images.detach().float().cpu().numpy()})
        return {LOGITS: torch.from_numpy(logits), POOLED_FEATURES: torch.from_numpy(features)}

    @property
    def session(self) -> Any:
        """The onnxruntime.InferenceSession. UserError if the content is not an ONNX model."""
        if self._session is None:
            onnxruntime = import_onnxruntime()
            errors = onnxruntime.capi.onnxruntime_pybind11_state
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            available = onnxruntime.get_available_providers()
            wanted = ("CPUExecutionProvider",) if self.on_cpu else ("CUDAExecutionProvider", "CPUExecutionProvider")
            providers = [name for name in wanted if name in available]
            try:
                self._session = onnxruntime.InferenceSession(self.content, options, providers=providers)
            except tuple(getattr(errors, name) for name in SESSION_ERRORS) as error:
                what = f"onnxruntime cannot load it: {error}"
                raise UserError(what, where=ONNX, fix="export the model again") from None
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_session": None}


def export_pays(images: int, views: int, side: int, device: torch.device | str) -> bool:
    """Whether an export takes less time than onnxruntime then saves: for many pixels on a CPU, with the packages.

    images: to be computed, `views` times each, as squares of `side` pixels.
    """
    enough = images * views * side**2 >= MIN_PIXELS
    return enough and torch.device(device).type == "cpu" and all(map(importlib.util.find_spec, PACKAGES))


@dataclass(frozen=True)
class Parity:
    """How close onnxruntime is to torch on the same images.

    difference: the largest absolute difference of a logit.  largest: the largest absolute logit.  feature_difference:
    the largest difference of a pooled feature, relative to the largest feature.  images: compared.  same: of these,
    with the same top-1 class.
    """

    difference: float
    largest: float
    feature_difference: float
    images: int
    same: int

    @property
    def holds(self) -> bool:
        """Whether all differences are within TOLERANCE and every top-1 class is the same."""
        close = self.difference <= TOLERANCE * max(1.0, self.largest) and self.feature_difference <= TOLERANCE
        return close and self.same == self.images

    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"logits differ from torch's by at most {self.difference:.1e} (the largest is {self.largest:.3g}), "
            f"the same cultivar first on {self.same} of {self.images} images"
        )


def import_onnxruntime() -> Any:
    """The package with its usage reports disabled; a served model has run no command of ours. UserError without it."""
    disable_telemetry()
    try:
        import onnxruntime
    except ImportError:
        raise missing_packages() from None
    return onnxruntime


def missing_packages() -> UserError:
    """The error for an environment without the ONNX packages."""
    what = "needs the packages onnx, onnxscript and onnxruntime"
    return UserError(what, where="ONNX", fix="pip install 'ufgvc[onnx]'")


def has_gpu_provider() -> bool:
    """Whether the installed onnxruntime was built for CUDA."""
    return "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()


def with_onnx_net(method: Method, content: bytes, on_cpu: bool = False) -> Method:
    """The method with an exported network.  on_cpu: see `OnnxNet`.

    The file averages mirrored views itself, so the recipe must not do it again.
    """
    recipe = method.recipe.model_copy(update={"mirror": False})
    return replace(method, net=OnnxNet(content, on_cpu).eval(), recipe=recipe)


def export_method(method: Method, side: int, opset: int = 18, on_cpu: bool = False) -> tuple[Method, Parity]:
    """The method run by onnxruntime, checked against torch on images of `side` pixels.  on_cpu: see `OnnxNet`.

    UserError if torch cannot export the network, or if onnxruntime does not compute the same.
    """
    exported = with_onnx_net(method, to_onnx(method, side, opset), on_cpu)
    parity = compare(method, exported, side)
    if not parity.holds:
        what = f"onnxruntime does not compute what torch does: {parity.summary()}"
        raise UserError(what, where=method.name, fix="predict with `--runtime torch`, or try another --opset")
    return exported, parity


class _EvalNet(nn.Module):
    """The module that is exported: images -> (logits, pooled features), as in evaluation."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.net = method, method.net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.method.predict_with_features(images)


def to_onnx(method: Method, side: int, opset: int = 18) -> bytes:
    """The content of an ONNX file for images (B, 3, side, side) of any B.

    UserError for a network that torch cannot export, with torch's reason, or that is too large for the format.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_packages() from None
    use_torch = "predict with `--runtime torch`"
    if sum(tensor.nbytes for tensor in method.net.state_dict().values()) >= MAX_BYTES:
        what = "has 2 GB of weights or more, which no ONNX file can hold"
        raise UserError(what, where=method.name, fix=use_torch)
    example = torch.zeros(2, 3, side, side)  # a batch of one would be exported as a fixed size
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                _EvalNet(method).eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[IMAGES],
                output_names=[LOGITS, POOLED_FEATURES],
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, *MISMATCH) as error:
            raise UserError(f"torch cannot export it: {_reason(error)}", where=method.name, fix=use_torch) from error
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hides the exporter's warnings within the block."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _stable_sort(values: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """torch.sort(stable=True), which the exporter lacks.

    ONNX's TopK puts the first of equal values first: TopK of all is stable.
    """
    from onnxscript import opset18 as op

    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))  # type: ignore[type-var]  # onnxscript's annotations
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def _reason(error: BaseException) -> str:
    """The first line of the root cause: the exporter's own message is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def compare(torch_method: Method, onnx_method: Method, side: int, seed: int = 0) -> Parity:
    """Runs both on the same images, in batches of one and of three."""
    difference, largest, feature_difference, images, same = 0.0, 0.0, 0.0, 0, 0
    with torch.inference_mode():
        for batch in example_images(side, seed):
            (expected, features), (found, found_features) = (
                [tensor.numpy().astype(np.float64) for tensor in method.predict_with_features(batch)]
                for method in (torch_method, onnx_method)
            )
            difference = max(difference, float(np.abs(expected - found).max()))
            largest = max(largest, float(np.abs(expected).max()))
            scale = max(float(np.abs(features).max()), 1e-12)
            feature_difference = max(feature_difference, float(np.abs(features - found_features).max()) / scale)
            images += len(batch)
            same += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    return Parity(difference, largest, feature_difference, images, same)


def example_images(side: int, seed: int = 0) -> Iterator[Tensor]:
    """Batches (B, 3, side, side) in [0, 1], B = 1 and 3: noise, black, white, a gradient, one bright pixel."""
    noise = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(seed))
    black, white = torch.zeros(3, side, side), torch.ones(3, side, side)
    gradient = torch.linspace(0, 1, side).expand(3, side, side)
    point = black.clone()
    point[:, side // 3, side // 2] = 1
    for image in (noise[0], black, white, gradient, point):
        yield image[None].contiguous()
    yield noise[1:]
    yield torch.stack([black, white, gradient])
