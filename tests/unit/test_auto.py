"""`--method auto`: what is tried within a budget, when a candidate replaces the best so far, and what is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.factories import coloured, ingested
from ufgvc.cli import parse
from ufgvc.commands import COMMANDS
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.data.splits import HeldFold
from ufgvc.experiments import auto
from ufgvc.experiments.auto import fits
from ufgvc.experiments.candidates import Attempt, Candidate, Choice, train_settings
from ufgvc.experiments.training_job import JobOutcome
from ufgvc.training.settings import TrainSettings

LABELS = np.repeat(np.arange(10), 6)
IDS = [f"leaf {i}" for i in range(60)]


class Machine:
    """Stands for the trainings: correct leaves and seconds of a fold of each candidate, and what was executed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **candidates: tuple[int, float] | str) -> None:
        self.candidates, self.executed = candidates, list[str]()
        index = pa.table({"image_id": IDS, "label": LABELS, "group": pa.array([None] * 60, pa.string())})
        monkeypatch.setattr(auto, "read_index", lambda *_: index)
        monkeypatch.setattr(auto, "read_all_scores", self.scores)
        monkeypatch.setattr(auto._Comparison, "_jobs", lambda _, candidate: self.jobs(candidate))
        self.comparison = auto._Comparison(
            None,
            3,
            TrainSettings(),
            None,
            open_store(str(folder)),
            SimpleNamespace(max_concurrent=1),
            self.execute,  # type: ignore[arg-type]
        )

    def jobs(self, candidate: Candidate) -> Any:
        if candidate.method == "masked":
            raise UserError("does not exist", where="masks/box")

        def job(fold: int, epochs: int) -> SimpleNamespace:
            recipe = {"stages": [{"epochs": epochs, "lr": 1.0}]}
            return SimpleNamespace(store=(candidate.method, fold), epochs=epochs, config=SimpleNamespace(recipe=recipe))

        return job(0, 1), [job(fold, 10) for fold in range(3)]

    def execute(self, jobs: list[Any]) -> list[JobOutcome]:
        method = jobs[0].store[0]
        self.executed.append(f"{method} {len(jobs)}x{jobs[0].epochs}")
        found = self.candidates[method]
        if isinstance(found, str):
            return [JobOutcome(job, None, found) for job in jobs]
        return [JobOutcome(job, {"seconds": found[1] * job.epochs / 10}) for job in jobs]

    def scores(self, store: tuple[str, int]) -> tuple[list[str], np.ndarray]:
        method, fold = store
        rows = np.arange(fold, 60, 3)
        logits = np.eye(10)[(LABELS[rows] + (rows >= self.candidates[method][0])) % 10]  # the first k leaves are right
        return [IDS[row] for row in rows], logits

    def choose(self, budget: float) -> Choice:
        return self.comparison.choose([Candidate(name) for name in self.candidates], budget)


def outcomes(choice: Choice) -> dict[str, str]:
    return {attempt.label: attempt.outcome for attempt in choice.attempts}


def test_a_candidate_is_kept_only_if_it_is_better_beyond_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path, probe=(30, 1.0), similar=(32, 1.0), better=(54, 1.0), worse=(50, 1.0))
    choice = machine.choose(budget=10)
    assert outcomes(choice) == {"probe": "first", "similar": "not better", "better": "better", "worse": "not better"}
    assert choice.candidate == Candidate("better")
    similar, better = choice.attempts[1:3]
    assert similar.low is not None
    assert better.low is not None
    assert similar.low <= 0 < better.low
    assert (better.correct, better.leaves, better.difference) == (54, 60, pytest.approx(24 / 60))
    assert machine.executed[:3] == ["probe 3x10", "similar 1x1", "similar 3x10"]
    assert "similar: 32 of 60 training leaves out of fold" in choice.summary()
    assert "chosen: better; stopped because all candidates were considered" in choice.summary()


def test_what_does_not_fit_into_the_budget_is_not_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """30 s a fold: three of them and 45 s for the final training are 135 s."""
    machine = Machine(monkeypatch, tmp_path, probe=(30, 1.0), net=(60, 30.0))
    choice = machine.choose(budget=2.2)
    assert outcomes(choice) == {"probe": "first", "net": "too slow"}
    assert machine.executed == ["probe 3x10", "net 1x1"]
    assert "net: too slow: its folds and the final training need about 2.2 minutes, 2.2 are left" in choice.summary()
    assert "stopped because 1 candidate would not fit into 2.2 minutes" in choice.summary()
    assert (
        Machine(monkeypatch, tmp_path / "more", probe=(30, 1.0), net=(60, 30.0)).choose(2.3).candidate.method == "net"
    )


