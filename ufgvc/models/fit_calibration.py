"""Fits what a model's scores are worth, and measures it. N leaves, K cultivars; labels are class indices; everything in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from ufgvc.core.errors import UserError
from ufgvc.models.calibration import Calibration, FeatureSubspace, probabilities, unit

Logits = NDArray[Any]
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
BINS = 15
KNOWN_SHARE = 0.95
VARIANCE = 0.99  # chosen on soy leaves, plain pictures and photographs of other things: 0.98 to 0.995 do about as well
COLDEST, HOTTEST = 0.01, 100.0


def check_finite(logits: Logits, model: str | None = None) -> None:
    """UserError for logits (N, K) that are no numbers: their largest would be that of the first cultivar.  model: what gave them."""
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        fix = "train it again with a lower learning rate (`--train.learning-rate`)"
        raise UserError(f"training diverged: no numbers for {bad} of {len(logits)} leaves", where=model, fix=fix)


def calibrate(
    logits: Logits, labels: Labels, strangeness: Floats | None, source: str, known_share: float = KNOWN_SHARE
) -> Calibration:
    """The temperature, and the smallest threshold that at least `known_share` of these leaves do not exceed (none without strangeness).

    All three of leaves that the model has not learnt from, never of test leaves.  source: what model.json says of them.
    """
    temperature = fit_temperature(logits, labels)
    threshold = None if strangeness is None else float(np.quantile(strangeness, known_share, method="higher"))
    return Calibration(
        temperature=temperature, threshold=threshold, known_share=known_share, leaves=len(labels), source=source
    )


def fit_subspace(seen: NDArray[Any]) -> FeatureSubspace:
    """The mean of views (N, C), scaled to length 1, and the fewest directions that hold VARIANCE of their variance about it."""
    views = unit(seen)
    mean = views.mean(axis=0)
    _, sizes, directions = np.linalg.svd(views - mean, full_matrices=False)
    held = np.cumsum(sizes**2)
    many = int(np.searchsorted(held, VARIANCE * held[-1])) + 1 if held[-1] > 0 else 0
    return FeatureSubspace(mean.astype(np.float32), directions[:many].astype(np.float32))


def calibration_of(best: Mapping[str, Any], validation: str) -> Calibration | None:
    """From the leaves that chose the epoch, if they were held out of the training split; a little hopeful, for they chose it.

    best: of a checkpoint.  No threshold: that takes a look at the leaves that were learnt from, which `ufgvc calibrate` does.  UserError if
    the net had diverged.
    """
    pairs = best.get("held") or []
    if not pairs:
        return None
    logits, labels = (np.concatenate([pair[place].numpy() for pair in pairs]) for place in (0, 1))
    check_finite(logits)
    return calibrate(logits, labels, None, f"{validation}, the leaves that chose the epoch")


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
