"""The trials of a search side by side under Ray Tune."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.core.storage import open_store
from ufgvc.core.text import format_duration
from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.distributed_trial import STOP
from ufgvc.experiments.search_store import SETTING, SearchStore, TrialConfig
from ufgvc.experiments.searcher import ResumableSearcher, TrialLog
from ufgvc.experiments.settings import SearchSettings, TrialSettings
from ufgvc.experiments.trial_runner import Share, placed, share_of
from ufgvc.runtime.background import InBackground
from ufgvc.runtime.session import alive_nodes, places
from ufgvc.training.preflight import check_cpus, check_nodes_hold, choose_gpu, worker_resources
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)
DRIVER_CPUS = 0.01  # of a trial whose workers have resources of their own


def trial_settings(train: TrainSettings, settings: SearchSettings) -> TrialSettings:
    """What trainings of one worker share with a benchmark's."""
    return TrialSettings(
        init=train.init,
        trials=settings.at_once,
        cpus_per_trial=train.cpus_per_worker,
        gpu_per_trial=settings.gpu_per_trial,
        gpu="no" if train.gpu == "no" else "auto",
        precision=train.precision,
        checkpoint_seconds=train.checkpoint_seconds,
        max_failures=settings.max_failures,
    )


def share_for(train: TrainSettings, settings: SearchSettings, cpus: float, gpus: float, cores: int) -> Share:
    """UserError if not a single trial fits beside Ray Data."""
    if train.gpu == "yes" and gpus < train.workers * (settings.gpu_per_trial if train.workers == 1 else 1):
        choose_gpu("yes", gpus, train.workers)
    if train.workers == 1:
        return share_of(trial_settings(train, settings), cpus, gpus, cores)
    check_cpus(train, cpus)
    room = int((cpus - 1) // (train.workers * train.cpus_per_worker))
    if choose_gpu(train.gpu, gpus, train.workers):
        room = min(room, int(gpus // train.workers))
    return Share({"CPU": DRIVER_CPUS}, max(1, min(settings.at_once or room, room)), cores)


def share_now(train: TrainSettings, settings: SearchSettings) -> Share:
    """What a trial gets of the cluster as it is. Inside of a Ray session."""
    import ray

    resources = ray.cluster_resources()
    nodes = alive_nodes()
    cores = cpu_count() if len(nodes) < 2 else max(1, int(resources.get("CPU", 0)))
    share = share_for(train, settings, resources.get("CPU", 0), resources.get("GPU", 0), cores)
    if train.workers == 1:
        return placed(share, nodes)
    use_gpu = choose_gpu(train.gpu, resources.get("GPU", 0), train.workers)
    check_nodes_hold(train, use_gpu, nodes)
    room = places(nodes, worker_resources(train, use_gpu)) // train.workers
    return replace(share, at_once=min(share.at_once, room))


def run_trials(
    study: SearchStore,
    settings: SearchSettings,
    epochs: int,
    share: Share,
    ended: Callable[[TrialConfig, TrialResult], None],
) -> list[TrialResult]:
    """Runs what is missing of a search and returns every trial's row. Inside of a Ray session.

    epochs: of a complete trial.  ended: called with each trial that ends, and with those that had ended before, on a thread of this
    process, so that it delays no trial.
    """
    study.forget_failures()
    ledger = TrialLog.of(study)
    suggester = ResumableSearcher(study, settings, ledger)
    if ledger.begun:
        log.info("%d trials were finished before, %d go on", len(ledger.ended), len(ledger.open))
    with InBackground(ended) as record:
        for setting, row in ledger.ended:
            record(setting, row)  # whoever was killed between a trial's end and this call gets it now
        if suggester.remaining:
            _tune(study, settings, epochs, share, suggester, [row for _, row in ledger.ended], record)
    rows = [row for _, row in TrialLog.of(study).ended]
    if not rows:
        raise UserError(
            "every trial lost its process", where=study.folder, fix="see the lines above; the same command tries again"
        )
    return rows


def _tune(
    study: SearchStore,
    settings: SearchSettings,
    epochs: int,
    share: Share,
    suggester: ResumableSearcher,
    known: list[TrialResult],
    ended: Callable[[TrialConfig, TrialResult], None],
) -> None:
    # Tune would catch these signals itself and go on for a while; the same command goes on later, so a stop may be a stop.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import torch
    from ray import tune

    from ufgvc.experiments.search_trial import run_trial
    from ufgvc.experiments.stopping import EPOCH, SCORE, CooperativeASHA

    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # each failure is one line, and a file that holds its traceback
    log.info("%d trials to go, %d at a time", suggester.remaining, share.at_once)

    def trial(config: dict[str, Any]) -> None:
        setting = TrialConfig(**study.trial(config["number"]).read_json(SETTING))

        def report(epoch: int, score: float) -> None:
            tune.report({EPOCH: epoch, SCORE: score})

        run_trial(study, setting, report, torch.device(share.device), share.threads)

    class Watch(tune.Callback):
        started = time.monotonic()
        count = 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial)

        def _end(self, trial: Any) -> None:
            self.count += 1
            setting = TrialConfig(**study.trial(trial.config["number"]).read_json(SETTING))
            found = study.row(setting)
            rest = (time.monotonic() - self.started) / self.count * suggester.remaining
            told = (
                told_of(found, epochs)
                if found
                else "its process was lost; the next start of this search tries it again"
            )
            log.info(
                "%d/%d  %s: %s  about %s to go",
                setting.number + 1,
                suggester.total,
                name_of(setting),
                told,
                format_duration(rest),
            )
            if found is not None:
                ended(setting, found)

    scheduler: Any = None
    if settings.early_stopping:
        scheduler = CooperativeASHA(
            lambda config: study.trial(config["number"]).write_json(STOP, {"by": "ASHA"}),
            epochs,
            settings.grace_epochs,
            settings.reduction,
        )
        scheduler.recall(known)
    scratch = open_store(study.folder).child("tune")
    tune.Tuner(
        tune.with_resources(trial, share.resources),
        tune_config=tune.TuneConfig(
            search_alg=suggester,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it is over
            max_concurrent_trials=share.at_once,
            reuse_actors=study.train.workers == 1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch.path,
            storage_filesystem=scratch.fs,
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[Watch()],
            verbose=0,
        ),
    ).fit()
    scratch.delete_tree()


def name_of(setting: TrialConfig) -> str:
    if setting.repeat:
        return f"trial {setting.number} (the paper's setting again, seed +{setting.repeat})"
    return f"trial {setting.number}" + (" (the paper's setting)" if setting.number == 0 else "")


def told_of(row: TrialResult, epochs: int) -> str:
    if row.state == "failed":
        return f"failed: {row.error}"
    score = f"{100 * row.curve[-1]:.1f} % of the held-out leaves" if row.curve else "nothing was scored"
    return score if row.state == "complete" else f"{score}, stopped after {len(row.curve)} of {epochs} epochs"
