"""Temperature scaling and out-of-distribution detection.

N images, K classes, C features. Labels are class indices. Everything is computed in float64. Only fitting needs SciPy
and scikit-learn: a served model does without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError

COVERAGE = 0.95
VARIANCE = 0.99  # chosen on soy leaves, plain backgrounds and other photographs: 0.98 to 0.995 do about as well
BINS = 15
LONG_PROBE, LONG_MAP = 2.0, 1.2  # relative lengths that next to no leaf has, and pictures without a leaf exceed
LONG = 0.75  # quantile of the training images' lengths: with 0.5 to 1 the score finds unseen cultivars or pictures less
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class Calibration(Settings):
    """Temperature and out-of-distribution threshold of a model, fitted on validation images, never on test images."""

    temperature: float = Field(gt=0)
    """probabilities are softmax(logits / temperature)"""
    threshold: float | None = None
    """an image with a larger out-of-distribution score is unknown; None: no image is"""
    ood_median: float | None = None
    """median score of the validation images"""
    coverage: float = Field(COVERAGE, gt=0, le=1)
    """share of the validation images whose score the threshold does not exclude"""
    num_images: int = Field(gt=0)
    """validation images used"""
    source: str
    """which validation images these were"""


@dataclass(frozen=True)
class FeatureSubspace:
    """The affine subspace that holds most variance of the training images' features, and how long these are.

    mean: (C,), of the features scaled to unit length.  basis: (k, C), orthonormal rows.  length: (1,), the median
    length of the standardised embeddings of a probe; None for other features.  long_length: (1,), the upper quartile of
    the lengths of pooled maps; None for a probe. Files of earlier versions may have neither.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    length: NDArray[np.float32] | None = None
    long_length: NDArray[np.float32] | None = None

    def ood_score(self, features: NDArray[Any]) -> Floats:
        """Out-of-distribution scores (N,) >= 0 of features (N, C): residual * weight of the length.

        residual: what of a feature's direction lies outside the subspace.  weight: sqrt(length / usual length) of a
        probe, max(1, length / long length) of a trained network, and 1 for a file of an earlier version. ViM (Wang et
        al. 2022, arXiv 2203.10807, section 4) takes the residual of the feature itself, which is residual * length, and
        adds a logit term, which is left out: logits grow with any strong activation. A picture without a leaf may have
        the direction of a leaf and is longer than leaves are, but how long a leaf is tells little about its cultivar,
        and in a trained network hides it. docs/results/calibration.md compares them.
        UserError for features of another width.
        """
        if np.shape(features)[1] != len(self.mean):
            what = f"was calibrated on features of {len(self.mean)} numbers, the network gives {np.shape(features)[1]}"
            raise UserError(f"the model {what}", fix="calibrate it again with this version (`ufgvc calibrate`)")
        centred = normalize_rows(features) - self.mean
        coordinates = centred @ self.basis.T.astype(np.float64)
        residual: Floats = np.linalg.norm(centred - coordinates @ self.basis, axis=1)
        relative = self.relative_lengths(features)
        if relative is None:
            return residual
        score: Floats = residual * (np.maximum(1, relative) if self.length is None else np.sqrt(relative))
        return score

    def relative_lengths(self, features: NDArray[Any]) -> Floats | None:
        """Lengths (N,) of features (N, C), divided by `length` or `long_length`; None where there is neither."""
        reference = self.long_length if self.length is None else self.length
        return None if reference is None else lengths_of_rows(features) / reference

    def is_longer_than_leaves(self, relative_length: float) -> bool:
        """Whether next to no leaf has so long features: it is another kind of leaf, or none."""
        return relative_length > (LONG_MAP if self.length is None else LONG_PROBE)

    def to_bytes(self) -> bytes:
        """The content of feature_subspace.safetensors."""
        from safetensors.numpy import save

        return save({name: array for name, array in vars(self).items() if array is not None})

    @classmethod
    def from_bytes(cls, content: bytes) -> FeatureSubspace:
        """The inverse of `to_bytes`.  UserError for a file of a later version."""
        from safetensors.numpy import load

        arrays = load(content)
        if not arrays.keys() <= {"mean", "basis", "length", "long_length"}:
            raise UserError("the model's out-of-distribution score is that of a later ufgvc", fix="upgrade ufgvc")
        return cls(**arrays)


def normalize_rows(features: NDArray[Any]) -> Floats:
    """Rows of (N, C) scaled to unit length, in float64; a row of zeros stays zero."""
    scaled: Floats = np.asarray(features, dtype=np.float64) / lengths_of_rows(features)[:, None]
    return scaled


def lengths_of_rows(features: NDArray[Any]) -> Floats:
    """Lengths (N,) of features (N, C), in float64; at least the smallest float32, so that they can be divided by."""
    norms = np.linalg.norm(np.asarray(features, dtype=np.float64), axis=1)
    lengths: Floats = np.maximum(norms, np.finfo(np.float32).tiny)
    return lengths


