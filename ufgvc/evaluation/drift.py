"""How a batch of new photographs differs from the leaves that a model was trained and calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ufgvc.evaluation.metrics import proportion
from ufgvc.models.model import LoadedModel

BINS = 4000  # of out-of-distribution scores and distances up to 2: medians are exact to 0.0005
LARGE_CHANGE = 0.3  # total variation distance


@dataclass
class Histogram:
    """Counts of numbers in [0, 2], larger ones as 2: the memory does not grow with how many there are."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, value: float) -> None:
        """Counts one number."""
        self.counts[min(int(value / 2 * BINS), BINS - 1)] += 1

    @property
    def median(self) -> float | None:
        """The centre of the bin of the lower median; None without numbers."""
        total = int(self.counts.sum())
        if not total:
            return None
        return (int(np.searchsorted(self.counts.cumsum(), (total + 1) // 2)) + 0.5) * 2 / BINS


class DriftCounter:
    """Counts predictions one by one.  model: whose calibration and training leaves they are compared with."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.named = np.zeros(len(model.classes), np.int64)
        self.unknown, self.scores, self.distances = 0, Histogram(), Histogram()
        self._index = {name: index for index, name in enumerate(model.classes)}

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts a row of `predict` that was read."""
        self.named[self._index[row["names"][0]]] += bool(row["known"])
        self.unknown += not row["known"]
        if self.model.subspace is not None:
            self.scores.add(row["ood_score"])
        if row["distances"]:
            self.distances.add(row["distances"][0])

    def result(self) -> Drift:
        """What was counted so far."""
        model, total = self.model, int(self.named.sum()) + self.unknown
        counts = model.info.get("class_counts")
        trained = None if not counts else np.asarray(counts) / max(1, sum(counts))
        top = int(self.named.argmax())
        change = None
        if trained is not None and self.named.sum():
            change = float(np.abs(self.named / self.named.sum() - trained).sum() / 2)
        return Drift(
            photographs=total,
            unknown=self.unknown,
            allowed=None if model.subspace is None or not model.calibration else 1 - model.calibration.coverage,
            ood_median=self.scores.median,
            calibration_median=model.calibration.ood_median if model.calibration else None,
            distance_median=self.distances.median,
            cultivars=int((self.named > 0).sum()),
            classes=len(model.classes),
            most_named=model.classes[top] if self.named[top] else None,
            most_named_share=float(self.named[top] / max(1, total)),
            trained_share=None if trained is None else float(trained[top]),
            mix_change=change,
        )


@dataclass(frozen=True)
class Drift:
    """What new photographs are like, compared with the leaves that the model knows.

    unknown: photographs above the threshold.  allowed: share of the calibration leaves above it; None: no threshold.
    ood_median, calibration_median: median out-of-distribution score here and of the calibration leaves.
    distance_median: to the nearest training leaf, in [0, 2].  cultivars: named at least once, of `classes`.
    most_named_share: of the photographs; trained_share: of that cultivar among the training leaves.
    mix_change: total variation distance in [0, 1] between the cultivars named and those of the training leaves.
    A median or share is None where the model does not carry what it takes.
    """

    photographs: int
    unknown: int
    allowed: float | None
    ood_median: float | None
    calibration_median: float | None
    distance_median: float | None
    cultivars: int
    classes: int
    most_named: str | None
    most_named_share: float
    trained_share: float | None
    mix_change: float | None

    @property
    def more_unknown(self) -> bool:
        """Whether more are unknown than chance explains: the 95 % interval lies above the share allowed."""
        if self.allowed is None or not self.photographs:
            return False
        return proportion(self.unknown, self.photographs).low > self.allowed

    def summary(self) -> str:
        """One line for the terminal and the page."""
        if not self.photographs:
            return "drift: no photograph was predicted"
        parts = []
        if self.allowed is not None:
            share = 100 * self.unknown / self.photographs
            parts.append(f"{share:.1f} % unknown (calibration leaves {100 * self.allowed:.1f} %)")
        if self.ood_median is not None:
            known = "" if self.calibration_median is None else f" (calibration leaves {self.calibration_median:.3f})"
            parts.append(f"median out-of-distribution score {self.ood_median:.3f}{known}")
        elif self.distance_median is not None:
            parts.append(f"median distance to the nearest training leaf {self.distance_median:.3f}")
        parts.append(f"{self.cultivars} of {self.classes} cultivars named")
        if self.most_named is not None:
            trained = (
                "" if self.trained_share is None else f" ({100 * self.trained_share:.0f} % of the training leaves)"
            )
            parts.append(f"most often {self.most_named}, {100 * self.most_named_share:.0f} %{trained}")
        return "drift: " + ", ".join(parts)

    def warnings(self) -> list[str]:
        """What a person should look at; empty where nothing stands out."""
        found = []
        if self.more_unknown:
            found.append(
                f"{self.unknown} of {self.photographs} photographs are unknown, more than the "
                f"{100 * (self.allowed or 0):.0f}\u00a0% of known leaves that the threshold excludes: other cultivars, "
                "or photographs taken in another way than the training leaves"
            )
        if self.mix_change is not None and self.mix_change > LARGE_CHANGE and self.photographs >= 10 * self.classes:
            found.append(
                "the cultivars named are another mix than the training leaves: probabilities suppose the mix of those"
            )
        return found
