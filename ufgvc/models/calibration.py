"""What a model's answers are worth: a temperature for its probabilities, and what tells a leaf of its cultivars from anything else.

Plain numpy: a served model needs no more. `ufgvc.models.fit_calibration` fits it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ufgvc.core.config import Settings

UNKNOWN = "unknown"
REFERENCE = "known.safetensors"
Floats = NDArray[np.float64]


class Calibration(Settings):
    """Fitted on validation leaves, never on test leaves.

    temperature: probabilities are softmax(logits / temperature).  threshold: a leaf that is stranger is unknown; None: no leaf is.
    known_share: of the validation leaves that are not.  leaves: how many there were.  source: where they came from.
    """

    temperature: float = Field(gt=0)
    threshold: float | None = None
    known_share: float = Field(0.95, gt=0, le=1)
    leaves: int = Field(gt=0)
    source: str


@dataclass(frozen=True)
class FeatureSubspace:
    """Where a net's views of the leaves it learnt from lie: mean (C,), and a basis (k, C) of orthonormal rows that they vary along."""

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    def strangeness(self, seen: NDArray[Any]) -> Floats:
        """(N,) in [0, 2]: how far views (N, C), scaled to length 1, lie outside of what the learnt leaves span (a residual, as in ViM,
        Wang et al. 2022, arXiv 2203.10807). Logits cannot tell this: they grow with whatever excites the net.
        """
        off = unit(seen) - self.mean
        along = off @ self.basis.T.astype(np.float64)
        strange: Floats = np.linalg.norm(off - along @ self.basis, axis=1)
        return strange

    def to_bytes(self) -> bytes:
        from safetensors.numpy import save

        return save({"mean": self.mean, "basis": self.basis})

    @classmethod
    def from_bytes(cls, content: bytes) -> FeatureSubspace:
        from safetensors.numpy import load

        return cls(**load(content))


def unit(seen: NDArray[Any]) -> Floats:
    """Rows of (N, C) scaled to length 1, in float64; rows of nothing stay so."""
    exact = np.asarray(seen, dtype=np.float64)
    scaled: Floats = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return scaled


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """(N, K) logits -> (N, K) float64, softmax(logits / temperature)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    chances: Floats = raised / raised.sum(axis=1, keepdims=True)
    return chances
