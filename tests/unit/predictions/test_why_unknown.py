"""The sentence that says why a leaf is unknown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ufgvc.evaluation.explanation import why_unknown
from ufgvc.models.calibration import Calibration, FeatureSubspace

ONE = np.ones(1, np.float32)
ORIGIN = (np.zeros(4, np.float32), np.zeros((0, 4), np.float32))
SUBSPACES = {
    "trained": FeatureSubspace(*ORIGIN, long_length=ONE),
    "probe": FeatureSubspace(*ORIGIN, length=ONE),
    "earlier": FeatureSubspace(*ORIGIN),
}


def sentence(name: str, length: float) -> str:
    """Of a feature of this length."""
    subspace = SUBSPACES[name]
    calibration = Calibration(temperature=1, threshold=0.5, num_images=40, source="3-fold")
    model: Any = SimpleNamespace(calibration=calibration, subspace=subspace)
    feature = np.array([[length, 0, 0, 0]])
    relative = subspace.relative_lengths(feature)
    row = {"ood_score": float(subspace.ood_score(feature)[0]), "relative_length": relative and float(relative[0])}
    return why_unknown(row, model)


@pytest.mark.parametrize(("name", "length"), [("trained", 1.6), ("probe", 4.0)])
def test_it_says_that_the_features_are_longer_than_those_of_leaves(name: str, length: float) -> None:
    found = sentence(name, length)
    assert "is above 0.500, which 95 % of 40 leaves of known cultivars do not exceed; " in found
    assert f"its features are {length:.1f} times as long as those of the training leaves: perhaps no leaf" in found


@pytest.mark.parametrize(("name", "length"), [("trained", 1.1), ("probe", 1.6), ("earlier", 9.0)])
def test_it_does_not_of_a_usual_length_or_where_the_model_does_not_know_it(name: str, length: float) -> None:
    assert sentence(name, length).endswith("do not exceed")
