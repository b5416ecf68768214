"""What a search does next, and what it remembers: the ledger on storage, Optuna, ASHA, the best trial. No Ray session."""

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
from ufgvc.experiments import search_runner as tuning
from ufgvc.experiments.final_evaluation import best_of
from ufgvc.experiments.search_runner import share_for, share_now
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.searcher import ResumableSearcher, TrialLog
from ufgvc.experiments.settings import SearchSettings, TrialSettings
from ufgvc.experiments.stopping import CooperativeASHA
from ufgvc.experiments.trial_runner import placed, share_of
from ufgvc.training.settings import TrainSettings

AXES = (
    Dimension("options.fusion", "simplex", parts=("base", "vein", "contour")),
    Dimension("options.loss_weights.vein", "log", 0.01, 10.0),
)
PAPER = {"options.fusion": {"base": 0.3, "vein": 0.5, "contour": 0.2}, "options.loss_weights.vein": 0.1}


@pytest.fixture
def study(tmp_path: Path) -> SearchStore:
    train = TrainSettings(epochs=4, resize=40, crop=32)
    return SearchStore(
        str(tmp_path / "data"),
        "mask_guided",
        {"backbone": "resnet18"},
        train,
        AXES,
        3,
        0,
        str(tmp_path),
        str(tmp_path / "s"),
    )


def row(number: int, *curve: float, state: str = "complete", **more: Any) -> TrialResult:
    return TrialResult(
        number, PAPER, state, curve=curve, losses=tuple(1 - value for value in curve), folds=curve[-1:] * 3, **more
    )


def drain(suggester: ResumableSearcher, state: str = "complete") -> list[TrialConfig]:
    """Every suggestion, each ended at once."""
    told = []
    for place in range(100):
        config = suggester.suggest(str(place))
        if config == Searcher.FINISHED:
            return told
        setting = suggester.study.settings()[config["number"]]
        suggester.study.end(replace(row(setting.number, 0.1, 0.5, state=state), values=setting.values))
        suggester.on_trial_complete(str(place), {})
        told.append(setting)
    raise AssertionError("it never ends")


def test_the_papers_setting_is_trial_0_and_the_repeats_come_last(study: SearchStore) -> None:
    told = drain(ResumableSearcher(study, SearchSettings(trials=5, repeats=2), TrialLog.of(study)))
    assert [setting.number for setting in told] == list(range(7))
    assert told[0].values == PAPER
    assert [setting.repeat for setting in told] == [0, 0, 0, 0, 0, 1, 2]
    assert all(setting.values == told[0].values for setting in told[5:])
    assert len({str(setting.values) for setting in told[:5]}) == 5


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_every_sampler_says_when_it_is_over(study: SearchStore, sampler: str) -> None:
    settings = SearchSettings(trials=None if sampler == "grid" else 12, sampler=sampler, grid_points=2, repeats=0)
    told = drain(ResumableSearcher(study, settings, TrialLog.of(study)))
    assert len(told) == (1 + 3 * 2 if sampler == "grid" else 12)
    assert len({str(setting.values) for setting in told}) == len(told)


