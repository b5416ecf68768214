"""The training leaves that a model carries: which are chosen, which are nearest, and their file."""

from __future__ import annotations

import numpy as np
import pytest

from tests.factories import encoded
from ufgvc.core.errors import UserError
from ufgvc.models.training_leaves import IN_ALL, PER_CLASS, TrainingLeaves, choose_leaves


def leaves(rows: int = 12, width: int = 7, seed: int = 0) -> TrainingLeaves:
    features = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    thumbnails = [encoded(f"{number}") for number in range(rows)]
    return TrainingLeaves.of_features(features, np.arange(rows) % 3, [f"leaf {n}" for n in range(rows)], thumbnails)


def test_the_nearest_leaves_are_those_of_the_largest_cosine() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(12, 7))
    new = rng.normal(size=(5, 7))
    found, distances = TrainingLeaves.of_features(
        features.astype(np.float32), np.zeros(12, np.int64), [""] * 12, [b""] * 12
    ).nearest(new, 4)
    for row, (order, away) in enumerate(zip(found, distances, strict=True)):
        wanted = [
            1
            - sum(a * b for a, b in zip(new[row], leaf, strict=True))
            / (np.sqrt((new[row] ** 2).sum() * (leaf**2).sum()))
            for leaf in features
        ]
        assert list(order) == sorted(range(12), key=lambda leaf: wanted[leaf])[:4]
        assert away == pytest.approx(sorted(wanted)[:4], abs=1e-6)


def test_a_leaf_is_nearest_to_itself_at_distance_zero() -> None:
    carried = leaves()
    found, distances = carried.nearest(3 * carried.embeddings, 1)
    assert found[:, 0].tolist() == list(range(12))
    assert distances == pytest.approx(np.zeros((12, 1)), abs=1e-6)


def test_fewer_leaves_than_asked_for_are_all_returned() -> None:
    found, distances = leaves(2).nearest(np.ones((3, 7)), 5)
    assert found.shape == distances.shape == (3, 2)


def test_the_file_holds_the_same_leaves_rounded_to_float16() -> None:
    carried = leaves()
    again = TrainingLeaves.from_bytes(carried.to_bytes())
    assert again.labels.tolist() == carried.labels.tolist()
    assert list(again.image_ids) == list(carried.image_ids)
    assert list(again.thumbnails) == list(carried.thumbnails)
    assert again.embeddings.dtype == np.float32
    assert np.abs(again.embeddings - carried.embeddings).max() < 1e-3


@pytest.mark.parametrize("content", [b"", b"not parquet", leaves().to_bytes()[:-40]])
def test_a_damaged_file_ends_in_a_message(content: bytes) -> None:
    with pytest.raises(UserError, match="is damaged") as raised:
        TrainingLeaves.from_bytes(content, "runs/model")
    assert raised.value.where == "runs/model"


def test_every_class_has_leaves_and_none_has_more_than_the_limit() -> None:
    labels = np.repeat(np.arange(4), [1, 5, PER_CLASS, 300])
    np.random.default_rng(0).shuffle(labels)
    chosen = choose_leaves(labels)
    assert len(set(chosen.tolist())) == len(chosen)
    assert chosen.tolist() == sorted(chosen.tolist())
    assert np.bincount(labels[chosen]).tolist() == [1, 5, PER_CLASS, PER_CLASS]


def test_many_classes_share_the_number_of_leaves() -> None:
    labels = np.repeat(np.arange(IN_ALL), 3)
    assert np.bincount(labels[choose_leaves(labels)]).tolist() == [1] * IN_ALL
    few = np.repeat(np.arange(IN_ALL // 2), 3)
    assert np.bincount(few[choose_leaves(few)]).tolist() == [2] * (IN_ALL // 2)
    assert choose_leaves(np.zeros(0, np.int64)).tolist() == []
