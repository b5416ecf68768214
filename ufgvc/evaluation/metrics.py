"""Classification metrics of one model on a set of images: accuracy with its Wilson interval, recall, precision.

N images, K classes. Labels and predictions are class indices in [0, K). Rates are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ufgvc.models.calibration import softmax
from ufgvc.models.score import rank_classes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Proportion:
    """k of n, with the bounds of a confidence interval, all in [0, 1]."""

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on N images.

    balanced_accuracy: mean recall over the classes that have images.  top: top-k accuracy.  mean_probability: mean of
    the largest softmax probability.  recall: (K,), NaN for a class without images.  precision: (K,), NaN for a class
    that was never predicted.  confusion: (K, K) counts, rows the true class, columns the predicted one.
    """

    accuracy: Proportion
    balanced_accuracy: float
    top: Proportion
    top_k: int
    mean_probability: float
    recall: Floats
    precision: Floats
    confusion: Ints


def proportion(k: int, n: int, confidence: float = 0.95) -> Proportion:
    """k of n with its Wilson score interval, without continuity correction.

    ValueError for n = 0 or k outside [0, n].
    """
    from scipy.stats import binomtest  # here and below: their import takes a second, which `predict` does without

    if n < 1:
        raise ValueError("a proportion of no images does not exist")
    interval = binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Proportion(k, n, float(interval.low), float(interval.high))


def score(logits: Floats, truth: Ints, top_k: int = 5) -> Scores:
    """All metrics of a model from its logits (N, K) and the true labels (N,).

    Classes with equal logits rank in label order. (scikit-learn's top-k accuracy ranks them the other way round, and
    takes other input for two classes.) ValueError for logits that are not finite.
    """
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    if not np.isfinite(logits).all():
        raise ValueError("the model gave logits that are not finite numbers")
    images, classes = logits.shape
    top_k = min(top_k, classes)
    ranked = rank_classes(logits)
    predicted, labels = ranked[:, 0], np.arange(classes)
    rates = {"labels": labels, "average": None, "zero_division": np.nan}
    recall = recall_score(truth, predicted, **rates)
    return Scores(
        accuracy=proportion(int((predicted == truth).sum()), images),
        balanced_accuracy=float(np.nanmean(recall)),
        top=proportion(int((ranked[:, :top_k] == truth[:, None]).any(axis=1).sum()), images),
        top_k=top_k,
        mean_probability=float(softmax(logits).max(axis=1).mean()),
        recall=recall,
        precision=precision_score(truth, predicted, **rates),
        confusion=confusion_matrix(truth, predicted, labels=labels),
    )


def confused_pairs(confusion: Ints, most: int = 12) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the largest off-diagonal counts of a (K, K) confusion matrix."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in zip(rows, columns, strict=True) if wrong[i, j]]