def test_nothing_is_lost_and_nothing_is_done_twice(study: SearchStore) -> None:
    """Killed with trials 2 and 3 running: they come first, as they were; what ended teaches Optuna again."""
    first = ResumableSearcher(study, SearchSettings(trials=6, repeats=1), TrialLog.of(study))
    for place in range(4):
        first.suggest(str(place))
    study.end(row(0, 0.2, 0.6))
    study.end(replace(row(1, 0.1, state="stopped"), values=study.settings()[1].values))
    ledger = TrialLog.of(study)
    assert [setting.number for setting, _ in ledger.ended] == [0, 1]
    again = ResumableSearcher(study, SearchSettings(trials=6, repeats=1), ledger)
    assert [trial.state for trial in again.optuna.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert again.remaining == 2 + 2 + 1
    assert again.total == 7
    before = study.settings()
    told = drain(again)
    assert [setting.number for setting in told] == [2, 3, 4, 5, 6]
    assert told[:2] == before[2:4]


def test_more_trials_later_go_on_with_the_same_search(study: SearchStore) -> None:
    drain(ResumableSearcher(study, SearchSettings(trials=3, repeats=1), TrialLog.of(study)))
    told = drain(ResumableSearcher(study, SearchSettings(trials=5, repeats=1), TrialLog.of(study)))
    assert [(setting.number, setting.repeat) for setting in told] == [(4, 0), (5, 0)]


def test_failures_are_tried_again_but_not_those_that_diverged(study: SearchStore) -> None:
    suggester = ResumableSearcher(study, SearchSettings(trials=3, repeats=0), TrialLog.of(study))
    for place in range(3):
        suggester.suggest(str(place))
    study.end(row(0, 0.5))
    study.end(row(1, state="failed", error="the disk is full"), final=False)
    study.end(row(2, 0.1, state="failed", error="training diverged"))
    study.forget_failures()
    assert [setting.number for setting in TrialLog.of(study).open] == [1]
    assert [each.state for _, each in TrialLog.of(study).ended] == ["complete", "failed"]


def test_what_failed_or_was_lost_teaches_optuna_nothing(study: SearchStore) -> None:
    suggester = ResumableSearcher(study, SearchSettings(trials=3, repeats=0), TrialLog.of(study))
    for place in range(3):
        suggester.suggest(str(place))
    study.end(row(1, state="failed", error="no"))
    suggester.on_trial_complete("1", None, error=True)
    suggester.on_trial_complete("2", None, error=True)
    assert {trial.state for trial in suggester.optuna.trials} == {TrialState.FAIL}


def test_tpe_learns(study: SearchStore) -> None:
    """Trials near one corner score high: later suggestions lie nearer to it than random ones."""
    suggester = ResumableSearcher(study, SearchSettings(trials=60, repeats=0), TrialLog.of(study))
    for place in range(60):
        config = suggester.suggest(str(place))
        setting = study.settings()[config["number"]]
        score = setting.values["options.fusion"]["contour"]
        study.end(replace(row(setting.number, score), values=setting.values))
        suggester.on_trial_complete(str(place), {})
    contour = [setting.values["options.fusion"]["contour"] for setting in study.settings()]
    assert sum(contour[30:]) / 30 > 0.55  # a third, if they were drawn at random


class TestASHA:
    @staticmethod
    def scheduler(stopped: list[int], **more: Any) -> CooperativeASHA:
        return CooperativeASHA(
            lambda config: stopped.append(config["number"]), **({"epochs": 9, "grace": 1, "reduction": 3} | more)
        )

    @staticmethod
    def report(scheduler: CooperativeASHA, number: int, score: float, epoch: int = 1, repeat: int = 0) -> str:
        trial = SimpleNamespace(trial_id=f"t{number}", config={"number": number, "repeat": repeat})
        if trial.trial_id not in scheduler._trial_info:
            scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score})

    def test_a_poor_trial_gets_the_word_and_is_never_killed(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped)
        for number, score in enumerate([0.5, 0.6, 0.7, 0.2]):
            assert self.report(scheduler, number, score) == "CONTINUE"
        assert stopped == [3]

    def test_the_papers_setting_and_its_repeats_go_on(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped)
        for number in (1, 2, 3):
            self.report(scheduler, number, 0.9)
        self.report(scheduler, 0, 0.1)
        self.report(scheduler, 4, 0.1, repeat=1)
        assert stopped == []

    def test_what_ran_before_a_kill_counts_as_if_it_ran_now(self) -> None:
        curves = {1: (0.5, 0.5, 0.6), 2: (0.6, 0.6, 0.7), 3: (0.7, 0.7, 0.8)}
        live, recalled = [], []
        one, other = self.scheduler(live), self.scheduler(recalled)
        for number, curve in curves.items():
            for epoch, score in enumerate(curve, start=1):
                self.report(one, number, score, epoch)
        other.recall([row(number, *curve, state="stopped") for number, curve in curves.items()])
        for scheduler in (one, other):
            self.report(scheduler, 7, 0.65)
            self.report(scheduler, 8, 0.55)
        assert [rungs for _, rungs in one._brackets[0]._rungs[:1]] == [{}]
        for (epochs, first), (same, second) in zip(one._brackets[0]._rungs, other._brackets[0]._rungs, strict=True):
            assert epochs == same
            assert sorted(first.values()) == sorted(second.values())
        assert live[-1:] == recalled[-1:] == [8]

    def test_the_last_epoch_is_no_stop(self) -> None:
        stopped: list[int] = []
        scheduler = self.scheduler(stopped, epochs=3)
        for number, score in enumerate([0.5, 0.6, 0.7, 0.2], start=1):
            self.report(scheduler, number, score, epoch=3)
        assert stopped == []


