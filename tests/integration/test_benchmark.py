"""The benchmark on Ray Tune: resumed, with a training that fails, without its test leaves."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import yaml

from tests.command_line import ufgvc
from tests.factories import encoded
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import ShardWriter, open_dataset, read_images, read_index, write_dataset
from ufgvc.data.schemas import IMAGES_SCHEMA
from ufgvc.data.splits import HeldFold, pool_splits
from ufgvc.experiments.benchmark import benchmark, choose_lr_factors
from ufgvc.experiments.entries import decode_images, make_entry, make_final_jobs, make_lr_jobs
from ufgvc.experiments.method_table import list_variants
from ufgvc.experiments.pretrain import pretrain
from ufgvc.experiments.settings import BenchmarkSettings, PretrainSettings
from ufgvc.experiments.training_job import JobOutcome, read_all_scores, run_job
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.metrics_file import read_metrics

SETTINGS = {
    "methods": ["mask_guided", "mask_guided:none"],
    "seeds": 2,
    "init": "none",
    "backbones": ["resnet50=shufflenet_v2_x0_5"],
    "mask_kind": "exact",
    "epochs": 1,
    "batch_size": 4,
    "resize": 40,
    "crop": 32,
    "lr_factors": [1.0, 3.0],
    "cam_leaves": 2,
    "checkpoint_seconds": 0,
    "max_concurrent_trials": 1,  # test_search.py runs two at a time
}
OFF = TrackingSettings(uri="off")

pytestmark = pytest.mark.usefixtures("ray_local")


def test_a_benchmark_resumes_and_writes_its_tables(
    small_dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As resumed after a stop with one training finished (test_search.py kills the processes of the same runner)."""
    caplog.set_level("INFO")
    settings = BenchmarkSettings.model_validate(SETTINGS)
    dataset = open_dataset(small_dataset)
    entries = [make_entry(list_variants()[key], len(dataset.classes), settings) for key in settings.methods]
    first = make_lr_jobs(entries, [dataset], settings, str(tmp_path / "runs"))[0]
    decode_images([first], [dataset])
    run_job(first)
    (finished,) = (tmp_path / "runs").glob("leaves/*/*/result.json")
    before = finished.stat().st_mtime_ns

    given = {name: value for name, value in SETTINGS.items() if name != "mask_kind"}
    config = {"mask_kind": SETTINGS["mask_kind"], "benchmark": given}
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    places = ("--config", tmp_path / "benchmark.yaml", "--data", small_dataset, "--runs", tmp_path / "runs")
    done = ufgvc("benchmark", *places)
    assert done.code == 0, done.text
    assert finished.stat().st_mtime_ns == before, "a finished job was trained again"
    assert re.search(r"1 of \d+ trainings were finished before", caplog.text)
    # Two variants with two learning rates, then with two seeds.
    assert len(list((tmp_path / "runs").glob("leaves/*/*/result.json"))) == 2 * 2 + 2 * 2
    (folder,) = (tmp_path / "runs" / "leaves" / "benchmark").iterdir()
    assert {"report.html", "benchmark.csv", "table-II.md", "table-III.md", "cam.png"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "tune").exists()
    rows = {row["key"]: row for row in csv.DictReader((folder / "benchmark.csv").open())}
    assert set(rows) == {"mask_guided", "mask_guided:none"}
    assert "of 12" in done.out
    assert not list((tmp_path / "runs").glob("leaves/*/*/checkpoints")), "the weights of jobs are deleted"

    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").search_runs(["1"], max_results=100)
    (parent,) = [run for run in runs if run.data.tags.get("step") == "benchmark"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.info.status == "FINISHED"
    assert len(children) == 8
    assert all("seconds" in run.data.metrics and run.info.status == "FINISHED" for run in children)


def test_a_report_of_what_has_ended(small_dataset: str, tmp_path: Path) -> None:
    """One of two seeds of a probe is there; the report says so, and nothing is trained."""
    probes = {"methods": ["linear_probe"], "backbones": ["efficientnet_lite0=shufflenet_v2_x0_5"]}
    settings = BenchmarkSettings.model_validate(SETTINGS | probes | {"lr_factors": [1.0], "report_only": True})
    context = Context(runs=str(tmp_path / "runs"), tracking=OFF)
    with pytest.raises(UserError, match="no training of this benchmark has ended"):
        benchmark([small_dataset], settings, context)
    assert not (tmp_path / "runs").exists()
    dataset = open_dataset(small_dataset)
    entries = [make_entry(list_variants()["linear_probe"], len(dataset.classes), settings)]
    first, second = make_final_jobs(entries, [dataset], settings, context.runs, {})
    run_job(first)
    result = benchmark([small_dataset], settings, context)
    assert (result.failed, result.missing) == (0, 1)
    assert not second.store.exists("job.json")
    assert "missing" in (Path(result.folder) / "report.html").read_text()
    run_job(second)
    whole = benchmark([small_dataset], settings, context)
    assert (whole.failed, whole.missing, whole.folder) == (0, 0, result.folder)


def test_fitted_rows_need_no_learning_rate(small_dataset: str, tmp_path: Path) -> None:
    """Probes on a set of which nothing can be held out to choose one, with the table of their seeds."""
    settings = BenchmarkSettings.model_validate(
        SETTINGS | {"methods": ["linear_probe"], "seeds": 1, "backbones": ["efficientnet_lite0=shufflenet_v2_x0_5"]}
    )
    assert settings.chooses_lr
    result = benchmark([small_dataset], settings, Context(runs=str(tmp_path / "runs"), tracking=OFF))
    assert result.failed == 0
    assert len(list((tmp_path / "runs").glob("leaves/linear_probe/*/result.json"))) == 1


def test_a_training_that_fails_is_one_failed_cell(small_dataset: str, tmp_path: Path) -> None:
    pretrained = tmp_path / "weights"
    pretrained.mkdir()
    made = pretrain(
        small_dataset,
        PretrainSettings(
            architectures=("shufflenet_v2_x0_5",), epochs=1, batch_size=4, resize=40, crop=32, learning_rate=0.001
        ),
        Context(runs=str(tmp_path / "runs"), tracking=OFF),
    )
    assert set(made.accuracies) == {"shufflenet_v2_x0_5"}
    shutil.copy(made.pattern.replace("{backbone}", "shufflenet_v2_x0_5"), pretrained)
    (pretrained / "mobilenet_v2.safetensors").write_bytes(b"cut off on the way")
    settings = BenchmarkSettings.model_validate(
        SETTINGS
        | {
            "methods": ["resnet50", "mobilenet_v2"],
            "seeds": 1,
            "lr_factors": [1.0],
            "init": f"{pretrained}/{{backbone}}.safetensors",
        }
    )
    result = benchmark([small_dataset], settings, Context(runs=str(tmp_path / "runs"), tracking=OFF))
    assert result.failed == 1
    text = (Path(result.folder) / "table-II.md").read_text()
    (good,) = [line for line in text.splitlines() if line.startswith("| ResNet-50")]
    assert "of 12" in good
    assert "not a safetensors file" in text
    (failed,) = (tmp_path / "runs").glob("leaves/*/*/failed.json")
    failure = json.loads(failed.read_text())
    assert "not a safetensors file" in failure["reason"]
    assert "Traceback" in failure["traceback"]


def test_learning_rates_are_chosen_without_the_test_leaves(small_dataset: str, tmp_path: Path) -> None:
    """Without the test images of the data set a learning rate can be tried, and the test leaves cannot be scored."""
    data = tmp_path / "data"
    shutil.copytree(small_dataset, data)
    dataset = open_dataset(str(data))
    settings = BenchmarkSettings.model_validate(SETTINGS)
    entries = [make_entry(list_variants()["mask_guided"], len(dataset.classes), settings)]
    (first, *_) = make_lr_jobs(entries, [dataset], settings, str(tmp_path / "runs"))
    (final, *_) = make_final_jobs(entries, [dataset], settings, str(tmp_path / "runs"), {"mask_guided": 1.0})
    decode_images([first], [dataset])
    for part in (data / "images").glob("test-*"):
        part.unlink()
    result = run_job(first)
    assert result["validation_leaves"] == 3  # one of three training leaves of each cultivar
    with pytest.raises(FileNotFoundError):
        decode_images([final], [dataset])


def test_cross_validation_scores_every_leaf_beside_the_fixed_split(
    small_dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As resumed after a stop with one training finished."""
    caplog.set_level("INFO")
    given = SETTINGS | {"methods": ["resnet50"], "seeds": 1, "protocol": "both", "folds": 2}
    settings = BenchmarkSettings.model_validate(given)
    dataset = open_dataset(small_dataset)
    entries = [make_entry(list_variants()["resnet50"], len(dataset.classes), settings)]
    held = HeldFold(2, 1, 0, "all")
    first = make_final_jobs(entries, [dataset], settings, str(tmp_path / "runs"), {"resnet50": 3.0}, held)[0]
    decode_images([first], [dataset])
    assert run_job(first)["leaves"] == 9  # of each of three cultivars 3 of 7 leaves
    result = benchmark([small_dataset], settings, Context(runs=str(tmp_path / "runs"), tracking=OFF))
    assert result.failed == 0
    assert [table.title for table in result.tables if table.title.startswith("Cross-validation")]
    folder = Path(result.folder)
    rows = {row["protocol"]: row for row in csv.DictReader((folder / "benchmark.csv").open())}
    assert (rows["fixed"]["leaves"], rows["crossval"]["leaves"]) == ("12", "21")
    assert "of 21" in (folder / "table-crossval.md").read_text()
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("leaves/*/*/result.json")]
    # The fixed split and two folds try two learning rates each, and are scored; one more was trained here if its fold
    # chose the other rate.
    assert sum(each["purpose"] == "lr_search" for each in results) == 2 + 2 * 2
    assert sum(each["purpose"] == "final" for each in results) in (3, 4)


def rewritten(uri: str, target: Path, images: dict[str, bytes], labels: dict[str, int]) -> str:
    """A copy of a data set in which some photographs and labels are others, by image id."""
    shutil.copytree(uri, target)
    dataset = open_dataset(str(target))
    writer = ShardWriter(dataset.store, "images", "", "images")
    shards, tables = [], []
    for shard in dataset.shards:
        rows = read_images(dataset, shard).to_pylist()
        for row in rows:
            name = row["image_id"]
            row |= {"image": images.get(name, row["image"]), "label": labels.get(name, row["label"])}
            row |= {"cultivar": dataset.classes[row["label"]]}
        table = pa.Table.from_pylist(rows, IMAGES_SCHEMA)
        shards.append(writer.write(shard.name, shard.split, table))
        tables.append(table)
    write_dataset(dataset.store, dataset.name, dataset.classes, pa.concat_tables(tables), shards, "a test")
    return str(target)


def test_the_learning_rate_of_a_fold_is_chosen_without_its_leaves(
    small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other photographs and other labels in the fold change its score, and nothing in the choice."""
    dataset = open_dataset(small_dataset)
    settings = BenchmarkSettings.model_validate(SETTINGS | {"protocol": "crossval", "folds": 2})
    index = read_index(pool_splits(dataset), "all")
    labels, image_ids = index["label"].to_numpy().astype(int), index["image_id"].to_pylist()
    held = HeldFold(2, 0, 0, "all")
    partition = held.indices(labels, index["group"].to_pylist())
    inside = [image_ids[row] for row in partition[1]]
    noise = {name: encoded(f"other {name}", "PNG", 64, 64) for name in inside}
    others = {name: (labels[image_ids.index(name)] + 1) % 3 for name in inside}
    changed = rewritten(small_dataset, tmp_path / "data", noise, others)
    # The folds are stratified by label, so other labels would give other folds.
    monkeypatch.setattr(HeldFold, "indices", lambda *_: partition)
    rows = {}
    for name, uri in (("before", small_dataset), ("after", changed)):
        data, runs = open_dataset(uri), str(tmp_path / name)
        entries = [make_entry(list_variants()["resnet50"], len(data.classes), settings)]
        jobs = make_lr_jobs(entries, [data], settings, runs, held)
        jobs += make_final_jobs(entries, [data], settings, runs, {"resnet50": 1.0}, held)
        decode_images(jobs, [data])
        outcomes = [JobOutcome(job, run_job(job)) for job in jobs]
        tried = [read_metrics(outcome.job.store) for outcome in outcomes]
        timed = {"seconds", "images_per_second", "data_wait"}
        epochs = [{k: v for k, v in row.items() if k not in timed} for each in tried for row in each]
        rows[name] = (epochs, choose_lr_factors(outcomes[:2], entries, settings))
        assert [outcome.result["leaves"] for outcome in outcomes[2:] if outcome.result] == [len(inside)]
        rows[f"{name} scores"] = read_all_scores(outcomes[2].job.store)[1]  # type: ignore[assignment]
    assert rows["before"] == rows["after"]
    assert not np.array_equal(rows["before scores"], rows["after scores"])


def stopped_at(last: int, train_epoch):
    def stop(worker) -> dict[str, float]:
        if worker.epoch == last:
            raise KeyboardInterrupt
        return train_epoch(worker)

    return stop


def test_a_stopped_training_ends_with_the_same_weights(small_dataset: str, tmp_path: Path) -> None:
    """The loop of a trial, stopped after an epoch and resumed, against one that was not stopped."""
    import torch

    from ufgvc.training.in_process import train_in_process
    from ufgvc.training.worker import Worker

    dataset = open_dataset(small_dataset)
    settings = BenchmarkSettings.model_validate(SETTINGS | {"epochs": 3})
    entries = [make_entry(list_variants()["mask_guided"], len(dataset.classes), settings)]
    ends = []
    for name in ("whole", "stopped"):
        (job, *_) = make_final_jobs(entries, [dataset], settings, str(tmp_path / name), {"mask_guided": 1.0})
        config = replace(job.config, cores=1)
        decode_images([job], [dataset])
        if name == "stopped":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Worker, "_train_epoch", stopped_at(2, Worker._train_epoch))
                with pytest.raises(KeyboardInterrupt):
                    train_in_process(config, torch.device("cpu"))
        ends.append(train_in_process(config, torch.device("cpu")))
    assert ends[0]["epoch"] == ends[1]["epoch"] == 3
    for name, tensor in ends[0]["net"].items():
        assert torch.equal(tensor, ends[1]["net"][name]), name
