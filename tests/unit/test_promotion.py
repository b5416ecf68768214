"""What follows from a contest, and how it is one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ufgvc.evaluation.metrics import proportion
from ufgvc.evaluation.paired_test import PairedComparison, changes_by_cultivar, compare_paired
from ufgvc.evaluation.promote import decide
from ufgvc.evaluation.promotion_record import Promotion, Side, describe_sample_size
from ufgvc.reports.promotion_tables import promotion_tables


def compared(gains: int, losses: int, n: int, alpha: float = 0.05) -> PairedComparison:
    """A comparison of models that are both right on the leaves that are neither gained nor lost."""
    leaf = np.arange(n)
    return compare_paired(leaf >= gains, (leaf < gains) | (leaf >= gains + losses), alpha)


def test_a_comparison_counts_leaves() -> None:
    one = compared(9, 1, 50)
    assert (one.gains, one.losses, one.n, one.difference) == (9, 1, 50, 0.16)
    assert one.p == pytest.approx(2 * 11 / 1024)
    assert one.low < 0.16 < one.high
    assert (one.outcome, one.needed) == ("better", None)
    assert compared(1, 9, 50).outcome == "worse"
    assert compared(9, 1, 50, alpha=0.01).outcome == "undecided"
    assert compared(0, 0, 50).outcome == "undecided"


@pytest.mark.parametrize(
    ("first", "outcome", "fair", "force", "wanted"),
    [
        (True, None, True, False, ("promoted", "first champion")),
        (True, None, False, True, ("promoted", "first champion")),
        (False, (9, 0), True, False, ("promoted", "better")),
        (False, (9, 0), True, True, ("promoted", "better")),
        (False, (9, 0), False, True, ("promoted", "forced")),
        (False, (0, 9), True, False, ("kept", "worse")),
        (False, (0, 9), True, True, ("promoted", "forced")),
        (False, (2, 1), True, False, ("undecided", "not significant")),
        (False, (2, 1), True, True, ("promoted", "forced")),
        (False, None, False, True, ("promoted", "forced")),
    ],
)
def test_the_decision(
    first: bool, outcome: tuple[int, int] | None, fair: bool, force: bool, wanted: tuple[str, str]
) -> None:
    assert decide(first, compared(*outcome, 40) if outcome else None, fair, force) == wanted


@pytest.mark.parametrize(
    ("outcome", "fair", "wanted"),
    [
        ((0, 0), True, ("promoted", "recalibrated")),
        ((0, 0), False, ("undecided", "not significant")),
        ((1, 0), True, ("undecided", "not significant")),
        ((0, 9), True, ("kept", "worse")),
        ((9, 0), True, ("promoted", "better")),
    ],
)
def test_a_newer_calibration_of_the_champion(outcome: tuple[int, int], fair: bool, wanted: tuple[str, str]) -> None:
    """It is promoted only if it names every leaf as the champion does."""
    assert decide(False, compared(*outcome, 40), fair, force=False, recalibrated=True) == wanted


def test_cultivars_in_the_order_of_their_gain() -> None:
    label = np.array([0, 0, 1, 1, 2, 2])
    old, new = np.array([1, 1, 0, 0, 1, 0], bool), np.array([0, 1, 1, 1, 1, 0], bool)
    rows = changes_by_cultivar(["a", "b", "c", "without leaves"], label, old, new)
    assert [(row.cultivar, row.champion, row.challenger, row.leaves, row.change) for row in rows] == [
        ("b", 0, 2, 2, 2), ("c", 1, 1, 2, 0), ("a", 2, 1, 2, -1),
    ]  # fmt: skip
    assert [(row.champion, row.change) for row in changes_by_cultivar(["a", "b", "c"], label, None, new)] == [
        (None, 0)
    ] * 3


def test_no_number_where_there_is_none() -> None:
    assert "no difference at all" in describe_sample_size(compared(0, 0, 30))
    assert "no number of leaves" in describe_sample_size(compared(3, 3, 30))
    text = describe_sample_size(compared(14, 7, 80))
    assert (
        text == "About 280 test leaves would be needed to detect a difference of 8.8 points (power 80 %, alpha 0.05)."
    )
    assert describe_sample_size(compared(101, 95, 600)).startswith(
        "About 26000 test leaves"
    )  # 25834: two digits are all that is known


def test_json_has_everything_and_is_json() -> None:
    new = Side("2", "run", "resnet50", "f00d", None, None, proportion(30, 40))
    old = Side("1", None, "resnet50", "f00d", "5", "box", proportion(25, 40))
    data = {"name": "vineyard", "uri": "s3://b/v", "fingerprint": "f00d", "split": "test", "leaves": 40}
    one = Promotion(
        "ufgvc-vineyard",
        "undecided",
        "not significant",
        data,
        new,
        old,
        compared(8, 3, 40),
        made={"made": "now", "code": None},
    )
    found = json.loads(json.dumps(one.to_json()))
    assert (found["champion"], found["challenger"]["right"], found["previous"]["masks"]) == ("1", 30, "5")
    assert found["test"]["gains"] == 8
    assert found["sentence"].startswith("undecided: version 1 stays champion. +12.5 points (95 % interval ")
    assert set(found) == {
        *("schema", "decision", "reason", "sentence", "model", "champion", "forced", "warnings", "data", "challenger"),
        *("previous", "test", "cultivars", "made", "code"),
    }
    (table,) = promotion_tables(one)
    assert [row[3] for row in table.rows] == ["30 of 40", "25 of 40"]
