"""Comparisons that would not be fair or cannot be made: refused, and what --force does to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.promotion.registered import Field, write_data, written
from ufgvc.core.errors import UserError
from ufgvc.evaluation.promote import promote
from ufgvc.evaluation.settings import PromoteSettings
from ufgvc.tracking.context import Context


def test_another_state_of_the_data_is_refused(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    field.add(wrong=[0], data="a" * 64)
    assert field.command() == 2
    message = capsys.readouterr().err
    assert "a" * 12 in message
    assert field.fingerprint[:12] in message
    assert "--force" in message
    assert field.champion() is None
    assert field.command("--force") == 0
    record = written(capsys.readouterr().out)
    assert (record["reason"], record["forced"]) == ("first champion", True)
    assert "trained on data aaaaaaaaaaaa" in record["warnings"][0]

    second = field.add(wrong=[5])  # ours, against a champion that may have seen these test leaves
    assert field.command() == 2
    message = capsys.readouterr().err
    assert "the champion" in message
    assert "a" * 12 in message
    assert field.command("--force") == 0
    record = written(capsys.readouterr().out)
    assert (record["decision"], record["reason"], record["forced"], record["champion"]) == (
        "promoted",
        "forced",
        True,
        second,
    )
    assert "the champion" in record["warnings"][0]

    field.fingerprint = write_data(field.data, field.name, other="new ")  # the same folder after another ingest
    third = field.add(wrong=[])
    assert field.command() == 2
    assert field.champion() == second
    assert field.command("--force") == 0
    assert field.champion() == third


def test_a_champion_that_names_other_cultivars_or_is_broken(
    field: Field, runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = field.add(wrong=[], classes=("amber", "birch", "cedar", "elm"))
    field.client.set_registered_model_alias(field.model, "champion", first)
    second = field.add(wrong=[0])
    assert field.command() == 2
    assert "only the model has elm; only the data set has dogwood" in capsys.readouterr().err
    assert field.command("--force") == 0
    record = written(capsys.readouterr().out)
    assert (record["champion"], record["test"], record["previous"]["right"]) == (second, None, None)
    assert "were not compared" in record["sentence"]
    assert field.command("--model", f"models:/{field.model}@previous") == 2
    capsys.readouterr()
    assert (
        field.command("--model", f"models:/{field.model}@previous", "--force") == 0
    )  # and back, though it cannot be scored here
    record = written(capsys.readouterr().out)
    assert (record["champion"], record["test"], record["challenger"]["right"], record["cultivars"]) == (
        first,
        None,
        None,
        [],
    )
    assert field.command("--force") == 0
    assert field.champion() == second
    capsys.readouterr()

    run = field.client.get_model_version(field.model, second).run_id
    weights = Path(runs) / "mlartifacts" / run / "artifacts" / "model" / "weights.safetensors"
    weights.unlink()
    third = field.add(wrong=[1])
    assert field.command() == 2
    assert field.champion() == second
    assert field.command("--force") == 0
    assert "cannot be loaded" in written(capsys.readouterr().out)["warnings"][0]
    assert field.champion() == third


def test_selected_on_the_test_leaves(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    first = field.add(wrong=range(12))
    assert field.command() == 0
    field.add(wrong=[], validation="test")
    capsys.readouterr()
    assert field.command() == 2
    assert "was selected on these test leaves" in capsys.readouterr().err
    assert field.champion() == first


def test_the_challenger_must_be_a_version_of_the_data_set(field: Field, capsys: pytest.CaptureFixture[str]) -> None:
    assert field.command() == 2
    assert "MLflow knows no such model" in capsys.readouterr().err
    version = field.add(wrong=[0], alias=None)
    assert field.command("--model", "models:/ufgvc-other/1") == 2
    loose = field._write([0], field.fingerprint)
    capsys.readouterr()
    assert field.command("--model", loose) == 2
    assert "ufgvc evaluate" in capsys.readouterr().err
    run = field.client.get_model_version(field.model, version).run_id
    assert field.command("--model", f"runs:/{run}/model") == 0
    assert field.champion() == version


def test_mlflow_is_unavailable(field: Field, free_port: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert field.command("--tracking.uri", f"http://127.0.0.1:{free_port()}") == 2
    message = capsys.readouterr().err
    assert "nothing listens at" in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 2
    assert field.command("--tracking.uri", "off") == 2
    assert "tracking is off" in capsys.readouterr().err
    assert not (Path(field.runs) / field.name).exists()


def test_two_jobs_cannot_both_replace_one_champion(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    first = field.add(wrong=range(12))
    assert field.command() == 0
    second, third = field.add(wrong=range(2)), field.add(wrong=[])
    from ufgvc.evaluation import promote as module

    score = module.score_split

    def meanwhile(*arguments: Any) -> Any:
        field.client.set_registered_model_alias(field.model, "champion", second)
        return score(*arguments)

    monkeypatch.setattr(module, "score_split", meanwhile)
    with pytest.raises(UserError, match=f"version {second} became champion meanwhile"):
        promote(field.data, f"models:/{field.model}/{third}", PromoteSettings(max_actors=0), Context(runs=field.runs))
    assert field.champion() == second != first
