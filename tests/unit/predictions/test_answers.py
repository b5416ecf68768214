"""What `predict` prints: the answer itself for a few photographs, and counts in words that fit the number."""

from __future__ import annotations

import dataclasses

import pytest

from ufgvc.core.text import plural
from ufgvc.evaluation.drift import Drift
from ufgvc.evaluation.prediction_writer import _answer
from ufgvc.evaluation.settings import PredictResult

PAIRS = [("Merlot", 0.81), ("Malbec", 0.072), ("Syrah", 0.01)]


@pytest.mark.parametrize(("count", "wanted"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12345, "12,345 files")])
def test_one_is_singular(count: int, wanted: str) -> None:
    assert plural(count, "file") == wanted


def test_a_noun_with_a_plural_of_its_own() -> None:
    assert (plural(1, "leaf", "leaves"), plural(2, "leaf", "leaves")) == ("1 leaf", "2 leaves")


def test_the_answer_names_the_cultivar_and_the_next_candidate() -> None:
    assert _answer("a.jpg", "Merlot", PAIRS) == "a.jpg: Merlot (81.0 %; next Malbec, 7.2 %)"
    assert _answer("a.jpg", "unknown", PAIRS) == "a.jpg: unknown (Merlot, 81.0 %; next Malbec, 7.2 %)"
    assert _answer("a.jpg", "Merlot", PAIRS[:1]) == "a.jpg: Merlot (81.0 %)"


def test_answers_come_first_and_in_the_order_of_the_paths() -> None:
    drift = Drift(2, 0, None, None, None, 0.1, 1, 3, "Merlot", 1.0, 0.3, 0.1)
    result = PredictResult(2, 1, "p.csv", "p.json", "rejected.csv", (), drift=drift, answers=("b.jpg: B", "a.jpg: A"))
    lines = result.summary().splitlines()
    assert lines[:3] == [
        "a.jpg: A",
        "b.jpg: B",
        "2 photographs predicted: p.csv; 1 other file, see rejected.csv",
    ]
    assert not any(line.startswith("drift") for line in lines)  # of two photographs it says nothing
    many = dataclasses.replace(result, answers=())
    assert many.summary().splitlines()[-1].startswith("drift: ")