def test_earlier_starts_count_towards_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_store(str(tmp_path)).write_json("seconds.json", {"probe": 100.0})
    machine = Machine(monkeypatch, tmp_path, probe=(30, 1.0), net=(60, 30.0))
    assert outcomes(machine.choose(budget=3.0)) == {"probe": "first", "net": "too slow"}


def test_timing_what_is_too_slow_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if 100 of 180 s had gone into finding out that the first net does not fit: the second one needs 90 s."""
    open_store(str(tmp_path)).write_json("seconds.json", {"slow": 100.0})
    machine = Machine(monkeypatch, tmp_path, probe=(30, 1.0), slow=(60, 300.0), net=(60, 20.0))
    assert outcomes(machine.choose(budget=3.0)) == {"probe": "first", "slow": "too slow", "net": "too slow"}
    assert machine.executed == ["probe 3x10", "slow 1x1", "net 1x1"]
    fresh = Machine(monkeypatch, tmp_path / "fresh", probe=(30, 1.0), slow=(60, 300.0), net=(60, 20.0))
    assert outcomes(fresh.choose(budget=3.0))["net"] == "better"


def test_budgets_are_minutes_and_hold_the_final_training() -> None:
    assert fits(30, 20, 10, 1.0)
    assert not fits(30, 20, 10.1, 1.0)


def test_failed_and_unsuitable_candidates_are_said_and_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path, offline="no network", masked="", probe=(30, 1.0))
    choice = machine.choose(budget=10)
    assert outcomes(choice) == {"offline": "failed", "masked": "unsuitable", "probe": "first"}
    assert "offline: failed: no network" in choice.summary()
    assert "masked: unsuitable: masks/box does not exist" in choice.summary()
    with pytest.raises(UserError, match="no method could be measured: offline: failed: no network"):
        Machine(monkeypatch, tmp_path, offline="no network").choose(budget=10)


def test_the_users_training_settings_win() -> None:
    candidate = Candidate("resnet50", train={"epochs": 40, "crop": 448})
    made = train_settings(candidate, TrainSettings(epochs=3))
    assert (made.epochs, made.crop) == (3, 448)


def test_a_single_training_leaf_of_a_cultivar_is_always_trained_on() -> None:
    labels = np.array([0, 1, 1, 1, 2, 2])
    folds = [HeldFold(3, fold, 0, "train").indices(labels, [None] * 6) for fold in range(3)]
    assert sorted(row for _, inside in folds for row in inside) == [1, 2, 3, 4, 5]
    assert all(0 in others for others, _ in folds)
    with pytest.raises(UserError, match="nothing of it can be held out"):
        HeldFold(3, 0, 0, "all").indices(labels, [None] * 6)


def test_cultivars_with_one_training_leaf_each_cannot_be_compared(tmp_path: Path) -> None:
    for each, folds in ((1, None), (2, 2), (5, 3)):
        rows = [(label, coloured(label, i)) for label in range(2) for i in range(each)]
        ingested(str(tmp_path / str(each)), "few", ("a", "b"), [("train", rows)], side=48)
        dataset = open_dataset(str(tmp_path / str(each)))
        if folds is None:
            with pytest.raises(UserError, match="no cultivar has two training leaves"):
                auto.count_folds(dataset)
        else:
            assert auto.count_folds(dataset) == folds


def test_auto_is_a_method_of_train_and_pipeline_only() -> None:
    settings = parse(COMMANDS.get("train"), ["--data", "d", "--method", "auto", "--budget", "3"])
    assert (settings.method, settings.budget) == ("auto", 3.0)
    with pytest.raises(UserError, match="auto"):
        parse(COMMANDS.get("search"), ["--data", "d", "--method", "auto"])


def test_a_validation_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="not with validation holdout"):
        auto.choose_method("data", 1.0, TrainSettings(validation="holdout"))


def test_a_summary_names_the_interval() -> None:
    text = Attempt("net", "better", 12.4, 30, 40, 0.1, 0.01, 0.2).summary()
    assert (
        text
        == "net: 30 of 40 training leaves out of fold (12 s); +10.0 points (+1.0 to +20.0), better beyond its error"
    )
