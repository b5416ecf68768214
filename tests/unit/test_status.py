"""What `ufgvc status` reads from a data set's folders, what it calls stale, and which command it names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import settings_of, ufgvc
from tests.factories import THREE, coloured, ingested
from ufgvc.core.config import to_yaml
from ufgvc.core.storage import Store, open_store
from ufgvc.experiments.next_command import next_command
from ufgvc.experiments.status import RegistryStatus, Status, VersionStatus, read_status
from ufgvc.experiments.status_text import closing_lines, runs_table, status_lines
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

ANNOTATED = "a" * 64


class Leaves:
    """A data set of three cultivars, and the files of what was made from it, as the commands write them."""

    def __init__(self, folder: Path) -> None:
        self.data, self.runs = str(folder / "data"), str(folder / "runs")
        self.store, self.made = open_store(self.data), open_store(self.runs).child("tiny")
        self.fingerprint = self.ingest()
        self.context = Context(runs=self.runs, tracking=TrackingSettings(uri="off"))

    def ingest(self, prefix: str = "", each: int = 1, plants: Sequence[str] = ()) -> str:
        leaves = [(i % 3, coloured(i % 3, i, side=8)) for i in range(3)]
        shards = [("train", leaves * each), ("test", leaves)]
        self.fingerprint = ingested(self.data, "tiny", THREE, shards, 8, prefix, plants)
        return self.fingerprint

    def manifest(self, folder: str, fingerprint: str, **extra: Any) -> None:
        shards = [{"name": "train-00000", "file": "x", "split": "train", "rows": 6, "digest": ""}]
        found = {"version": 1, "shards": shards, "fingerprint": fingerprint, "schema": "masks", "extra": extra}
        self.store.child(folder).write_json("manifest.json", found | {"source_fingerprint": self.fingerprint})

    def annotate(self, leaves: int = 5, fingerprint: str = ANNOTATED) -> None:
        self.manifest("regions/annotated", fingerprint, annotated=leaves)

    def detect(self, key: str = "d1", finished: float = 1.0, map50: float = 0.9) -> None:
        store = self.made.child("regions", key)
        fingerprints = {"data": self.fingerprint, "annotated": ANNOTATED}
        store.write_text("config.yaml", to_yaml({"fingerprints": fingerprints}))
        found = {"map50": map50, "num_evaluated": 4, "evaluated_on": "annotated test leaves", "finished": finished}
        store.write_json("metrics.json", found)

    def mask(self, kind: str = "box", fingerprint: str = "m" * 64, **origin: Any) -> None:
        self.manifest(f"masks/{kind}", fingerprint, complete=5, origin=origin)

    def train(self, method: str = "resnet50", key: str = "k1", **info: Any) -> Store:
        store = self.made.child(method, key)
        store.write_text("config.yaml", to_yaml({"data": self.fingerprint, "masks": None, "method": method}))
        fingerprints = {"data": self.fingerprint, "masks": info.pop("masks", None)}
        found = {"fingerprints": fingerprints, "validation": "last", "metrics": {}, **info}
        store.write_json("model/model.json", found)
        return store

    def calibrate(self, store: Store, temperature: float = 1.5) -> None:
        found = {"temperature": temperature, "threshold": 0.5, "num_images": 6, "source": "3-fold"}
        store.write_json("model/model.json", store.read_json("model/model.json") | {"calibration": found})

    def evaluate(self, store: Store, k: int) -> None:
        """Its figures, with those of the calibration that the model has now."""
        accuracy = {"k": k, "n": 3, "value": k / 3, "low": 0.2, "high": 0.9}
        calibration = store.read_json("model/model.json").get("calibration") or {}
        unknown = None if calibration.get("threshold") is None else 0
        model = {
            "accuracy": accuracy,
            "reliability": {"temperature": calibration.get("temperature"), "unknown": unknown},
        }
        store.write_json("report/metrics.json", {"fingerprint": self.fingerprint, "models": {"this model": model}})

    def status(self) -> Status:
        return read_status(self.data, self.context)

    def next(self, registry: RegistryStatus | None = None) -> str:
        """The next command, which is one that the program takes."""
        status = self.status() if registry is None else replace(self.status(), registry=registry)
        command = next_command(status, self.context).command
        program, name, *words = shlex.split(command.replace("<", "").replace(">", ""))
        assert program == "ufgvc"
        assert settings_of(name, *words)
        assert f"--tracking.uri off --runs {self.runs}" not in command
        return command


@pytest.fixture
def leaves(tmp_path: Path) -> Leaves:
    return Leaves(tmp_path)


def test_the_way_from_photographs_to_a_champion(leaves: Leaves) -> None:
    data = f"--data {leaves.data}"
    rest = f" --runs {leaves.runs} --tracking.uri off"
    assert leaves.next() == f"ufgvc train {data} --method auto{rest}"
    leaves.annotate(leaves=3)
    assert leaves.next().startswith("ufgvc train"), "too few boxes for a detector"
    leaves.annotate(leaves=5)
    assert leaves.next() == f"ufgvc detect {data}{rest}"
    leaves.detect()
    assert leaves.next() == f"ufgvc mask {data}{rest}"
    leaves.mask(boxes="detected")
    assert leaves.next() == f"ufgvc train {data} --method auto{rest}"
    run = leaves.train()
    assert leaves.next() == f"ufgvc evaluate {data} --model {run.uri}/model{rest}"
    leaves.evaluate(run, 2)
    registry = RegistryStatus("ufgvc-tiny", (VersionStatus("1", None, "2/3", None),), None, "1")
    assert leaves.next(registry) == f"ufgvc promote {data}{rest}"
    promoted = replace(registry, champion="1")
    assert f"--model models:/ufgvc-tiny@champion --out folder{rest}" in leaves.next(promoted).replace("<", "").replace(
        ">", ""
    )
    assert f"--model {run.uri}/model --out" in leaves.next(), "without a registry"


def test_a_challenger_that_was_compared_is_not_compared_again(leaves: Leaves) -> None:
    leaves.evaluate(leaves.train(), 2)
    old, new = VersionStatus("1", None, "1/3", None), VersionStatus("2", None, "2/3", "1")
    assert leaves.next(RegistryStatus("ufgvc-tiny", (new, old), "1", "2")).startswith("ufgvc predict")
    other = replace(new, decided="0")
    assert leaves.next(RegistryStatus("ufgvc-tiny", (other, old), "1", "2")).startswith("ufgvc promote")


def test_a_model_is_calibrated_before_it_is_evaluated_and_becomes_champion(leaves: Leaves) -> None:
    leaves.ingest(each=2)
    run = leaves.train("linear_probe", run_id="r1")
    model, rest = f"--data {leaves.data} --model {run.uri}/model", f" --runs {leaves.runs} --tracking.uri off"
    assert leaves.next() == f"ufgvc calibrate {model}{rest}"
    leaves.calibrate(run)
    assert leaves.next() == f"ufgvc evaluate {model}{rest}"
    leaves.evaluate(run, 2)
    registry = RegistryStatus("ufgvc-tiny", (VersionStatus("1", "r1", "2/3", None),), None, "1")
    assert leaves.next(registry).startswith("ufgvc promote")
    assert leaves.next(replace(registry, champion="1")).startswith("ufgvc predict")


def test_a_champion_that_calls_no_leaf_unknown(leaves: Leaves) -> None:
    """It is calibrated, registered anew, and promoted: `promote` knows the same network."""
    leaves.ingest(each=2)
    run, other = leaves.train("linear_probe", run_id="r1"), leaves.train("resnet50", "k2", run_id="r2")
    assert leaves.next().startswith("ufgvc evaluate"), "of several models only the best is calibrated"
    leaves.evaluate(run, 2)
    leaves.evaluate(other, 1)
    one = RegistryStatus("ufgvc-tiny", (VersionStatus("1", "r1", "2/3", None),), "1", "1")
    model = f"--model {run.uri}/model"
    assert f"ufgvc calibrate --data {leaves.data} {model}" in leaves.next(one)
    assert f"ufgvc calibrate --data {leaves.data} {model}" in leaves.next(), "without a registry the best one"
    second = VersionStatus("2", "r2", "1/3", None)
    undecided = replace(one, versions=(second, *one.versions), challenger="2")
    assert f"ufgvc calibrate --data {leaves.data} --model {other.uri}/model" in leaves.next(undecided)
    decided = replace(undecided, versions=(replace(second, decided="1"), *one.versions))
    assert f"ufgvc calibrate --data {leaves.data} {model}" in leaves.next(decided), "the champion is the one in use"

    leaves.calibrate(run)
    assert f"ufgvc evaluate --data {leaves.data} {model}" in leaves.next(one)
    leaves.evaluate(run, 2)
    again = replace(one, versions=(VersionStatus("3", "r1", "2/3", None), *one.versions), challenger="3")
    assert leaves.next(again).startswith("ufgvc promote")
    assert leaves.next(replace(again, champion="3")).startswith("ufgvc predict")
    leaves.calibrate(run, temperature=2.0)
    assert f"ufgvc evaluate --data {leaves.data} {model}" in leaves.next(replace(again, champion="3"))


def test_leaves_that_cannot_be_held_out_are_not_asked_for(leaves: Leaves) -> None:
    leaves.ingest(each=1)
    leaves.train()
    assert leaves.next().startswith("ufgvc evaluate"), "one training leaf of each cultivar"
    leaves.ingest(each=4, prefix="plants", plants=("p1", "p2", "p3"))
    leaves.train(key="k2")
    assert leaves.next().startswith("ufgvc evaluate"), "one plant of each cultivar"
    leaves.train(key="k2", validation="holdout")
    assert leaves.next().startswith("ufgvc calibrate"), "the leaves that the training held out"


def test_a_champion_of_other_photographs_is_replaced_by_force(leaves: Leaves) -> None:
    """`promote` would refuse the comparison: photographs were added, and the splits have changed."""
    leaves.evaluate(leaves.train(run_id="r2"), 2)
    old, new = VersionStatus("1", "r1", "3/3", None, stale="evaluated on others"), VersionStatus("2", "r2", "2/3", None)
    registry = RegistryStatus("ufgvc-tiny", (new, old), "1", "2")
    assert leaves.next(registry).startswith(f"ufgvc promote --data {leaves.data} --force")
    assert "--force" not in leaves.next(replace(registry, versions=(new, replace(old, stale=""))))


def test_everything_is_read(leaves: Leaves) -> None:
    leaves.annotate()
    leaves.detect("old", finished=1.0, map50=0.5)
    leaves.detect("new", finished=2.0, map50=0.75)
    leaves.mask("structure")
    best, other = leaves.train("mask_guided", "k1"), leaves.train("resnet50", "k2")
    leaves.evaluate(other, 1)
    leaves.evaluate(best, 3)
    leaves.train("bcnn", "k3", validation="kfold", metrics={"validation_correct": 2.0, "validation_leaves": 3.0})
    stopped = leaves.made.child("dcl", "k4")
    stopped.write_text("config.yaml", to_yaml({"data": leaves.fingerprint, "masks": None, "train": {}}))
    stopped.write_text("metrics.jsonl", '{"epoch": 1}\n{"epoch": 2}\n')
    trial = leaves.made.child("vgg16", "k5")
    trial.write_json("job.json", {})
    trial.write_text("config.yaml", "{}")
    status = leaves.status()
    assert (status.cultivars, status.leaves, status.stale) == (3, {"train": 3, "test": 3}, ())
    assert status.detector is not None
    assert (status.detector.run.split("/")[-1], status.detector.map50) == ("new", 0.75)
    assert [(masks.kind, masks.complete, masks.n) for masks in status.masks] == [("structure", 5, 6)]
    assert [run.key for run in status.runs] == ["k1", "k2", "k3", "k4"]
    assert [run.finished for run in status.runs] == [True, True, True, False]
    assert (status.runs[3].epochs, status.trials.started, status.trials.ended) == (2, 1, 0)
    text = "\n".join(status_lines(status))
    assert "boxes     on 5 leaves\n" in text
    assert "detector  mAP@0.5 0.750 on 4 annotated test leaves\n" in text
    assert "runs      3 finished, 1 not finished; 0 of 1 trials of comparisons ended" in text
    table = runs_table(status)
    assert table is not None
    assert [row[2:] for row in table.rows] == [
        ["3 of 3 test = 100.0\u00a0% (20.0 to 90.0)", ""],
        ["1 of 3 test = 33.3\u00a0% (20.0 to 90.0)", ""],
        ["2 of 3 held-out = 66.7\u00a0%", "one fold"],
        ["epoch 2, not finished", ""],
    ]


def test_what_was_selected_on_test_is_marked(leaves: Leaves) -> None:
    chosen = {"validation": "test", "metrics": {"validation_correct": 3.0, "validation_leaves": 3.0}}
    leaves.evaluate(leaves.train("dcl", "k1", **chosen), 3)
    leaves.train("dcl", "k2", **chosen)
    table = runs_table(leaves.status())
    assert table is not None
    assert [row[2:] for row in table.rows] == [
        ["3 of 3 test = 100.0\u00a0% (20.0 to 90.0)", "selected on test"],
        ["finished, not evaluated", "selected on test"],
    ]


def test_other_photographs_make_all_stale(leaves: Leaves) -> None:
    leaves.annotate()
    leaves.detect()
    leaves.mask(boxes="annotated", annotated=ANNOTATED)
    run = leaves.train()
    leaves.evaluate(run, 2)
    assert leaves.status().stale == ()
    leaves.ingest(prefix="other")
    status = leaves.status()
    assert len(status.stale) == 4
    assert status.stale[3] == "1 of 1 runs: trained on other photographs than the data set has now"
    assert status.runs[0].score is None, "its score is of other leaves"
    lines = "\n".join([*status_lines(status), *closing_lines(status, next_command(status, leaves.context))])
    assert lines.count("(stale)") == 3
    assert lines.count("stale: ") == 4
    assert "next: ufgvc ingest --source <photographs>" in lines


def test_other_boxes_and_other_masks_make_stale_what_was_fingerprints_them(leaves: Leaves) -> None:
    leaves.annotate()
    leaves.detect()
    leaves.mask(boxes="annotated", annotated=ANNOTATED)
    leaves.train(masks="m" * 64, mask_kind="box")
    assert leaves.status().stale == ()
    leaves.annotate(fingerprint="b" * 64)
    assert [line.partition(":")[0] for line in leaves.status().stale] == ["detector", "masks (box)"]
    leaves.mask(fingerprint="n" * 64, boxes="annotated", annotated="b" * 64)
    stale = leaves.status().stale
    assert stale[1:] == ("1 of 1 runs: trained on other masks than the data set has now",)
    leaves.mask(fingerprint="n" * 64, boxes="annotated", annotated="c" * 64)
    assert "ufgvc mask" in leaves.next()
    assert "--mask-kind box --box-source annotated" in leaves.next()


def test_the_table_of_runs_fits_a_terminal(leaves: Leaves) -> None:
    for number in range(25):
        name = f"region_tokens_{number:02d}"
        leaves.evaluate(leaves.train(name, "0123456789ab", validation="test"), number % 4)
    ended = ufgvc("status", "--data", leaves.data, "--runs", leaves.runs, "--tracking.uri", "off")
    assert ended.code == 0, ended.text
    shown = ended.out.partition("\nnext: ")[0].splitlines()
    assert max(map(len, shown)) <= 100
    assert any("0123456789ab" in line and "selected on test" in line for line in shown)
    assert "and 5 more runs" in shown


def test_no_data_set(tmp_path: Path) -> None:
    ended = ufgvc("status", "--data", tmp_path / "none")
    assert (ended.code, ended.out) == (2, "")
    assert "holds no data set" in ended.err
    assert "ufgvc ingest --source" in ended.err
    assert not (tmp_path / "none").exists()
    assert not Path("runs/mlflow.db").exists()
