"""An exported network behind the contract of a net, so that everything above runs it like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.methods.method import POOLED_FEATURES, Outputs

ONNX = "model.onnx"
IMAGES, LOGITS = "images", "logits"


def missing() -> UserError:
    return UserError(
        "needs the packages onnx, onnxscript and onnxruntime", where="ONNX", fix="pip install 'ufgvc[onnx]'"
    )


class OnnxNet(nn.Module):
    """(B, 3, S, S) float in [0, 1] -> {"logits": (B, K), "seen": (B, C)} by onnxruntime. UserError without onnxruntime.

    content: of an ONNX file with the input `images` and these outputs. It travels to other processes; the session does not.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        self._session: Any = None

    def forward(self, images: Tensor) -> Outputs:
        logits, seen = self.session.run([LOGITS, POOLED_FEATURES], {IMAGES: images.detach().float().cpu().numpy()})
        return {"logits": torch.from_numpy(logits), POOLED_FEATURES: torch.from_numpy(seen)}

    @property
    def session(self) -> Any:
        """onnxruntime's session, opened once a process. UserError if the content is no ONNX model."""
        if self._session is None:
            try:
                import onnxruntime
                from onnxruntime.capi import onnxruntime_pybind11_state as errors
            except ImportError:
                raise missing() from None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            usable = [
                name
                for name in ("CUDAExecutionProvider", "CPUExecutionProvider")
                if name in onnxruntime.get_available_providers()
            ]
            try:
                self._session = onnxruntime.InferenceSession(self.content, options, providers=usable)
            except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail, errors.NotImplemented) as error:
                raise UserError(
                    f"onnxruntime does not take it: {error}", where=ONNX, fix="export the model again"
                ) from None
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_session": None}


def runs_on_gpu() -> bool:
    """Whether the installed onnxruntime is one for CUDA."""
    try:
        import onnxruntime
    except ImportError:
        raise missing() from None
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
