"""The card of a version: everything measured is told with its count, everything else is said not to be measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ufgvc.commands import COMMANDS
from ufgvc.evaluation.model_card import SeedScore, add_decision, model_card, read_decisions, seed_scores, setting_key
from ufgvc.models.calibration import Calibration
from ufgvc.models.model import LoadedModel
from ufgvc.tracking.versions import MAX_DESCRIPTION, truncate_card


def info(**more: Any) -> dict[str, Any]:
    return {
        "classes": ["amber", "birch", "cedar", "dogwood"],
        "method": "resnet50",
        "options": {"backbone": "resnet18"},
        **more,
    }


def metrics(**more: Any) -> dict[str, Any]:
    one = {
        "accuracy": {"k": 45, "n": 64, "value": 45 / 64, "low": 0.582, "high": 0.801},
        "balanced_accuracy": 0.71,
        "top5": {"k": 60, "n": 64, "value": 60 / 64, "low": 0.85, "high": 0.97},
        "mean_probability": 0.6,
        **more,
    }
    return {"dataset": "vineyard", "warnings": [], "models": {"this model": one, "other": {}}}


FACTS = {"Data set": "vineyard: 32 train, 64 test photographs", "Fingerprint": "f" * 64, "Method": "resnet50"}


def test_it_tells_what_was_measured_and_what_was_not() -> None:
    card = model_card(info(), metrics(), FACTS).to_markdown("ufgvc-vineyard", "3")
    assert card.startswith("# ufgvc-vineyard, version 3\n\nPredicts one of 4 cultivars")
    assert (
        "Accuracy on the test leaves of vineyard: 45 of 64 = 70.3 % (95 % interval 58.2 to 80.1; chance 25.0 %)."
        in card
    )
    assert "Top-5 accuracy: 60 of 64" in card
    assert "Variation between training seeds: not measured" in card
    assert "Probabilities: not calibrated" in card
    assert "predicts one of its cultivars for any photograph" in card
    assert "Other fields, years, cameras, light and growth stages: not measured" in card
    assert "AGPL-3.0-or-later" in card
    assert 'load_model("models:/ufgvc-vineyard/3")' in card
    assert "- Fingerprint: " + "f" * 64 in card
    assert "None yet" in card
    assert card.endswith(".\n")


def test_spread_calibration_and_warnings_where_they_are_known() -> None:
    calibration = {
        "temperature": 1.37,
        "threshold": 0.41,
        "coverage": 0.95,
        "num_images": 40,
        "source": "leaves held out of train",
    }
    found = metrics(reliability={"calibrated_error": 0.043, "unknown": 7})
    found["warnings"] = ["this model: selected on test. The accuracy is too high.", "other: not ours."]
    seeds = [SeedScore("0", 45, 64), SeedScore("1", 49, 64)]
    card = model_card(info(calibration=calibration), found, FACTS, seeds).to_markdown("m", "1")
    assert "45 of 64 (seed 0), 49 of 64 (seed 1); standard deviation 4.4 points" in card
    assert "temperature 1.37, from 40 leaves held out of train; calibration error on the test leaves 4.3 %" in card
    assert (
        "unknown above an out-of-distribution score of 0.41, so that 95 % of those leaves are known; "
        "of the test leaves 7 are called" in card
    )
    assert "- selected on test. The accuracy is too high." in card
    assert "not ours" not in card
    assert "for any photograph" not in card


@pytest.mark.parametrize("measured", [{}, {"reliability": {"calibrated_error": None, "unknown": None}}])
def test_a_calibration_without_a_threshold(measured: dict[str, Any]) -> None:
    """What `train --train.validation holdout` and `kfold` leave."""
    calibration = Calibration(
        temperature=1.37, num_images=40, source="holdout, the leaves that chose the epoch"
    ).model_dump()
    card = model_card(info(calibration=calibration), metrics(**measured), FACTS).to_markdown("m", "1")
    assert "temperature 1.37, from 40 holdout" in card
    assert "No leaf is called unknown" in card
    assert "for any photograph" in card


def test_a_leaf_is_unknown_above_the_threshold_wherever_it_is_said() -> None:
    model = LoadedModel(
        None, (), {}, {}, Calibration(temperature=1.0, threshold=0.41, num_images=40, source="held out")
    )  # type: ignore[arg-type]
    assert model.is_known(np.array([0.40, 0.42])).tolist() == [True, False]
    assert "above which a leaf is unknown" in COMMANDS.get("calibrate").summary


def test_decisions_are_added_and_outlive_a_new_card() -> None:
    card = model_card(info(), metrics(), FACTS).to_markdown("m", "1")
    assert read_decisions(card) == []
    once = add_decision(card, "2026-01-02: promoted: version 1 is the first champion.")
    twice = add_decision(once, "2026-02-03: kept.")
    assert read_decisions(twice) == ["2026-01-02: promoted: version 1 is the first champion.", "2026-02-03: kept."]
    assert "None yet" not in twice
    assert twice.partition("## Limits")[2] == card.partition("## Limits")[2]
    assert model_card(info(), metrics(), FACTS).to_markdown("m", "1", read_decisions(twice)) == twice
    assert read_decisions(add_decision("", "first")) == ["first"]
    assert add_decision("words of a person", "first") == "words of a person\n\n## Decisions\n\n- first\n"


def test_a_long_card_fits_the_registry_and_keeps_its_decisions() -> None:
    facts = {f"Setting {i}": "x y " * 500 for i in range(40)}
    card = model_card(info(classes=[f"cultivar {i}" for i in range(500)]), metrics(), facts).to_markdown(
        "m", "1", ["first champion"]
    )
    assert "and 488 more" in card
    assert len(card) > MAX_DESCRIPTION
    short = truncate_card(card)
    assert len(short) <= MAX_DESCRIPTION
    assert read_decisions(short) == ["first champion"]
    assert "model-card.md" in short.splitlines()[-1]


class Filed:
    def __init__(self, version: int, **tags: str) -> None:
        self.version, self.tags = version, tags


def test_seeds_of_one_setting_are_found_among_the_versions() -> None:
    same = {"setting": "abc", "data_fingerprint": "f00d"}
    versions = [
        Filed(5, **same, seed="1", accuracy="50/64"),
        Filed(4, **same, seed="0", accuracy="45/64"),
        Filed(3, **same, seed="1", accuracy="10/64"),  # an older one of seed 1
        Filed(2, setting="other", data_fingerprint="f00d", seed="2", accuracy="1/64"),
        Filed(1),
    ]
    assert seed_scores(versions, {**same, "seed": "1", "accuracy": "51/64"}) == [
        SeedScore("0", 45, 64),
        SeedScore("1", 51, 64),
    ]
    assert seed_scores(versions, {**same, "seed": "2", "accuracy": "9/64"})[1:] == [
        SeedScore("1", 50, 64),
        SeedScore("2", 9, 64),
    ]
    assert seed_scores(versions, {**same, "seed": "", "accuracy": "51/64"}) == []
    one, other = {"method": "a", "options": {"x": 1}, "seed": 1}, {"method": "a", "options": {"x": 1}, "seed": 2}
    assert setting_key(one) == setting_key(other) != setting_key({**one, "options": {"x": 2}})
