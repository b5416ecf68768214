"""What a model's scores are worth: a temperature for its probabilities, and a threshold below which a leaf is unknown.

Plain numpy: a served model needs no more. `ufgvc.train.calibration` fits it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ufgvc.core.config import Section

UNKNOWN = "unknown"
Floats = NDArray[np.float64]


class Calibration(Section):
    """Fitted on validation leaves, never on test leaves.

    temperature: probabilities are softmax(logits / temperature).  threshold: a leaf whose score is below it is unknown.
    known_share: of the validation leaves at or above it.  leaves: how many there were.  source: where they came from.
    """

    temperature: float = Field(gt=0)
    score: str = "probability"
    threshold: float
    known_share: float = Field(gt=0, le=1)
    leaves: int = Field(gt=0)
    source: str

    def known(self, logits: NDArray[Any]) -> NDArray[np.bool_]:
        """(N,) whether a leaf may be one of the cultivars, for its logits (N, K)."""
        found: NDArray[np.bool_] = score(logits, self.temperature) >= self.threshold
        return found


def score(logits: NDArray[Any], temperature: float) -> Floats:
    """(N,) how much a leaf looks like one of the cultivars: the probability of the likeliest."""
    best: Floats = probabilities(logits, temperature).max(axis=1)
    return best


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """(N, K) logits -> (N, K) float64, softmax(logits / temperature)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    chances: Floats = raised / raised.sum(axis=1, keepdims=True)
    return chances
