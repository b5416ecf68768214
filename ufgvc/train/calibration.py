"""Fits what a model's scores are worth, and measures it. N leaves, K cultivars; labels are class indices; everything in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from ufgvc.track.calibration import Calibration, probabilities, score

Logits = NDArray[Any]
Labels = NDArray[np.int64]
BINS = 15
KNOWN_SHARE = 0.95
COLDEST, HOTTEST = 0.01, 100.0


def calibrate(logits: Logits, labels: Labels, source: str, known_share: float = KNOWN_SHARE) -> Calibration:
    """The temperature, and the largest threshold at or above which at least `known_share` of these leaves lie.

    logits, labels: of leaves that the model has not learnt from, never of test leaves.  source: what model.json says of them.
    """
    temperature = fit_temperature(logits, labels)
    threshold = float(np.quantile(score(logits, temperature), 1 - known_share, method="lower"))
    return Calibration(temperature=temperature, threshold=threshold, known_share=known_share, leaves=len(labels), source=source)


def calibration_of(best: Mapping[str, Any], validation: str) -> Calibration | None:
    """From the leaves that chose the epoch, if they were held out of the training split; a little hopeful, for they chose it.

    best: of a checkpoint.
    """
    pairs = best.get("held") or []
    if not pairs:
        return None
    logits, labels = (np.concatenate([pair[place].numpy() for pair in pairs]) for place in (0, 1))
    return calibrate(logits, labels, f"{validation}, the leaves that chose the epoch")


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature T whose softmax(logits / T) gives the labels the largest likelihood (Guo et al. 2017, arXiv 1706.04599).

    The negative log likelihood is convex in 1/T, so its slope has one root at most. Logits that are always right (or no better than a
    guess) have none: T is then the end of [0.01, 100] that they run to.
    ValueError for logits that are not finite, or for none.
    """
    exact = np.asarray(logits, dtype=np.float64)
    if not len(exact) or not np.isfinite(exact).all():
        raise ValueError(f"no temperature can be fitted to {len(exact)} leaves with logits that are not all finite")
    # What is common to a leaf's logits changes no probability, and without it nothing overflows.
    exact = exact - exact.max(axis=1, keepdims=True)
    of_label = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        expected = (softmax(inverse * exact, axis=1) * exact).sum(axis=1)
        return float((expected - of_label).mean())

    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    if slope(1 / COLDEST) <= 0:
        return COLDEST
    return 1 / float(brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12))


def log_loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean negative log likelihood of the labels, in nats."""
    exact = np.asarray(logits, dtype=np.float64) / temperature
    of_label = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    return float((logsumexp(exact, axis=1) - of_label).mean())


def calibration_error(logits: Logits, labels: Labels, temperature: float = 1.0, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: how far the share that is right lies from the probability of the likeliest cultivar.

    Leaves are put into equally wide bins of that probability; the distances in the bins are averaged over the leaves.
    """
    chances = probabilities(logits, temperature)
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    at = np.minimum((sure * bins).astype(int), bins - 1)
    gap = np.bincount(at, weights=right - sure, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
