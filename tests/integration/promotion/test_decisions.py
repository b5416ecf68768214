"""Challenger against champion with real scoring: promoted, kept or undecided, and what is recorded of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.promotion.registered import Field, written
from ufgvc.evaluation.settings import EvaluateSettings
from ufgvc.experiments.evaluate import evaluate
from ufgvc.tracking.context import Context


def test_first_better_worse_and_back(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    first = field.add(wrong=range(12))
    assert field.command("--strict") == 0
    record = written(capsys.readouterr().out)
    assert (record["decision"], record["reason"], record["champion"], record["previous"], record["test"]) == (
        "promoted", "first champion", first, None, None,
    )  # fmt: skip
    assert (record["challenger"]["right"], record["challenger"]["of"]) == (28, 40)
    assert field.champion() == first
    assert (field.tags(first)["promotion"], field.tags(first)["promotion_p"]) == ("promoted", "not compared")

    second = field.add(wrong=range(2))
    assert field.command("--strict") == 0
    output = capsys.readouterr().out
    record = written(output)
    assert (record["decision"], record["reason"], record["champion"]) == ("promoted", "better", second)
    assert field.champion() == second
    test = record["test"]
    assert (test["gains"], test["losses"], test["n"], test["difference"], test["needed"]) == (10, 0, 40, 0.25, None)
    assert test["p"] == pytest.approx(2 * 0.5**10)
    assert 0.1 < test["low"] < 0.25 < test["high"] < 0.45
    assert (record["previous"]["version"], record["previous"]["right"], record["challenger"]["right"]) == (
        first,
        28,
        38,
    )
    assert (
        record["challenger"]["data"] == record["previous"]["data"] == record["data"]["fingerprint"] == field.fingerprint
    )
    assert record["challenger"]["masks"] == "5" * 64
    # Of the leaves 2 to 11 two are amber, two birch (numbers 4, 8 and 5, 9), three cedar and three dogwood.
    changes = {row["cultivar"]: (row["champion"], row["challenger"], row["leaves"]) for row in record["cultivars"]}
    assert changes == {"amber": (7, 9, 10), "birch": (7, 9, 10), "cedar": (7, 10, 10), "dogwood": (7, 10, 10)}
    assert "+25.0 points" in output
    assert field.fingerprint[:12] in output
    assert re.search(r"cedar\W+7 of 10\W+10 of 10\W+\+3", output)

    assert field.tags(second)["promotion"] == "promoted"
    assert field.tags(second)["promotion_opponent"] == first
    assert float(field.tags(second)["promotion_p"]) == pytest.approx(test["p"], rel=1e-4)
    assert float(field.tags(second)["promotion_difference"]) == 0.25
    assert (field.tags(first)["promotion"], field.tags(first)["promotion_opponent"]) == ("replaced", second)
    run = field.client.get_run(field.tags(second)["promotion_run"])
    assert (run.data.tags["decision"], run.info.status, run.data.metrics["gains"]) == ("promoted", "FINISHED", 10)
    artifact = Path(field.runs) / "mlartifacts" / run.info.run_id / "artifacts" / "promotion.json"
    assert json.loads(artifact.read_text()) == record

    assert str(field.client.get_model_version_by_alias(field.model, "previous").version) == first
    assert field.command("--strict") == 3  # the alias challenger still points to the champion: nothing to decide
    record = written(capsys.readouterr().out)
    assert (record["decision"], record["reason"], record["test"]) == ("kept", "is the champion already", None)
    assert field.tags(second)["promotion"] == "promoted", "what was decided before stays"

    assert field.command("--model", f"models:/{field.model}@previous") == 0
    output = capsys.readouterr().out
    record = written(output)
    assert (record["decision"], record["reason"], record["champion"], record["test"]["difference"]) == (
        "kept",
        "worse",
        second,
        -0.25,
    )
    assert f"version {second} stays champion" in output
    assert (field.tags(first)["promotion"], field.tags(second)["promotion"]) == ("kept", "stays champion")
    assert field.champion() == second
    assert field.command("--model", f"models:/{field.model}@previous", "--force", "--strict") == 0
    record = written(capsys.readouterr().out)
    assert (record["decision"], record["reason"], record["forced"], record["champion"]) == (
        "promoted",
        "forced",
        True,
        first,
    )
    assert record["test"]["losses"] == 10
    assert "because of --force" in record["sentence"]
    assert field.champion() == first


def test_undecided_says_how_many_leaves(field: Field, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = field.add(wrong=range(6))
    assert field.command() == 0
    field.add(wrong=[0, 30])  # gains 1 to 5, loses 30
    capsys.readouterr()
    assert field.command("--strict") == 3
    output = capsys.readouterr().out
    record = written(output)
    assert (record["decision"], record["reason"], record["champion"]) == ("undecided", "not significant", first)
    assert (record["test"]["gains"], record["test"]["losses"]) == (5, 1)
    assert 60 < record["test"]["needed"] < 200
    assert re.search(r"About \d+0? test leaves would be needed to detect a difference of 10\.0 points", output)
    assert field.champion() == first
    (tmp_path / "promote.yaml").write_text("promote: {alpha: 0.5, strict: true}\n")
    assert field.command("--config", str(tmp_path / "promote.yaml")) == 0  # p is 0.219
    assert field.champion() != first


def test_equal_models_need_no_number_of_leaves(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    first = field.add(wrong=[0, 1])
    assert field.command() == 0
    field.add(wrong=[0, 1])
    capsys.readouterr()
    assert field.command() == 0
    output = capsys.readouterr().out
    record = written(output)
    assert record["decision"] == "undecided"
    assert (record["test"]["gains"], record["test"]["losses"], record["test"]["p"], record["test"]["needed"]) == (
        0,
        0,
        1.0,
        None,
    )
    assert record["test"]["low"] < 0 < record["test"]["high"]
    assert "no difference at all" in output
    assert "would be needed" not in output
    field.add(wrong=[0, 2])
    assert field.command() == 0
    output = capsys.readouterr().out
    assert "no number of leaves" in output
    assert "1 other challenger was compared on these same test leaves" in output
    assert field.champion() == first


def test_the_champion_with_a_newer_calibration(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    first = field.add(wrong=[0, 1])
    assert field.command() == 0
    second = field.recalibrate(first, wrong=[0, 1])
    capsys.readouterr()
    assert field.command("--strict") == 0
    record = written(capsys.readouterr().out)
    assert (record["decision"], record["reason"], record["champion"]) == ("promoted", "recalibrated", second)
    assert record["forced"] is False
    assert record["sentence"].endswith("it is the same network with a newer calibration.")
    assert field.tags(first)["promotion"] == "replaced"
    assert field.command("--strict", "--model", f"models:/{field.model}@previous") == 3, "not back to the older one"
    assert field.champion() == second


def test_evaluate_writes_a_card_and_promote_continues_it(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    quick = EvaluateSettings(cam_leaves=0, region_leaves=0, max_actors=0)

    def card(version: str) -> str:
        found = field.client.get_model_version(field.model, version)
        file = Path(field.runs) / "mlartifacts" / found.run_id / "artifacts" / "model-card.md"
        assert file.read_text() == found.description
        return file.read_text()

    field.add(wrong=range(12), seed=0)
    first = evaluate(field.data, f"models:/{field.model}@challenger", {}, quick, Context(runs=field.runs)).version
    assert first == "1"
    assert "28 of 40" in card(first)
    assert "not measured (one seed)" in card(first)
    assert field.fingerprint in card(first)
    assert field.command() == 0
    assert "promoted: version 1 is the first champion" in card(first)

    field.add(wrong=range(2), seed=1)
    second = evaluate(field.data, f"models:/{field.model}@challenger", {}, quick, Context(runs=field.runs)).version
    assert "38 of 40 (seed 1)" in card("2")
    assert "standard deviation 17.7 points" in card("2")
    assert field.command() == 0
    evaluate(
        field.data, f"models:/{field.model}/1", {}, quick, Context(runs=field.runs)
    )  # a new card has the earlier decisions
    for version in ("1", "2"):
        assert "promoted: version 2 replaces version 1 as champion. +25.0 points" in card(version)
    assert second == "2"
    assert "38 of 40 (seed 1)" in card("1")
    assert field.champion() == "2"
    capsys.readouterr()
