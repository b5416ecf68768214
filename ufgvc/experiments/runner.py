"""Runs the trainings of a benchmark and the trials of a search as trials of Ray Tune."""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from ufgvc.core.errors import user_error_in
from ufgvc.core.process import trim_memory
from ufgvc.core.storage import Store
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.trial_progress import TrialProgress

if TYPE_CHECKING:  # Tune is imported after the environment that it reads is set; Optuna is needed by a search only
    from ray.tune.schedulers import TrialScheduler

    from ufgvc.experiments.searcher import ResumableSearcher

log = logging.getLogger(__name__)
FAILED = "failed.json"  # in the folder of an item: the reason and the traceback of its failure
LOST = "its process was lost"


def run(
    items: Sequence[int],
    execute: Callable[[int], None],
    on_end: Callable[[int, str | None], str],
    folder: Callable[[int], Store],
    resources: TrialResources,
    scratch: Store,
    max_failures: int,
    *,
    progress: TrialProgress,
    searcher: ResumableSearcher | None = None,
    scheduler: TrialScheduler | None = None,
    reuse_actors: bool = True,
) -> None:
    """Runs a trial for each item, and returns when all have ended. Inside a Ray session.

    An exception in a trial ends only that trial: its reason comes back to `on_end`, and <folder>/failed.json has the
    traceback. Only a trial whose process was lost is started again.

    items: numbers that identify the trials; with a searcher they are the `number` in the configurations it suggests.
    execute: does the work of an item, in the process of its trial.
    on_end: called in this process with an item that ended, and None or the reason of its failure; returns a line to
    log. It delays all trials, so slow calls belong in `InBackground`.
    folder: of an item.  scratch: for Tune's own files; deleted at the end.
    max_failures: how often the lost process of a trial is replaced; -1: without limit.
    progress: is kept up to date with the trials that run and end.
    reuse_actors: run several trials in one process, because importing torch takes longer than a small training.
    """
    _prepare_environment()
    from ray import tune

    limits = f"{resources.max_concurrent} at a time, {resources.threads} threads each"
    log.info("%s: %d to run, %s", progress.what, progress.count, limits)
    device = resources.device

    def trial(config: dict[str, Any]) -> dict[str, str] | None:
        return _guard(config["number"], execute, folder, device)

    tuner = tune.Tuner(
        tune.with_resources(trial, resources.per_trial),
        param_space=None if searcher else {"number": tune.grid_search(list(items))},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1 if searcher else 1,  # -1: until the searcher says that it has finished
            max_concurrent_trials=resources.max_concurrent,
            reuse_actors=reuse_actors,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch.path,
            storage_filesystem=scratch.fs,
            callbacks=[_callback(on_end, progress)],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    )
    with progress:
        tuner.fit()
    scratch.delete_tree()


def _prepare_environment() -> None:
    """Sets the variables that Tune reads when it is imported."""
    # Tune would handle these signals itself and continue for a while. The same command resumes, so it may stop at once.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial returns its reason, and no score
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would print each traceback three times


def _guard(
    item: int, execute: Callable[[int], None], folder: Callable[[int], Store], device: str
) -> dict[str, str] | None:
    """Executes one item in the process of its trial; {"error": reason} if that raised."""
    failure: str | None = None
    try:
        folder(item).delete(FAILED)
        execute(item)
    except Exception as error:
        # Tune restarts a trial that raises, which is meant for lost processes and nodes.
        failure = describe_error(error)
        with contextlib.suppress(Exception):  # the disk may be full
            folder(item).write_json(FAILED, {"reason": failure, "traceback": traceback.format_exc()})
    # Here the error and the tensors in its frames are gone. The process is used again, and others share the GPU.
    trim_memory()
    if device == "cuda":
        torch.cuda.empty_cache()
    return None if failure is None else {"error": failure}


def _callback(on_end: Callable[[int, str | None], str], progress: TrialProgress) -> Any:
    """A callback of Tune that passes ended trials to `on_end` and logs what they reached."""
    from ray.tune.progress_reporter import TrialProgressCallback

    # Tune adds a TrialProgressCallback where there is none, which prints "Trial ... completed." even with verbose=0.
    class Ends(TrialProgressCallback):  # type: ignore[misc]
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            pass

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            progress.start(trial.config["number"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial, (trial.last_result or {}).get("error"))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trial, LOST)

        def _end(self, trial: Any, error: str | None) -> None:
            number = trial.config["number"]
            progress.end(number)
            log.info(
                "%d of %d  %s",
                progress.before + progress.ended,
                progress.before + progress.count,
                on_end(number, error),
            )

    return Ends()


class InBackground:
    """Makes calls on one thread: Ray Tune's loop, and with it every trial that reports, must not wait for MLflow.

    Leaving the block waits for the remaining calls and raises their first exception. After an exception in the block
    (a stop) the remaining calls are dropped, because the next start finds what is not recorded.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._calls: list[Future[None]] = []

    def __call__(self, *args: Any) -> None:
        """Queues a call of the function."""
        self._calls.append(self._thread.submit(self._function, *args))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks and all that they refer to, and never loads that; a thread cannot be pickled."""
        return {"_function": self._function}

    def __enter__(self) -> InBackground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for call in self._calls:
                call.result()


def describe_error(error: BaseException) -> str:
    """One line for a table: what a UserError says, else the last line of the exception."""
    found = user_error_in(error)
    if found is not None:
        return found.what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
