"""The parameters of a search: which of them matter, their positions on an axis, their labels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.synthetic_searches import BACKBONE, PAPER, VEIN, cells, equal_scores, synthetic_search, two_weights
from ufgvc.evaluation.search_parameters import free_parameters, importance, parameters, short_labels
from ufgvc.evaluation.search_summary import summarize
from ufgvc.reports.search_page import describe_importance
from ufgvc.reports.search_tables import search_tables


def test_importance_is_relative_to_permuted_scores() -> None:
    """A parameter with a strong effect is significant, those without are not."""
    strong = importance(synthetic_search(60, effect=1.5), 40)
    assert strong
    assert "fusion vein" in strong.significant
    assert not {"loss weights vein", "optimizer lr", "recipe crop", "backbone"} & set(strong.significant)
    record = synthetic_search(60, effect=0.0)
    assert describe_importance(strong, record).startswith("Significant: ")
    flat = importance(record, 40)
    assert flat
    assert not flat.significant
    assert "No parameter is significant" in describe_importance(flat, record)


def test_no_importance_from_few_or_equal_trials() -> None:
    few = synthetic_search(8)
    assert importance(few) is None
    assert describe_importance(None, few).startswith("Too few trials")
    equal = equal_scores()
    assert importance(equal) is None
    assert "scored the same" in describe_importance(None, equal)


def test_optunas_log_level_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    importance(synthetic_search(20), 2)
    assert optuna.logging.get_verbosity() == before
    assert "study" not in capfd.readouterr().err


def test_positions_of_parameters() -> None:
    found = {one.name: one for one in parameters(synthetic_search())}
    vein = found[VEIN.name]
    assert [vein.position({VEIN.name: value}) for value in (0.001, 0.1, 10.0, 0.0)] == pytest.approx([0, 0.5, 1, 0])
    assert found["recipe.crop"].position({"recipe.crop": 0.75}) == pytest.approx(0.5)
    assert [found[BACKBONE.name].position({BACKBONE.name: name}) for name in BACKBONE.choices] == [0, 1]
    assert found["options.fusion.vein"].position(PAPER) == 0.5
    assert [one.label for one in free_parameters(two_weights())] == ["fusion base"]


def test_a_papers_value_outside_the_range_widens_it() -> None:
    narrow, choice = replace(VEIN, low=0.5), replace(BACKBONE, choices=("resnet18",))
    record = replace(synthetic_search(3, dimensions=(VEIN, BACKBONE)), dimensions=(narrow, choice))
    vein, backbone = parameters(record)
    assert vein.low <= 0.1
    assert 0 <= vein.position(PAPER) <= 1
    assert backbone.choices == ("resnet18", "resnet50")
    assert backbone.position(PAPER) == 1
    assert cells(search_tables(record, summarize(record, 100))["settings"])["backbone"][-2] == "resnet18"


def test_labels_are_short_and_unique() -> None:
    names = ["options.fusion.vein", "optimizer.lr", "init", "a.b.c", "d.b.c"]
    assert short_labels(names) == ["fusion vein", "optimizer lr", "init", "a b c", "d b c"]
