"""Which leaves are suggested: uncertain ones, unlike the annotated ones and each other."""

from __future__ import annotations

import numpy as np
import pytest

from ufgvc.core.types import Box
from ufgvc.regions.suggest import choose, measure_uncertainty

TWO = {"vein": 1, "contour": 2}


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_each_choice_has_the_largest_product_of_uncertainty_and_distance() -> None:
    rng = np.random.default_rng(0)
    embeddings, annotated = unit(rng.normal(size=(30, 6))), unit(rng.normal(size=(4, 6)))
    uncertainty = rng.uniform(0.1, 1, 30)
    wanted: list[int] = []
    for _ in range(8):
        best, value = -1, -1.0
        for leaf in range(30):
            others = [*annotated, *(embeddings[i] for i in wanted)]
            product = uncertainty[leaf] * min(1 - float(embeddings[leaf] @ other) for other in others)
            if leaf not in wanted and product > value:
                best, value = leaf, product
        wanted.append(best)
    assert choose(embeddings, uncertainty, annotated, 8) == wanted


def test_without_annotated_leaves_the_first_is_the_most_typical() -> None:
    embeddings = unit(np.array([[1.0, 0.0], [0.9, 0.4], [0.5, 0.9], [-1.0, 0.2]]))
    typical = int(np.argmax(embeddings @ embeddings.mean(axis=0)))
    chosen = choose(embeddings, np.ones(4), np.zeros((0, 2)), 2)
    assert chosen == [typical, 3], "then the one that is least like it"


def test_no_leaf_is_chosen_twice_even_among_copies() -> None:
    embeddings = unit(np.ones((5, 3)))
    assert sorted(choose(embeddings, np.zeros(5), embeddings[:1], 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({}, 1.0),
        ({"vein": [1.0], "contour": [1.0, 1.0]}, 0.0),
        ({"vein": [0.9], "contour": [0.6]}, 1 - (0.9 + 0.6) / 3),
        ({"vein": [0.9, 0.8], "contour": [0.6, 0.3, 0.2]}, 1 - (0.9 + 0.6 + 0.3) / 3),
    ],
)
def test_uncertainty_counts_missing_boxes_and_only_the_best(scores: dict[str, list[float]], wanted: float) -> None:
    boxes = [Box(region, 0, 0, 1, 1, score) for region, values in scores.items() for score in values]
    assert measure_uncertainty(boxes, TWO) == pytest.approx(wanted)
