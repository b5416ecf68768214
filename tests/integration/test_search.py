"""The search on Ray Tune: killed and resumed, without its test leaves, with several workers per trial."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch
import yaml

from tests.command_line import ufgvc
from tests.integration.submission import wait_until
from tests.processes import processes_reading
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.search import choose_best, decode_folds, make_store, search, validate
from ufgvc.experiments.search_space import paper_values, read_space
from ufgvc.experiments.search_store import STOP, SearchStore, TrialConfig
from ufgvc.experiments.search_trial import run_trials
from ufgvc.experiments.searcher import TrialLog
from ufgvc.experiments.settings import SearchSettings
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.folds import Folds
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.regions import use_regions
from ufgvc.training.settings import TrainSettings

OPTIONS = {"backbone": "shufflenet_v2_x0_5"}
TRAIN = TrainSettings(
    init="none",
    mask_kind="exact",
    epochs=2,
    batch_size=4,
    resize=40,
    crop=32,
    learning_rate=0.001,  # at ten times that some settings diverge
    checkpoint_seconds=0,
    cpus_per_worker=1,
)
OFF = TrackingSettings(uri="off")

pytestmark = pytest.mark.usefixtures("ray_local")


def arguments(folder: Path, data: str, **more: object) -> list[str]:
    settings = {"num_trials": 2, "repeats": 1, "seeds": 1, "grace_epochs": 1, "max_concurrent_trials": 2} | more
    given = {name: value for name, value in TRAIN.model_dump(mode="json").items() if value is not None}
    shared = {"options": OPTIONS, "mask_kind": given.pop("mask_kind"), "train": given}
    (folder / "search.yaml").write_text(yaml.safe_dump(shared | {"search": settings}))
    return ["search", "--config", str(folder / "search.yaml"), "--data", data, "--runs", str(folder / "runs")]


def ended(folder: Path) -> dict[Path, int]:
    """Trials that ended, with the time of their record."""
    return {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("leaves/search/*/trials/*/result.json")}


def wait_for(what: Callable[[], Any], process: subprocess.Popen, log: Path) -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + 300
    while not (found := what()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found


@pytest.mark.slow  # test_pipeline.py and test_benchmark.py kill and resume too
def test_a_search_killed_twice_resumes_and_writes_its_report(
    small_dataset: str, tmp_path: Path, ray_head: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """First the process of a trial is killed, then the driver; the same command ends the search."""
    caplog.set_level("INFO")
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ufgvc.cli", *arguments(tmp_path, small_dataset)],
            env={**os.environ, **ray_head},
            stdout=output,
            stderr=output,
            cwd=tmp_path,
            start_new_session=True,
        )

    def trials() -> list[psutil.Process]:
        # Ray gives the process of an actor the name of what it runs: Tune's Trainable.train.
        return processes_reading(tmp_path / "runs" / "_cache", ".train")

    found = wait_for(
        lambda: list((tmp_path / "runs").glob("leaves/search/*/trials/*/fold-0/metrics.jsonl")) and trials(),
        process,
        log,
    )
    found[0].kill()
    wait_for(lambda: ended(tmp_path), process, log)
    process.kill()
    process.wait(30)
    wait_until(lambda: not trials(), "the end of the processes whose driver was killed", within=60)
    before = ended(tmp_path)
    # As if the kill had come between the result of a trial and the end of its weights.
    left = next(iter(before)).parent / "fold-0" / "checkpoints"
    left.mkdir(parents=True, exist_ok=True)
    (left / "state.pt").touch()
    (folder,) = (tmp_path / "runs" / "leaves" / "search").iterdir()
    assert not (folder / "report.html").exists(), "it was killed too late"

    done = ufgvc(*arguments(tmp_path, small_dataset))
    assert done.code == 0, done.text
    after = ended(tmp_path)
    assert all(after[path] == stamp for path, stamp in before.items()), "finished trials were run again"
    assert [path.parent.name for path in sorted(after)] == ["0000", "0001", "0002"]
    assert "trials were finished before" in caplog.text
    assert not list(folder.glob("trials/*/fold-*/checkpoints")), "the weights of trials are deleted"
    assert {"report.html", "trials.csv", "best.yaml", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "tune").exists()

    # One decoded copy for all trials and the final tests: training leaves with masks, resized training and test leaves.
    cache = [path.name for path in (tmp_path / "runs" / "_cache").iterdir() if path.is_dir()]
    assert len(cache) == 3
    _nested_runs(tmp_path)

    assert (
        main(
            ["train", "--config", str(folder / "best.yaml"), "--data", small_dataset, "--runs", str(tmp_path / "runs")]
        )
        == 0
    )
    assert "found the finished run" in caplog.text, "the best setting was trained by the search already"


def _nested_runs(folder: Path) -> None:
    runs = mlflow.MlflowClient(f"sqlite:///{folder}/runs/mlflow.db").search_runs(["1"], max_results=100)

    def below(parent: str) -> list:
        return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]

    (parent,) = [run for run in runs if run.data.tags.get("step") == "search"]
    assert parent.info.status == "FINISHED"
    trials = [run for run in below(parent.info.run_id) if run.data.tags["step"] == "trial"]
    assert sorted(run.info.run_name for run in trials) == [f"trial-{number}" for number in range(3)]
    for trial in trials:
        assert trial.info.status == "FINISHED"
        assert "options.fusion.base" in trial.data.params
        folds = below(trial.info.run_id)
        assert sorted(run.data.params["fold"] for run in folds) == ["0", "1", "2"]
        assert all("validation_accuracy" in run.data.metrics for run in folds)


def test_the_test_leaves_are_never_opened_before_the_end(small_dataset: str, tmp_path: Path) -> None:
    """Without the test images of the data set the search finds its best setting, and only the final test fails."""
    data = tmp_path / "data"
    shutil.copytree(small_dataset, data)
    for part in (data / "images").glob("test-*"):
        part.unlink()
    settings = SearchSettings(num_trials=1, repeats=0, seeds=1)
    train = TRAIN.model_copy(update={"epochs": 1})
    with pytest.raises(FileNotFoundError):
        search(str(data), "mask_guided", OPTIONS, train, settings, Context(runs=str(tmp_path / "runs"), tracking=OFF))
    (folder,) = (tmp_path / "runs" / "leaves" / "search").iterdir()
    assert len(list(folder.glob("trials/*/result.json"))) == 1
    assert (folder / "best.yaml").exists()


def test_folds_in_step_are_the_folds_alone(small_dataset: str, tmp_path: Path) -> None:
    """Interleaved in one process and killed between two checkpoints, each fold has the weights of a training alone."""
    dataset = open_dataset(small_dataset)
    context = Context(runs=str(tmp_path / "runs"))
    train = TRAIN.model_copy(update={"epochs": 3})
    store = make_store(dataset, "mask_guided", OPTIONS, train, SearchSettings(), context)
    assert validate(store, dataset) == 3
    paper = paper_values(store.dimensions, store.method, store.options, store.train)
    configs = [replace(config, cores=1) for config in store.worker_configs(TrialConfig(0, paper))]
    decode_folds(store, dataset)
    cpu = torch.device("cpu")
    alone = [train_in_process(replace(config, run=f"{config.run}-alone"), cpu) for config in configs]

    first = Folds.start(configs, 0, 1, 1, cpu)
    first.step()
    first.workers[0].step()  # killed after one fold was saved and before the others
    second = Folds.start(configs, 0, 1, 1, cpu)
    assert [worker.epoch for worker in second.workers] == [2, 1, 1]
    while second.epochs < second.total:
        second.step()
    for worker, state in zip(second.workers, alone, strict=True):
        assert worker.epoch == 3
        for name, tensor in worker.method.net.state_dict().items():
            assert torch.equal(tensor, state["net"][name]), name
        assert [row["loss"] for row in worker.history] == [row["loss"] for row in state["history"]]


def test_a_failure_ends_its_trial_only(ray_local: None, tmp_path: Path) -> None:
    """Nothing can be trained without the data set; each trial is a result with the reason, and is tried again later."""
    store = SearchStore(
        data=str(tmp_path / "missing"),
        method="mask_guided",
        options=OPTIONS,
        train=TRAIN,
        dimensions=read_space({}, "mask_guided", OPTIONS, TRAIN),
        folds=3,
        seed=0,
        runs=str(tmp_path),
        folder=str(tmp_path / "search"),
    )
    settings = SearchSettings(num_trials=2, repeats=1)
    resources = TrialResources({"CPU": 1.0}, max_concurrent=1, threads=1)
    recorded: list[TrialConfig] = []
    results = run_trials(store, settings, 3, resources, lambda trial, result: recorded.append(trial))
    assert [result.state for result in results] == ["failed"] * 3
    (reason,) = {result.error for result in results}
    assert reason is not None
    assert store.trial(2).read_json("failed.json")["reason"] == reason
    assert sorted(trial.number for trial in recorded) == [0, 1, 2]
    with pytest.raises(UserError, match="no trial completed"):
        choose_best(store, results)
    store.clear_failures()
    assert len(TrialLog.load(store).unfinished) == 3


@pytest.mark.slow
def test_trials_of_several_workers_leave_no_group_behind(small_dataset: str, tmp_path: Path) -> None:
    """Trial 1 finds its stop file after the first epoch, as if ASHA had written it."""
    import ray

    settings = SearchSettings(num_trials=2, repeats=0, seeds=1, early_stopping=False)
    train = TRAIN.model_copy(update={"workers": 2, "batch_size": 8, "cpus_per_worker": 0.5})
    dataset = open_dataset(small_dataset)
    context = Context(runs=str(tmp_path / "runs"), tracking=OFF)
    options = use_regions("mask_guided", OPTIONS, dataset.regions)
    store = make_store(dataset, "mask_guided", options, train, settings, context)
    values = paper_values(store.dimensions, store.method, store.options, store.train)
    store.save_config(TrialConfig(0, values))
    store.save_config(TrialConfig(1, values | {"options.loss_weights.vein": 1.0}))
    store.trial(1).write_json(STOP, {"by": "the test"})
    done = search(small_dataset, "mask_guided", OPTIONS, train, settings, context)
    rows = [store.load_result(trial) for trial in store.load_configs()]
    assert [row.state for row in rows if row] == ["complete", "stopped"]
    assert rows[0] is not None
    assert rows[1] is not None
    assert len(rows[0].curve) == TRAIN.epochs
    assert len(rows[1].curve) == 1
    assert done.best == 0
    job = ray.get_runtime_context().get_job_id()  # other tests on the same head have groups of their own
    groups = [each for each in ray.util.placement_group_table().values() if each["placement_group_id"].endswith(job)]
    assert {group["state"] for group in groups} == {"REMOVED"}
    assert [len(read_metrics(store.fold(0, fold))) for fold in range(3)] == [TRAIN.epochs] * 3
