"""Jobs side by side as trials of Ray Tune: as many as fit, each on its share of the machine, none stopping the others."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ufgvc.core.errors import UserError, user_error_in
from ufgvc.core.process import cpu_count, trim_memory
from ufgvc.core.storage import Store, open_store
from ufgvc.core.text import format_duration
from ufgvc.experiments.settings import TrialSettings
from ufgvc.experiments.training_job import Job, result_of, run_job
from ufgvc.runtime.background import InBackground
from ufgvc.runtime.session import alive_nodes, node_kinds, places
from ufgvc.training.preflight import check_places

log = logging.getLogger(__name__)
FAILED = "failed.json"


@dataclass(frozen=True)
class Finished:
    """result: what the job left; None if it failed, with the reason."""

    job: Job
    result: dict[str, Any] | None
    error: str | None = None


@dataclass(frozen=True)
class Share:
    """What one trial gets, and how many run at a time.  threads: of torch in each."""

    resources: dict[str, float]
    at_once: int
    threads: int

    @property
    def device(self) -> str:
        return "cuda" if "GPU" in self.resources else "cpu"


def share_of(settings: TrialSettings, cpus: float, gpus: float, cores: int) -> Share:
    """UserError if not a single trial fits beside Ray Data."""
    use_gpu = settings.gpu == "auto" and gpus >= settings.gpu_per_trial
    resources = {"CPU": settings.cpus_per_trial} | ({"GPU": settings.gpu_per_trial} if use_gpu else {})
    room = int((cpus - 1) // settings.cpus_per_trial)
    if room < 1:
        what = f"a trial of {settings.cpus_per_trial:g} CPUs leaves none of the {cpus:g} for Ray Data"
        raise UserError(
            what,
            where="--cpus-per-trial",
            fix="use a smaller share, or more CPUs (`--ray.cpus` for a session of its own)",
        )
    room = min(room, int(gpus / settings.gpu_per_trial)) if use_gpu else room
    at_once = min(settings.trials or (room if use_gpu else min(room, cores)), room)
    return Share(resources, at_once, max(1, cores // at_once))


def placed(share: Share, nodes: Sequence[Mapping[str, float]]) -> Share:
    """The share, with as many at a time as the nodes have room for. UserError if no single node has what one trial needs."""
    room = places(nodes, share.resources)
    if room < 1:
        each = " and ".join(f"{need:g} {name}" for name, need in share.resources.items())
        what = f"no node has the {each} of a trial (nodes: {node_kinds(nodes, share.resources)})"
        raise UserError(
            what,
            where="--cpus-per-trial",
            fix="use smaller shares (`--cpus-per-trial`, `--gpu-per-trial`), or larger nodes",
        )
    return replace(share, at_once=min(share.at_once, room))


def check_nodes(data: Sequence[str], runs: str, settings: TrialSettings) -> None:
    """UserError for a folder of this machine where trials may run on other nodes. Inside of a Ray session."""
    count = len(alive_nodes())
    for uri in data:
        check_places({"--data": open_store(uri).uri, "--runs": open_store(runs).uri}, count)
    if settings.init not in ("imagenet", "none"):
        check_places({"--init": settings.init}, count)


def run_all(
    jobs: Sequence[Job],
    settings: TrialSettings,
    scratch: Store,
    done: Callable[[Finished], None],
    share: Share | None = None,
) -> list[Finished]:
    """Runs what is not finished yet and returns every job's end, in order. Inside of a Ray session.

    scratch: a folder for Tune's own files, removed at the end.  done: called for each job that ends, and for those that had ended before,
    on a thread of this process, so that it delays no trial.  share: of a job, if it is not to be told by the settings.
    """
    found = {place: result for place, job in enumerate(jobs) if (result := result_of(job)) is not None}
    waiting = [place for place in range(len(jobs)) if place not in found]
    if found:
        log.info("%d of %d trainings were finished before", len(found), len(jobs))
    ended = {place: Finished(jobs[place], result) for place, result in found.items()}
    with InBackground(done) as record:
        for end in ended.values():
            record(end)  # whoever was stopped between a job's end and this call gets it now
        if waiting:
            ended |= _tune(jobs, waiting, settings, scratch, record, share)
    return [ended[place] for place in range(len(jobs))]


def _tune(
    jobs: Sequence[Job],
    waiting: list[int],
    settings: TrialSettings,
    scratch: Store,
    done: Callable[[Finished], None],
    share: Share | None,
) -> dict[int, Finished]:
    # Tune would catch these signals itself and go on for a while; the same command goes on later, so a stop may be a stop.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray
    from ray import tune

    # Each failure is one line and a file that holds its traceback; Tune would print it three times.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    resources = ray.cluster_resources()
    cpus = resources.get("CPU", 0)
    # The slots of a session of its own may be more than the cores; over several nodes they are all that is known of the cores.
    nodes = alive_nodes()
    cores = cpu_count() if len(nodes) < 2 else max(1, int(cpus))
    share = share or placed(share_of(settings, cpus, resources.get("GPU", 0), cores), nodes)
    log.info("%d trainings, %d at a time, %d threads each", len(waiting), share.at_once, share.threads)
    ended: dict[int, Finished] = {}
    started = time.monotonic()

    def trial(config: dict[str, Any]) -> dict[str, Any]:
        job = jobs[config["place"]]
        job.store.delete(FAILED)
        try:
            # The processes of trials without a GPU may see one all the same, so the share decides.
            return {"result": run_job(replace(job, plan=replace(job.plan, cores=share.threads)), share.device)}
        except Exception as error:
            # An error of the training is its end: Tune starts again what fails, which is to be a lost process or node.
            why = reason(error)
            job.store.write_json(FAILED, {"reason": why, "traceback": traceback.format_exc()})
        # Behind the block, where the error and the tensors that its frames hold are gone: the process takes other jobs.
        trim_memory()
        if share.device == "cuda":
            torch.cuda.empty_cache()
        return {"failed": why}

    class Watch(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial, "it ended without a result in the runs folder")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial, "its process was lost")

        def _end(self, trial: Any, unexplained: str) -> None:
            place = trial.config["place"]
            job = jobs[place]
            result, error = result_of(job), None  # a result counts even if its process was lost while it cleared away
            if result is None:
                error = job.store.read_json(FAILED)["reason"] if job.store.exists(FAILED) else unexplained
            ended[place] = Finished(job, result, error)
            rest = (time.monotonic() - started) / len(ended) * (len(waiting) - len(ended))
            log.info("%d/%d  %s  about %s to go", len(ended), len(waiting), told(ended[place]), format_duration(rest))
            done(ended[place])

    tuner = tune.Tuner(
        tune.with_resources(trial, share.resources),
        param_space={"place": tune.grid_search(waiting)},
        # Processes are used again: loading torch anew takes longer than a small training.
        tune_config=tune.TuneConfig(max_concurrent_trials=share.at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch.path,
            storage_filesystem=scratch.fs,
            callbacks=[Watch()],
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            verbose=0,
        ),
    )
    tuner.fit()
    scratch.delete_tree()
    for place in waiting:
        if place not in ended:
            raise RuntimeError(f"{jobs[place].name}: Ray Tune ended without an end of this trial")
    return ended


def reason(error: BaseException) -> str:
    """One line for a table: the mistake, or the last line of what was raised."""
    mistake = user_error_in(error)
    if mistake is not None:
        return mistake.what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def told(end: Finished) -> str:
    """What the terminal shows of a job that ended."""
    if end.result is None:
        return f"{end.job.name}: failed: {end.error}"
    result = end.result
    if "correct" in result:
        leaves = "held-out" if result["purpose"] == "fold" else "test"
        score = f"{result['correct']} of {result['leaves']} {leaves} leaves"
    elif "validation_correct" in result:
        score = f"{result['validation_correct']:.0f} of {result['validation_leaves']:.0f} held-out leaves"
    else:
        score = f"train accuracy {100 * result['train_accuracy']:.1f} %"
    return f"{end.job.name}: {score} ({result['seconds']:.0f} s)"
