"""`ufgvc train --method auto` on Ray: two small methods are compared, the better is trained, and the call resumes."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from tests.command_line import ufgvc
from ufgvc.experiments import auto
from ufgvc.experiments.candidates import Candidate
from ufgvc.experiments.training_job import run_jobs

pytestmark = pytest.mark.usefixtures("ray_local")


def test_the_better_of_two_methods_is_trained(
    small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = (Candidate("resnet50", {"backbone": "shufflenet_v2_x0_5"}), Candidate("mobilenet_v2"))
    monkeypatch.setattr(auto, "CANDIDATES", candidates)
    small = (
        "--train.init",
        "none",
        "--train.epochs",
        2,
        "--train.batch-size",
        4,
        "--train.resize",
        40,
        "--train.crop",
        32,
    )
    places = ("--data", small_dataset, "--runs", tmp_path / "runs")
    done = ufgvc("train", "--method", "auto", "--budget", 30, *places, *small)
    assert done.code == 0, done.text
    assert "resnet50 (backbone shufflenet_v2_x0_5):" in done.out
    assert done.out.count("of 9 training leaves out of fold") == 2
    assert "chosen: " in done.out
    assert "Last result" not in done.out, "Tune prints nothing"
    (choice,) = (tmp_path / "runs" / "leaves" / "auto").glob("*/choice.json")
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").search_runs(["1"], max_results=100)
    (parent,) = [run for run in runs if run.data.tags.get("step") == "auto"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 3 + 1 + 3

    # Without its choice the same call loads the folds and chooses the same; with it, it opens no session.
    choice.unlink()
    trained: list[int] = []

    def count(jobs, *rest):
        trained.extend(index for index, job in enumerate(jobs) if not job.store.exists("result.json"))
        return run_jobs(jobs, *rest)

    monkeypatch.setattr(auto, "run_jobs", count)
    again = ufgvc("train", "--method", "auto", "--budget", 30, *places, *small)
    assert (again.code, trained) == (0, [])
    assert again.out == done.out
    monkeypatch.setattr(auto, "ray_session", lambda *_: pytest.fail("a session was opened"))
    assert ufgvc("train", "--method", "auto", "--budget", 30, *places, *small).out == done.out