def test_the_best_is_complete_and_no_repeat_and_ties_go_to_the_lower_loss() -> None:
    rows = [
        row(0, 0.5),
        row(1, 0.9, state="stopped"),
        row(2, 0.9, repeat=True),
        row(3, 0.6),
        replace(row(4, 0.6), losses=(0.1,)),
    ]
    assert best_of(rows) == rows[4]
    assert best_of([row(0, 0.6), row(1, 0.6)]) == row(0, 0.6), "of equals the first: the paper's"
    assert best_of(rows[1:3]) is None


class TestShare:
    def test_trials_of_one_worker_take_shares(self) -> None:
        assert share_for(TrainSettings(), SearchSettings(), 4, 0, 2).at_once == 2
        assert share_for(TrainSettings(), SearchSettings(gpu_per_trial=0.25), 16, 2, 16).resources == {
            "CPU": 1.0,
            "GPU": 0.25,
        }

    def test_trials_of_several_workers_run_as_the_cluster_has_room(self) -> None:
        train = TrainSettings(workers=4, cpus_per_worker=2)
        assert share_for(train, SearchSettings(), 17, 0, 17).at_once == 2
        assert share_for(train, SearchSettings(), 65, 8, 64).at_once == 2, "a GPU for each of four workers"
        assert share_for(train, SearchSettings(at_once=1), 65, 8, 64).at_once == 1

    @pytest.mark.parametrize("train", [TrainSettings(cpus_per_worker=8), TrainSettings(workers=4, cpus_per_worker=2)])
    def test_more_cpus_than_there_are(self, train: TrainSettings) -> None:
        with pytest.raises(UserError, match="Ray Data"):
            share_for(train, SearchSettings(), 8, 0, 8)

    def test_no_more_at_a_time_than_the_nodes_hold(self) -> None:
        share = share_of(TrialSettings(cpus_per_trial=3), 12, 0, 12)
        assert share.at_once == 3
        assert placed(share, [{"CPU": 4.0}] * 3) == share
        assert placed(share, [{"CPU": 4.0}, {"CPU": 2.0}, {"CPU": 6.0}]).at_once == 3
        assert placed(share, [{"CPU": 5.0}, {"CPU": 2.0}, {"CPU": 5.0}]).at_once == 2
        with pytest.raises(UserError, match=r"no node has the 3 CPU of a trial \(nodes: 6 x 2 CPU\)") as caught:
            placed(share, [{"CPU": 2.0}] * 6)
        assert "--cpus-per-trial" in str(caught.value.fix)

    @pytest.mark.parametrize(("node", "at_once"), [(4.0, 2), (3.0, 0)])
    def test_trials_of_several_workers_are_placed_too(
        self, node: float, at_once: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = int(18 / node)
        monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 18.0})
        monkeypatch.setattr(tuning, "alive_nodes", lambda: [{"CPU": node}] * many)
        train = TrainSettings(workers=2, cpus_per_worker=4)
        if at_once:
            assert share_now(train, SearchSettings()).at_once == at_once
        else:
            with pytest.raises(UserError, match="which have room for 0"):
                share_now(train, SearchSettings())

    def test_gpus_that_are_not_there(self) -> None:
        with pytest.raises(UserError, match="GPU"):
            share_for(TrainSettings(device="gpu"), SearchSettings(), 8, 0, 8)


def test_optuna_says_nothing_on_the_terminal(study: SearchStore, capfd: pytest.CaptureFixture[str]) -> None:
    ResumableSearcher(study, SearchSettings(trials=2, repeats=0), TrialLog.of(study)).suggest("0")
    optuna.logging.get_logger("optuna").info("a study was made")
    assert capfd.readouterr().err == ""
