"""Training jobs: the single trainings of a benchmark, a pretraining, a calibration and the end of a search."""

from __future__ import annotations

import io
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.runner import InBackground, run
from ufgvc.experiments.trial_progress import TrialProgress
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.tracking.runs import NullRun
from ufgvc.training.held_out import score_held_out, score_indices
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.saved_model import save_trained
from ufgvc.training.settings import WorkerConfig

log = logging.getLogger(__name__)
_WHAT = {
    "lr_search": "trainings that choose learning rates",
    "fold": "trainings of folds",
    "final": "trainings",
    "pretrain": "trainings of initial weights",
}
JOB, RESULT, SCORES = "job.json", "result.json", "scores.parquet"


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    variant: what is trained: the key of a MethodVariant, an architecture, or the label of a setting.
    dataset_index: of its data set among those of the benchmark.  lr_factor: multiple of the published learning rate.
    purpose: `lr_search` trains on a part of the training leaves and validates on the rest; `fold` scores the leaves of
    its fold with the weights of the last epoch; `final` trains on all training leaves and scores the test leaves (or
    those of `config.held_fold`), which no other purpose reads; `pretrain` only saves its weights.
    config, identity: of the training, as `training.run.make_worker_config` returns them.
    save_model: whether <run>/model is written.
    """

    variant: str
    dataset_index: int
    seed: int
    lr_factor: float
    purpose: Literal["lr_search", "final", "pretrain", "fold"]
    config: WorkerConfig
    identity: Mapping[str, Any]
    save_model: bool = False

    @property
    def store(self) -> Store:
        """The folder of the run."""
        return open_store(self.config.run)

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The initial learning rate of the last stage; none of a classifier that is fitted."""
        recipe = Recipe.model_validate(self.config.recipe)
        return () if recipe.classifier_fit else (recipe.stages[-1].lr,)

    def share_done(self) -> float:
        """How many of its epochs have ended, in [0, 1]."""
        return len(read_metrics(self.store)) / max(1, Recipe.model_validate(self.config.recipe).epochs)

    @property
    def name(self) -> str:
        """The job in log lines and on MLflow."""
        if self.purpose == "fold":
            return f"{self.variant}, fold {(self.config.train.fold or 0) + 1} of {self.config.train.folds}"
        dataset = self.config.run.split("/")[-3]
        factor = f" learning rate x{self.lr_factor:g}" if self.purpose == "lr_search" else ""
        held = self.config.held_fold
        fold = "" if held is None else f", fold {held.fold + 1} of {held.folds}"
        return f"{self.variant} on {dataset}, seed {self.seed}{fold}{factor}"


@dataclass(frozen=True)
class JobOutcome:
    """result: what `run_job` returned; None if the job failed.  error: the reason of a failure."""

    job: TrainingJob
    result: dict[str, Any] | None
    error: str | None = None

    def summary(self) -> str:
        """One line for the terminal."""
        if self.result is None:
            return f"{self.job.name}: failed: {self.error}"
        result = self.result
        if "correct" in result:
            out_of_fold = result["purpose"] == "fold" or self.job.config.held_fold is not None
            leaves = "held-out" if out_of_fold else "test"
            score = f"{result['correct']} of {result['leaves']} {leaves} leaves"
        elif "validation_correct" in result:
            score = f"{result['validation_correct']:.0f} of {result['validation_leaves']:.0f} held-out leaves"
        else:
            score = f"train accuracy {100 * result['train_accuracy']:.1f} %"
        return f"{self.job.name}: {score} ({result['seconds']:.0f} s)"


def run_jobs(
    jobs: Sequence[TrainingJob],
    resources: TrialResources,
    scratch: Store,
    max_failures: int,
    on_outcome: Callable[[JobOutcome], None],
) -> list[JobOutcome]:
    """Runs the jobs that have no result yet and returns the outcomes of all, in order. Inside a Ray session.

    scratch: a folder for the files of Tune, deleted at the end.
    max_failures: how often the lost process of a job is replaced.
    on_outcome: called on a thread with every outcome, also those of an earlier start, which may have been stopped
    before its call.
    """
    outcomes = {index: JobOutcome(job, found) for index, job in enumerate(jobs) if (found := load_result(job))}
    waiting = [index for index in range(len(jobs)) if index not in outcomes]
    if outcomes:
        log.info("%d of %d trainings were finished before", len(outcomes), len(jobs))

    def execute(index: int) -> None:
        job = jobs[index]
        # The processes of trials without a GPU may see one all the same, so the resources decide.
        run_job(replace(job, config=replace(job.config, cores=resources.threads)), resources.device)

    with InBackground(on_outcome) as record:
        for outcome in outcomes.values():
            outcome.job.store.child("checkpoints").delete_tree()  # a kill may have come between its result and this
            record(outcome)

        def on_end(index: int, error: str | None) -> str:
            result = load_result(jobs[index])  # it counts even if the process was lost afterwards
            reason = (error or "it ended without a result in the runs folder") if result is None else None
            outcomes[index] = JobOutcome(jobs[index], result, reason)
            record(outcomes[index])
            return outcomes[index].summary()

        if waiting:
            what = _WHAT[jobs[waiting[0]].purpose]
            progress = TrialProgress(what, len(waiting), len(outcomes), lambda index: jobs[index].share_done())
            run(
                waiting,
                execute,
                on_end,
                lambda index: jobs[index].store,
                resources,
                scratch,
                max_failures,
                progress=progress,
            )
    for index in waiting:
        if index not in outcomes:
            raise RuntimeError(f"{jobs[index].name}: Ray Tune finished without an end of this trial")
    return [outcomes[index] for index in range(len(jobs))]


