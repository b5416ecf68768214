"""The journal, resolving where MLflow is, and removing secrets."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import Mock

import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.settings import TrackingSettings, redact, redact_values, resolve


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(open_store(tmp_path / "journal"))


def test_lines_are_kept_in_the_order_of_logging(journal: Journal) -> None:
    assert journal.read_lines() == []
    for step in (10, 2, 0):
        assert journal.append({step: {"loss": float(step)}})
    assert Journal(journal.store).read_lines() == [Line(step, {"loss": float(step)}) for step in (10, 2, 0)]


def test_a_retry_of_a_step_changes_nothing(journal: Journal) -> None:
    journal.append({3: {"loss": 0.5, "images_per_second": 11.0}})
    assert not journal.append({3: {"loss": 0.5, "images_per_second": 12.0}})
    assert journal.read_lines() == [Line(3, {"loss": 0.5, "images_per_second": 11.0})]


def test_a_new_metric_of_a_known_step_is_a_line_of_its_own(journal: Journal) -> None:
    journal.append({3: {"loss": 0.5}})
    assert journal.append({3: {"loss": 0.4, "accuracy": 0.25}})
    assert journal.read_lines() == [Line(3, {"loss": 0.5}), Line(3, {"accuracy": 0.25})]


def test_only_new_lines_are_written(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append({0: {"loss": 0.0}})
    monkeypatch.setattr(Store, "write_text", lambda *_: pytest.fail("the whole file is written again"))
    monkeypatch.setattr(Store, "read_bytes", lambda *_: pytest.fail("the whole file is read again"))
    for step in range(1, 20):
        assert journal.append({step: {"loss": float(step)}})
    assert not journal.append({step: {"loss": 7.0} for step in range(20)})
    monkeypatch.undo()
    assert (
        Journal(journal.store).read_lines() == journal.read_lines() == [Line(n, {"loss": float(n)}) for n in range(20)]
    )


def test_half_a_line_of_a_killed_process_is_replaced(journal: Journal) -> None:
    journal.append({1: {"loss": 1.0}, 2: {"loss": 2.0}})
    path = journal.store.local_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    again = Journal(journal.store)
    assert again.read_lines() == [Line(1, {"loss": 1.0})]
    again.append({2: {"loss": 2.0}, 3: {"loss": 3.0}})
    again.append({4: {"loss": 4.0}})
    assert Journal(journal.store).read_lines() == [Line(n, {"loss": float(n)}) for n in (1, 2, 3, 4)]


def test_a_write_that_fails_is_made_again(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_text", Mock(side_effect=UserError("the disk is full")))
        with pytest.raises(UserError):
            journal.append({1: {"loss": 1.0}})
    assert journal.append({1: {"loss": 1.0}})
    assert Journal(journal.store).read_lines() == [Line(1, {"loss": 1.0})]


def test_numbers_that_json_does_not_have_survive(journal: Journal) -> None:
    journal.append({1: {"loss": float("nan"), "worst": float("inf")}})
    text = journal.store.read_text("metrics.jsonl")
    assert "NaN" not in text
    assert "Infinity" not in text
    (found,) = journal.read_lines()
    assert math.isnan(found.metrics["loss"])
    assert found.metrics["worst"] == math.inf


def test_a_damaged_identity_is_a_user_error(journal: Journal) -> None:
    assert journal.read_identity() is None
    journal.store.write_text("run.json", "{half")
    with pytest.raises(UserError, match=r"run\.json: is damaged"):
        journal.read_identity()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pa55@mlflow.example/x", "https://***@mlflow.example/x"),
        ("no connection to postgresql://u:p%40w@db:5432/ml now", "no connection to postgresql://***@db:5432/ml now"),
        ("https://h/x?X-Amz-Signature=abc&part=2", "https://h/x?X-Amz-Signature=***&part=2"),
        ("s3://bucket/leaf@home/photo.jpg", "s3://bucket/leaf@home/photo.jpg"),
        ("models:/ufgvc-cotton80@champion", "models:/ufgvc-cotton80@champion"),
    ],
)
def test_uris_lose_their_secrets_and_nothing_else(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_settings_lose_secrets_at_any_depth() -> None:
    redacted = redact_values({"a": {"password": "x", "uri": "http://u:p@h/"}, "list": ["http://u@h", 3], "lr": 0.1})
    assert redacted == {"a": {"password": "***", "uri": "http://***@h/"}, "list": ["http://***@h", 3], "lr": 0.1}


def test_where_mlflow_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = str(tmp_path / "runs")
    place = resolve(TrackingSettings(), runs)
    assert place is not None
    assert place.uri == f"sqlite:///{runs}/mlflow.db"
    assert place.artifacts == (tmp_path / "runs" / "mlartifacts").as_uri()
    assert resolve(TrackingSettings(uri="off"), "s3://bucket/runs") is None
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI.*--tracking\.uri off"):
        resolve(TrackingSettings(), "s3://bucket/runs")
    on_disk = resolve(TrackingSettings(uri="sqlite:////x/ml.db"), "s3://bucket/runs")
    assert on_disk is not None
    assert on_disk.artifacts == "s3://bucket/runs/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    server = resolve(TrackingSettings(), "s3://bucket/runs")
    assert server is not None
    assert (server.uri, server.artifacts) == ("http://127.0.0.1:5000", None)
    chosen = resolve(TrackingSettings(uri="sqlite:////x/ml.db"), runs)
    assert chosen is not None
    assert chosen.uri == "sqlite:////x/ml.db"
