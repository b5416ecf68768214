"""`plateau`: the rate falls when the score stands still, and never because of test leaves."""

from __future__ import annotations

import pytest

from ufgvc.methods import Stage
from ufgvc.training.optim import count_plateau_drops, lr_at


def rows(scores: list[float], name: str = "validation_accuracy") -> list[dict[str, float]]:
    return [{"loss": 1.0, name: score} for score in scores]


@pytest.mark.parametrize(
    ("scores", "falls"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0),
        ([0.5, 0.4, 0.4, 0.4], 0),  # three without a better one are borne
        ([0.5, 0.4, 0.4, 0.4, 0.4], 1),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 1),  # as good is not better
        ([0.5] + [0.4] * 4 + [0.6] + [0.4] * 3, 1),
        ([0.5] + [0.4] * 8, 2),
    ],
)
def test_hand_counted(scores: list[float], falls: int):
    assert count_plateau_drops(rows(scores), patience=3) == falls
    assert count_plateau_drops(rows(scores, "train_accuracy"), patience=3) == falls, (
        "without held-out leaves the training crops decide"
    )


def test_a_stage_counts_its_own_epochs():
    stages = (
        Stage(epochs=5, lr=1.0, schedule="plateau", gamma=0.1, patience=1),
        Stage(epochs=5, lr=0.1, schedule="plateau", patience=1),
    )
    history = rows([0.5, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1])
    assert [lr_at(stages, epoch, history[:epoch]) for epoch in range(8)] == pytest.approx([1, 1, 1, 0.1, 0.1, 1, 1, 1])