def softmax(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """softmax(logits / temperature) of logits (N, K), in float64."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def check_finite(logits: NDArray[Any], model: str | None = None) -> None:
    """UserError for logits (N, K) with NaN or infinity, whose argmax would be the first class.

    model: what computed them.
    """
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        fix = "train it again with a lower learning rate (`--train.learning-rate`)"
        raise UserError(f"training diverged: no numbers for {bad} of {len(logits)} leaves", where=model, fix=fix)


def fit_calibration(
    logits: NDArray[Any], labels: Labels, ood_score: Floats | None, source: str, coverage: float = COVERAGE
) -> Calibration:
    """Fits the temperature, and the smallest threshold that at least `coverage` of the scores do not exceed.

    Args:
        logits: (N, K) of images that the model was not trained on, never of test images.
        labels: (N,).
        ood_score: (N,) of the same images; None: no threshold.
        source: which images these are, for model.json.
        coverage: share of them that must not be called unknown, in (0, 1].
    """
    temperature = fit_temperature(logits, labels)
    threshold = None if ood_score is None else float(np.quantile(ood_score, coverage, method="higher"))
    median = None if ood_score is None else float(np.median(ood_score))
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        ood_median=median,
        coverage=coverage,
        num_images=len(labels),
        source=source,
    )


def fit_feature_subspace(features: NDArray[Any], standardised: bool = False) -> FeatureSubspace:
    """The mean of features (N, C) of unit length, the fewest principal components with VARIANCE of the variance, and
    the length to which others are compared.

    standardised: whether they are the embeddings of a probe, whose length counts otherwise than that of pooled maps.
    """
    from sklearn.decomposition import PCA

    rows = normalize_rows(features)
    quantile = np.quantile(lengths_of_rows(features), 0.5 if standardised else LONG, keepdims=True)
    length = {"length" if standardised else "long_length": quantile.astype(np.float32)}
    if not np.ptp(rows, axis=0).any():
        return FeatureSubspace(rows[0].astype(np.float32), np.zeros((0, rows.shape[1]), np.float32), **length)
    pca = PCA(n_components=VARIANCE, svd_solver="full").fit(rows)
    # safetensors writes the bytes as they lie in memory.
    basis = np.ascontiguousarray(pca.components_, dtype=np.float32)
    return FeatureSubspace(pca.mean_.astype(np.float32), basis, **length)


def calibration_of_checkpoint(best: Mapping[str, Any], validation: str) -> Calibration | None:
    """The calibration on the held-out images that selected the epoch; None if no training images were held out.

    It is slightly optimistic: the same images selected the epoch. It has no threshold: fitting one takes the features
    of the training images, which `ufgvc calibrate` computes.

    Args:
        best: entry of a checkpoint, with "held": a list of (logits (B, K), labels (B,)).
        validation: "holdout" or "kfold".

    Raises:
        UserError: the network had diverged.
    """
    pairs = best.get("held") or []
    if not pairs:
        return None
    logits, labels = (np.concatenate([pair[column].numpy() for pair in pairs]) for column in (0, 1))
    check_finite(logits)
    return fit_calibration(logits, labels, None, f"{validation}, the leaves that chose the epoch")


def calibration_of_fit(metrics: Mapping[str, Any]) -> Calibration | None:
    """The calibration of a classifier that was fitted, from the metrics of its fit; None if these have no temperature.

    Its temperature was fitted to the logits of all training leaves that could be held out, each by the classifier of
    the other folds (`training.fit.fit_classifier`). That one saw fewer leaves, so it is an approximation. It has no
    threshold, as `calibration_of_checkpoint` says.
    """
    if "temperature" not in metrics:
        return None
    source = "leaves, each held out in one of the folds that chose the strength"
    return Calibration(temperature=metrics["temperature"], num_images=int(metrics["held_out_leaves"]), source=source)


def fit_temperature(logits: NDArray[Any], labels: Labels) -> float:
    """The temperature T whose softmax(logits / T) maximises the likelihood (Guo et al. 2017, arXiv 1706.04599).

    The negative log-likelihood is convex in 1/T, so its derivative has at most one root. It has none for logits that
    are always right, or no better than chance: T is then the end of [0.01, 100] at which the likelihood is larger.
    ValueError for logits that are not finite, or for none.
    """
    from scipy.optimize import brentq

    exact = np.asarray(logits, dtype=np.float64)
    if not len(exact) or not np.isfinite(exact).all():
        raise ValueError(f"no temperature can be fitted to {len(exact)} leaves with logits that are not all finite")
    # Subtracting each row's maximum changes no probability and prevents overflow.
    exact = exact - exact.max(axis=1, keepdims=True)
    of_label = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]

    def derivative(inverse: float) -> float:
        expected = (softmax(inverse * exact) * exact).sum(axis=1)
        return float((expected - of_label).mean())

    if derivative(1 / MAX_TEMPERATURE) >= 0:
        return MAX_TEMPERATURE
    if derivative(1 / MIN_TEMPERATURE) <= 0:
        return MIN_TEMPERATURE
    return 1 / float(brentq(derivative, 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, xtol=1e-12))


def log_loss(logits: NDArray[Any], labels: Labels, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    from scipy.special import logsumexp

    exact = np.asarray(logits, dtype=np.float64) / temperature
    of_label = np.take_along_axis(exact, labels[:, None], axis=1)[:, 0]
    return float((logsumexp(exact, axis=1) - of_label).mean())


def expected_calibration_error(
    logits: NDArray[Any], labels: Labels, temperature: float = 1.0, bins: int = BINS
) -> float:
    """Mean over the images of |accuracy - confidence| of their bin, in [0, 1] (Guo et al. 2017, equation 5).

    Confidence is the largest probability; the bins are equally wide.
    """
    probabilities = softmax(logits, temperature)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
