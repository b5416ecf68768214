"""Challenger against champion: a real registry on SQLite, real scoring, models that are right on chosen leaves."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from tests.factories import ingested
from ufgvc import methods
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.evaluation.promote import promote
from ufgvc.evaluation.settings import EvaluateSettings, PromoteSettings
from ufgvc.experiments.evaluate import evaluate
from ufgvc.models.format import save_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import register
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.tracking.versions import get_champion

CLASSES = ("amber", "birch", "cedar", "dogwood")
LEAVES = 40  # of the test split; leaf i is of cultivar i % 4
LABELS = [i % len(CLASSES) for i in range(LEAVES)]
SIZE = 32
LOCAL = TrackingSettings()

Add = Callable[..., str]


def photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(uri: str, name: str, classes: Sequence[str] = CLASSES, other: str = "") -> str:
    """A data set of 4 train and 40 test leaves.  other: changes its fingerprint."""
    shards = [
        (split, [(i % len(classes), photograph(first + i)) for i in range(rows)])
        for split, rows, first in (("train", 4, 1000), ("test", LEAVES, 0))
    ]
    return ingested(uri, name, classes, shards, SIZE, prefix=other)


@pytest.fixture(scope="module")
def doctored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes a model that names the test leaves of a data set rightly but for those that are listed."""
    torch.manual_seed(0)
    method = methods.build("resnet50", len(CLASSES), init="none", backbone="squeezenet1_1")
    method.net.eval()
    images = [np.asarray(Image.open(io.BytesIO(photograph(i)))) for i in range(LEAVES)]
    view = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        embedding = method.net(view)["embedding"].double()
    exact = torch.linalg.pinv(embedding)

    def write(wrong: Sequence[int], data: str, classes: Sequence[str] = CLASSES, **info: Any) -> str:
        answers = torch.tensor([(label + (i in wrong)) % len(CLASSES) for i, label in enumerate(LABELS)])
        wanted = torch.nn.functional.one_hot(answers, len(CLASSES)).double()
        with torch.no_grad():
            method.net.classifier.weight.copy_(20 * (exact @ wanted).T)
        folder = tmp_path_factory.mktemp("model") / "model"
        marks = {"data": data, "masks": "5" * 64}
        save_model(folder, method, classes, {"resize": SIZE, "size": SIZE}, marks, {}, {"mask_kind": "box", **info})
        return str(folder)

    return write


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


class Field:
    """One data set with its registered versions."""

    def __init__(self, name: str, folder: Path, runs: str, write: Callable[..., str]) -> None:
        self.name, self.data, self.runs, self._write = name, str(folder / name), runs, write
        self.fingerprint = write_data(self.data, name)
        self.model = f"ufgvc-{name}"

    def add(self, wrong: Sequence[int], data: str | None = None, alias: str | None = "challenger", **info: Any) -> str:
        """Registers a model; returns its version."""
        version = register(
            self._write(wrong, data or self.fingerprint, **info),
            self.model,
            {},
            Context(runs=self.runs, tracking=LOCAL),
            alias,
        )
        assert version is not None
        return version

    def command(self, *more: str) -> int:
        return main(["promote", "--data", self.data, "--runs", self.runs, "--max-actors", "0", *more])

    def champion(self) -> str | None:
        found = get_champion(self.model, Context(runs=self.runs, tracking=LOCAL))
        return found.number if found else None

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.model, version).tags)

    @property
    def client(self) -> MlflowClient:
        address = f"sqlite:///{self.runs}/mlflow.db"
        return MlflowClient(address, address)


@pytest.fixture
def field(request: pytest.FixtureRequest, tmp_path: Path, runs: str, doctored: Callable[..., str]) -> Field:
    return Field(re.sub(r"\W+", "-", request.node.name)[5:45], tmp_path, runs, doctored)


def written(output: str) -> dict[str, Any]:
    """promotion.json, found as a script finds it: the last line that the command prints."""
    record: dict[str, Any] = json.loads(Path(output.strip().splitlines()[-1]).read_text())
    return record


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