def check_outcomes(outcomes: Sequence[JobOutcome], kind: str) -> None:
    """UserError, with the reasons, if any job failed.  kind: what the message calls the jobs, in the plural."""
    failed = [f"{outcome.job.name}: {outcome.error}" for outcome in outcomes if outcome.result is None]
    if failed:
        what = f"{len(failed)} of {len(outcomes)} {kind} failed: {'; '.join(failed)}"
        raise UserError(what, fix="fix the cause; the same command tries only these again")


def load_result(job: TrainingJob) -> dict[str, Any] | None:
    """What `run_job` returned in an earlier call; None if the job has not finished."""
    store = job.store
    found = dict(store.read_json(RESULT)) if store.exists(RESULT) else None
    if found is None or found["purpose"] != job.purpose or (job.save_model and not store.exists("model/model.json")):
        return None
    return found


def run_job(job: TrainingJob, on: str = "cpu") -> dict[str, Any]:
    """Trains, or resumes a training, scores what the purpose says, and writes and returns the result.

    on: the device, "cpu" or "cuda".
    Returns seconds, images_per_second (training images), train_accuracy in [0, 1], machine, and by purpose
    validation_correct and validation_leaves, or correct and leaves.
    """
    if (found := load_result(job)) is not None:
        return found
    device = torch.device(on)
    store, dataset = job.store, job.config.open_dataset()
    description = {"variant": job.variant, "data": dataset.name, "seed": job.seed, "purpose": job.purpose}
    held = job.config.held_fold
    fold = {} if held is None else {"fold": held.fold, "folds": held.folds}
    store.write_json(JOB, description | {"lr_factor": job.lr_factor} | fold)  # the key in the path does not say it
    if job.config.train.workers > 1:
        from ufgvc.experiments.distributed_trial import train_distributed  # imports Ray Train

        state = train_distributed(job.config)
    else:
        state = train_in_process(job.config, device)
    if device.type == "cpu":
        torch.set_num_threads(job.config.cores)  # an actor of Ray begins with one
    method = build(job.config.method, num_classes=len(dataset.classes), init="none", **job.config.options)
    method = replace(method, recipe=Recipe.model_validate(job.config.recipe))
    rows = read_metrics(store)
    result: dict[str, Any] = {
        "purpose": job.purpose,
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "train_accuracy": rows[-1]["train_accuracy"],
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {job.config.cores} threads",
    }
    if job.purpose == "lr_search":
        # NaN logits have their maximum at class 0: a network that diverged must not win by the leaves of that class.
        finite = all(bool(tensor.isfinite().all()) for tensor in state["net"].values())
        correct = rows[-1]["validation_correct"] if finite else 0.0
        result |= {"validation_correct": correct, "validation_leaves": rows[-1]["validation_leaves"]}
    if job.save_model:
        save_trained(store, dataset, method, job.config, job.identity, state, NullRun())
    if job.purpose in ("final", "fold"):
        method.net.load_state_dict(state["net"])
        result |= _score(job, method, dataset, device)
    store.write_json(RESULT, result)
    store.child("checkpoints").delete_tree()  # weights are large, and jobs are many
    return result


def _score(job: TrainingJob, method: Method, dataset: Dataset, device: torch.device) -> dict[str, int]:
    """Writes the scores of the leaves that the purpose scores; {"correct", "leaves"}."""
    columns: dict[str, NDArray[np.float64]] = {}
    if job.purpose == "final":
        logits, labels, image_ids = score_test(method, dataset, job.config, device)
    else:
        held = score_held_out(method, dataset, job.config, device)
        logits, labels, image_ids, columns = held.logits, held.labels, held.image_ids, {"ood_score": held.ood_score}
    buffer = io.BytesIO()
    table = pa.table({"image_id": image_ids, "label": labels, "logits": pa.array(list(logits)), **columns})
    pq.write_table(table, buffer, compression="zstd")
    job.store.write_bytes(SCORES, buffer.getvalue())
    return {"correct": int((logits.argmax(1) == labels).sum()), "leaves": len(labels)}


def score_test(
    method: Method, dataset: Dataset, config: WorkerConfig, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """(logits (N, K), labels (N,), image ids) of every test leaf, or of every leaf of `config.held_fold`, in the order
    of the index.

    dataset: of `config.open_dataset`.
    """
    split = "test" if config.held_fold is None else config.split
    index = read_index(dataset, split)
    labels, rows = index["label"].to_numpy().astype(np.int64), np.arange(index.num_rows)
    if config.held_fold is not None:
        _, rows = config.held_fold.indices(labels, index["group"].to_pylist())
    logits, _ = score_indices(method, dataset, split, config, rows, device)
    return logits, labels[rows], index["image_id"].take(rows).to_pylist()


def read_scores(store: Store, image_ids: list[str], column: str = "logits") -> NDArray[np.float64]:
    """Logits (N, K), or another column (N,), that a job wrote, in the order of `image_ids`.

    RuntimeError if it scored other images.
    """
    scored, values = read_all_scores(store, column)
    rows = {image_id: row for row, image_id in enumerate(scored)}
    if rows.keys() != set(image_ids):
        raise RuntimeError(f"{store.uri}/{SCORES} does not hold the scores of these {len(image_ids)} leaves")
    return values[[rows[image_id] for image_id in image_ids]]


def read_all_scores(store: Store, column: str = "logits") -> tuple[list[str], NDArray[np.float64]]:
    """(N image ids, logits (N, K) or another column (N,)) that a job wrote."""
    table = pq.read_table(io.BytesIO(store.read_bytes(SCORES)))
    return table["image_id"].to_pylist(), np.stack(table[column].to_numpy()).astype(np.float64)
