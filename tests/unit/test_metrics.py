"""Scores against scipy, counting by hand, and the paper's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ufgvc.evaluation import metrics, paired_test, paper_results
from ufgvc.reports import tables


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 240), (149, 240), (240, 240), (298, 600)])
def test_the_interval_is_wilsons(k: int, n: int) -> None:
    found = metrics.proportion(k, n)
    z = 1.959963984540054
    centre, spread = (k + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    assert found.low == pytest.approx(max(0, centre - spread), abs=1e-12)
    assert found.high == pytest.approx(min(1, centre + spread), abs=1e-12)
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == (expected.low, expected.high)


def test_no_leaves_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no images"):
        metrics.proportion(0, 0)


def test_scores_by_hand() -> None:
    """Five leaves of three cultivars, the last without leaves: predicted 0, 1, 1, 1, 2."""
    logits = np.array([[3.0, 2, 1], [1, 3, 2], [1, 3, 2], [1, 3, 2], [0, 1, 2]])
    found = metrics.score(logits, np.array([0, 0, 1, 1, 1]), top_k=2)
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    np.testing.assert_allclose(found.recall, [1 / 2, 2 / 3, np.nan])
    np.testing.assert_allclose(found.precision, [1, 2 / 3, 0])
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (found.accuracy.k, found.top.k, found.top.n) == (3, 4, 5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_scores_are_those_of_counting(classes: int) -> None:
    """Some classes have no leaves, some are never predicted, and some logits are equal."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, max(2, classes - 1), 60)
    logits = rng.integers(0, 4, (60, classes)).astype(float)
    found = metrics.score(logits, truth, top_k=3)
    predicted = np.array([min(range(classes), key=lambda k: (-row[k], k)) for row in logits])
    counts = np.zeros((classes, classes), int)
    for true, guess in zip(truth, predicted, strict=True):
        counts[true, guess] += 1
    assert found.confusion.tolist() == counts.tolist()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found.recall, np.diag(counts) / counts.sum(axis=1))
        np.testing.assert_array_equal(found.precision, np.diag(counts) / counts.sum(axis=0))
    assert found.balanced_accuracy == np.nanmean(found.recall)
    ranked = [sorted(range(classes), key=lambda k: (-row[k], k))[:3] for row in logits]
    assert found.top.k == sum(int(true) in three for true, three in zip(truth, ranked, strict=True))
    assert found.accuracy.k == int(np.trace(counts))


def test_few_cultivars_have_a_smaller_top() -> None:
    found = metrics.score(np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 0]))
    assert (found.top_k, found.top.k, found.accuracy.k, found.accuracy.n) == (3, 4, 3, 4)


def test_logits_that_are_not_numbers_are_no_score() -> None:
    with pytest.raises(ValueError, match="finite"):
        metrics.score(np.array([[np.nan, 1.0]]), np.array([0]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_mcnemar_is_the_binomial_test_of_the_differing_leaves(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    found = paired_test.mcnemar(first, second)
    only_first, only_second = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    if only_first + only_second:
        assert found.p_value == binomtest(only_first, only_first + only_second, 0.5).pvalue
    else:
        assert found.p_value == 1
    assert paired_test.mcnemar(second, first).p_value == pytest.approx(found.p_value)


def test_mcnemar_by_hand() -> None:
    first, second = np.array([True] * 8 + [False] * 1), np.array([False] * 8 + [True] * 1)
    assert paired_test.mcnemar(first, second).p_value == pytest.approx(2 * (1 + 9) / 2**9)
    with pytest.raises(ValueError, match="same leaves"):
        paired_test.mcnemar(first, second[:3])


def test_confused_pairs_leave_the_diagonal_out() -> None:
    assert metrics.confused_pairs(np.array([[9, 2, 0], [0, 9, 3], [0, 0, 9]])) == [(1, 2, 3), (0, 1, 2)]


def test_the_papers_figures_are_whole_leaves() -> None:
    """Tables II and III count 240 and 600 leaves; the one cell that is no whole number is an error of the paper."""
    for name, leaves in (("cotton80", 240), ("soylocal200", 600)):
        for (method, regions), value in paper_results.PAPER[name].items():
            whole = abs(value * leaves / 100 - round(value * leaves / 100)) < 0.06
            assert whole or (name, method, regions) == ("cotton80", "mask_guided", ("contour",)), (name, method, value)


def test_a_cell_that_was_not_measured_is_empty() -> None:
    assert tables.percent(None) is None
    assert tables.percent(float("nan")) is None
    assert paper_results.paper_accuracy("cotton80", "mask_guided", {"regions": ["vein"]}) == pytest.approx(0.5833)
    assert paper_results.paper_accuracy("grape5", "mask_guided", {}) is None
    assert tables.Table("t", ("a", "b"), [["x", None]]).to_markdown().endswith("| x |  |")
