"""The trials of a search: the log on storage, Optuna, ASHA, the best trial, the resources. Without a Ray session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ufgvc.core.errors import UserError
from ufgvc.evaluation.search_record import Dimension, TrialResult
from ufgvc.experiments import resources as sizing
from ufgvc.experiments.resources import size_distributed_trials, size_trials, trial_resources
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.search_trial import best_trial
from ufgvc.experiments.searcher import CooperativeASHA, ResumableSearcher, TrialLog
from ufgvc.experiments.settings import SearchSettings, TrialSettings
from ufgvc.training.settings import TrainSettings

DIMENSIONS = (
    Dimension("options.fusion", "simplex", parts=("base", "vein", "contour")),
    Dimension("options.loss_weights.vein", "log", 0.01, 10.0),
)
PAPER = {"options.fusion": {"base": 0.3, "vein": 0.5, "contour": 0.2}, "options.loss_weights.vein": 0.1}


@pytest.fixture
def store(tmp_path: Path) -> SearchStore:
    return SearchStore(
        data=str(tmp_path / "data"),
        method="mask_guided",
        options={"backbone": "resnet18"},
        train=TrainSettings(epochs=4, resize=40, crop=32),
        dimensions=DIMENSIONS,
        folds=3,
        seed=0,
        runs=str(tmp_path),
        folder=str(tmp_path / "s"),
    )


def result(number: int, *curve: float, state: str = "complete", **more: Any) -> TrialResult:
    return TrialResult(
        number, PAPER, state, curve=curve, losses=tuple(1 - value for value in curve), folds=curve[-1:] * 3, **more
    )


def make_searcher(store: SearchStore, **settings: Any) -> ResumableSearcher:
    return ResumableSearcher(store, SearchSettings(**settings), TrialLog.load(store))


def drain(searcher: ResumableSearcher) -> list[TrialConfig]:
    """Every suggestion, each completed at once."""
    suggested = []
    for place in range(100):
        config = searcher.suggest(str(place))
        if config == Searcher.FINISHED:
            return suggested
        trial = searcher.store.load_config(config["number"])
        searcher.store.save_result(replace(result(trial.number, 0.1, 0.5), values=trial.values))
        searcher.on_trial_complete(str(place), {})
        suggested.append(trial)
    raise AssertionError("it never finishes")


def test_the_papers_setting_is_trial_0_and_the_repeats_come_last(store: SearchStore) -> None:
    trials = drain(make_searcher(store, num_trials=5, repeats=2))
    assert [trial.number for trial in trials] == list(range(7))
    assert trials[0].values == PAPER
    assert [trial.repeat for trial in trials] == [0, 0, 0, 0, 0, 1, 2]
    assert all(trial.values == trials[0].values for trial in trials[5:])
    assert len({str(trial.values) for trial in trials[:5]}) == 5


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_every_sampler_finishes(store: SearchStore, sampler: str) -> None:
    num_trials = None if sampler == "grid" else 12
    trials = drain(make_searcher(store, num_trials=num_trials, sampler=sampler, grid_points=2, repeats=0))
    assert len(trials) == (1 + 3 * 2 if sampler == "grid" else 12)
    assert len({str(trial.values) for trial in trials}) == len(trials)


def test_nothing_is_lost_and_nothing_is_done_twice(store: SearchStore) -> None:
    """Killed with trials 2 and 3 running: they come first, unchanged; finished trials are added to the study again."""
    first = make_searcher(store, num_trials=6, repeats=1)
    for place in range(4):
        first.suggest(str(place))
    store.save_result(result(0, 0.2, 0.6))
    store.save_result(replace(result(1, 0.1, state="stopped"), values=store.load_config(1).values))
    log = TrialLog.load(store)
    assert [trial.number for trial, _ in log.finished] == [0, 1]
    again = ResumableSearcher(store, SearchSettings(num_trials=6, repeats=1), log)
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert again.remaining == 2 + 2 + 1
    before = store.load_configs()
    trials = drain(again)
    assert [trial.number for trial in trials] == [2, 3, 4, 5, 6]
    assert trials[:2] == before[2:4]


def test_more_trials_later_continue_the_same_search(store: SearchStore) -> None:
    drain(make_searcher(store, num_trials=3, repeats=1))
    trials = drain(make_searcher(store, num_trials=5, repeats=1))
    assert [(trial.number, trial.repeat) for trial in trials] == [(4, 0), (5, 0)]


def test_failures_are_tried_again_but_not_those_that_diverged(store: SearchStore) -> None:
    searcher = make_searcher(store, num_trials=3, repeats=0)
    for place in range(3):
        searcher.suggest(str(place))
    store.save_result(result(0, 0.5))
    store.save_result(result(1, state="failed", error="the disk is full"), final=False)
    store.save_result(result(2, 0.1, state="failed", error="training diverged"))
    store.clear_failures()
    log = TrialLog.load(store)
    assert [trial.number for trial in log.unfinished] == [1]
    assert [each.state for _, each in log.finished] == ["complete", "failed"]


def test_failed_and_lost_trials_are_not_in_the_study(store: SearchStore) -> None:
    searcher = make_searcher(store, num_trials=3, repeats=0)
    for place in range(3):
        searcher.suggest(str(place))
    store.save_result(result(1, state="failed", error="no"))
    searcher.on_trial_complete("1", None, error=True)
    searcher.on_trial_complete("2", None, error=True)
    assert {trial.state for trial in searcher.study.trials} == {TrialState.FAIL}


def test_tpe_learns(store: SearchStore) -> None:
    """Trials near one corner score high: later suggestions are nearer to it than random ones."""
    searcher = make_searcher(store, num_trials=60, repeats=0)
    for place in range(60):
        trial = store.load_config(searcher.suggest(str(place))["number"])
        score = trial.values["options.fusion"]["contour"]
        store.save_result(replace(result(trial.number, score), values=trial.values))
        searcher.on_trial_complete(str(place), {})
    contour = [trial.values["options.fusion"]["contour"] for trial in store.load_configs()]
    assert sum(contour[30:]) / 30 > 0.55  # a third at random


class TestASHA:
    @staticmethod
    def scheduler(stopped: list[int], **changes: Any) -> CooperativeASHA:
        return CooperativeASHA(stopped.append, **({"epochs": 9, "grace": 1, "reduction": 3} | changes))

    @staticmethod
    def report(scheduler: CooperativeASHA, number: int, *curve: float, epoch: int = 1, repeat: int = 0) -> set[str]:
        """The answers to the scores of consecutive epochs of a new trial, the first of which is `epoch`."""
        trial = SimpleNamespace(trial_id=f"t{number}", config={"number": number, "repeat": repeat})
        scheduler.on_trial_add(None, trial)
        scores = enumerate(curve, start=epoch)
        return {scheduler.on_trial_result(None, trial, {"epoch": at, "score": score}) for at, score in scores}

    def test_a_poor_trial_is_asked_to_stop_and_never_killed(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped)
        for number, score in enumerate([0.5, 0.6, 0.7, 0.2]):
            assert self.report(scheduler, number, score) == {"CONTINUE"}
        assert stopped == [3]

    def test_the_papers_setting_and_its_repeats_continue(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped)
        for number in (1, 2, 3):
            self.report(scheduler, number, 0.9)
        self.report(scheduler, 0, 0.1)
        self.report(scheduler, 4, 0.1, repeat=1)
        assert stopped == []

    def test_trials_before_a_kill_count_as_if_they_ran_now(self) -> None:
        curves = {1: (0.5, 0.5, 0.6), 2: (0.6, 0.6, 0.7), 3: (0.7, 0.7, 0.8)}
        stopped_live: list[int] = []
        stopped_replayed: list[int] = []
        live, replayed = self.scheduler(stopped_live), self.scheduler(stopped_replayed)
        for number, curve in curves.items():
            self.report(live, number, *curve)
        replayed.replay([result(number, *curve, state="stopped") for number, curve in curves.items()])
        stopped_live.clear()
        for scheduler in (live, replayed):
            for number in range(7, 27):  # at the first and at the second rung
                self.report(scheduler, number, 0.5 + number / 100, epoch=1 + 2 * (number % 2))
            for number in range(27, 47):
                self.report(scheduler, number, 0.9 - number / 100, epoch=1 + 2 * (number % 2))
        assert stopped_live == stopped_replayed
        assert {number % 2 for number in stopped_live} == {0, 1}

    def test_the_last_epoch_is_no_stop(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped, epochs=3)
        for number, score in enumerate([0.5, 0.6, 0.7, 0.2], start=1):
            self.report(scheduler, number, score, epoch=3)
        assert stopped == []


def test_the_best_is_complete_and_no_repeat_and_ties_go_to_the_lower_loss() -> None:
    results = [
        result(0, 0.5),
        result(1, 0.9, state="stopped"),
        result(2, 0.9, repeat=True),
        result(3, 0.6),
        replace(result(4, 0.6), losses=(0.1,)),
    ]
    assert best_trial(results) == results[4]
    assert best_trial([result(0, 0.6), result(1, 0.6)]) == result(0, 0.6), "of equals the first: the paper's"
    assert best_trial(results[1:3]) is None


class TestResources:
    def test_trials_of_one_worker_take_fractions(self) -> None:
        assert size_trials(TrialSettings(), [{"CPU": 4}], 2).max_concurrent == 2
        assert size_trials(TrialSettings(), [{"CPU": 16, "GPU": 2}], 16).per_trial == {"CPU": 1.0, "GPU": 0.25}

    def test_trials_of_several_workers_run_as_the_cluster_has_room(self) -> None:
        train = TrainSettings(workers=4, cpus_per_worker=2)
        assert size_distributed_trials(train, None, [{"CPU": 17}], 17).max_concurrent == 2
        node = {"CPU": 65, "GPU": 8}
        assert size_distributed_trials(train, None, [node], 64).max_concurrent == 2, "a GPU for each of four workers"
        assert size_distributed_trials(train, 1, [node], 64).max_concurrent == 1

    @pytest.mark.parametrize("train", [TrainSettings(cpus_per_worker=8), TrainSettings(workers=4, cpus_per_worker=2)])
    def test_more_cpus_than_there_are(self, train: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sizing, "alive_nodes", lambda: [{"CPU": 8.0}])
        with pytest.raises(UserError, match="Ray Data"):
            trial_resources(TrialSettings(cpus_per_trial=train.cpus_per_worker), train)

    def test_no_more_at_a_time_than_the_nodes_hold(self) -> None:
        settings = TrialSettings(cpus_per_trial=3)

        def concurrent(*cpus: float) -> int:
            return size_trials(settings, [{"CPU": each} for each in cpus], 12).max_concurrent

        assert concurrent(4, 4, 4) == 3
        assert concurrent(4, 2, 6) == 3
        assert concurrent(5, 2, 5) == 2
        with pytest.raises(UserError, match=r"no node has the 3 CPU of a trial \(nodes: 6 x 2 CPU\)") as caught:
            concurrent(*[2] * 6)
        assert "--cpus-per-trial" in str(caught.value.fix)

    @pytest.mark.parametrize(("nodes", "concurrent"), [([4.0] * 5, 2), ([3.0] * 6, 0)])
    def test_trials_of_several_workers_fit_on_nodes_too(
        self, nodes: list[float], concurrent: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sizing, "alive_nodes", lambda: [{"CPU": cpus} for cpus in nodes])
        train = TrainSettings(workers=2, cpus_per_worker=4)
        if concurrent:
            assert trial_resources(TrialSettings(), train).max_concurrent == concurrent
        else:
            with pytest.raises(UserError, match="which have room for 0"):
                trial_resources(TrialSettings(), train)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_gpus_that_are_not_there(self, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sizing, "alive_nodes", lambda: [{"CPU": 8.0}])
        with pytest.raises(UserError, match="GPU"):
            trial_resources(TrialSettings(device="gpu"), TrainSettings(device="gpu", workers=workers))


def test_optuna_prints_nothing(store: SearchStore, capfd: pytest.CaptureFixture[str]) -> None:
    ResumableSearcher(store, SearchSettings(num_trials=2, repeats=0), TrialLog.load(store)).suggest("0")
    optuna.logging.get_logger("optuna").info("a study was made")
    assert capfd.readouterr().err == ""
