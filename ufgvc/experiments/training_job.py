"""One training of a benchmark: what it is, and what a process does that is given it."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ufgvc.core.process import trim_memory
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.experiments.distributed_trial import train_together
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.tracking.runs import NullRun
from ufgvc.training.held_out import look, score_held_out
from ufgvc.training.worker import train_in_process
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.progress import read_metrics
from ufgvc.training.run import save_trained
from ufgvc.training.settings import TrainSettings

RESULT, SCORED = "cell.json", "scored.parquet"
WHO = "job.json"  # whose training a folder holds, from its start on: the key in its path does not tell


@dataclass(frozen=True)
class Job:
    """plan, identity: of the training, as `train` makes them.  purpose: `rate` tries a learning rate on held-out training leaves and
    never opens the test split; `final` learns from all training leaves and scores the test leaves; `weights` only keeps its weights;
    `fold` scores the training leaves that it did not learn from, with the last epoch's weights, and never opens the test split.

    draw: place of the data set among those of the benchmark.  keep_model: whether the weights stay (for pictures and for use).
    train: for a training of several workers, how many and on what.
    """

    contestant: str
    draw: int
    seed: int
    factor: float
    purpose: Literal["rate", "final", "weights", "fold"]
    plan: WorkerConfig
    identity: Mapping[str, Any]
    keep_model: bool = False
    train: TrainSettings | None = None

    @property
    def store(self) -> Store:
        return open_store(self.plan.run)

    @property
    def name(self) -> str:
        if self.purpose == "fold":
            return f"{self.contestant}, fold {self.plan.fold + 1} of {self.plan.folds}"
        dataset = self.plan.run.split("/")[-3]
        return f"{self.contestant} on {dataset}, seed {self.seed}" + (
            f" rate x{self.factor:g}" if self.purpose == "rate" else ""
        )


def result_of(job: Job) -> dict[str, Any] | None:
    """What a finished job left; None if it has not finished."""
    store = job.store
    found = dict(store.read_json(RESULT)) if store.exists(RESULT) else None
    if found is None or found["purpose"] != job.purpose or (job.keep_model and not store.exists("model/model.json")):
        return None
    return found


def run_job(job: Job, on: str = "cpu") -> dict[str, Any]:
    """Trains, goes on with a training that was cut off, or finds the one that is finished; returns what `result_of` finds later.

    on: the device, "cpu" or "cuda".
    """
    if (found := result_of(job)) is not None:
        return found
    device = torch.device(on)
    store, dataset = job.store, open_dataset(job.plan.data)
    who = {
        "contestant": job.contestant,
        "data": dataset.name,
        "seed": job.seed,
        "purpose": job.purpose,
        "factor": job.factor,
    }
    store.write_json(WHO, who)
    several = job.train is not None and job.train.workers > 1
    state = train_together(job.plan, job.train) if several and job.train else train_in_process(job.plan, device)
    recipe = Recipe.model_validate(job.plan.recipe)
    method = build(job.plan.method, num_classes=len(dataset.classes), init="none", **job.plan.options)
    method = replace(method, recipe=recipe)
    rows = read_metrics(store)
    result: dict[str, Any] = {
        "purpose": job.purpose,
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "train_accuracy": rows[-1]["train_accuracy"],
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {job.plan.cores} threads",
    }
    if job.purpose == "rate":
        # Logits that are no numbers have their maximum at the first cultivar: a net that diverged must not win by what that hits.
        sound = all(bool(tensor.isfinite().all()) for tensor in state["net"].values())
        right = rows[-1]["validation_correct"] if sound else 0.0
        result |= {"validation_correct": right, "validation_leaves": rows[-1]["validation_leaves"]}
    if job.keep_model:
        save_trained(store, dataset, method, job.plan, job.identity, state, NullRun())
    if job.purpose in ("final", "fold"):
        method.net.load_state_dict(state["net"])
        more: dict[str, NDArray[np.float64]] = {}
        if job.purpose == "final":
            logits, labels, image_ids = score_test(method, dataset, job.plan, device)
        else:
            held = score_held_out(method, dataset, job.plan, device)
            logits, labels, image_ids, more = (
                held.logits,
                held.labels,
                held.image_ids,
                {"strangeness": held.strangeness},
            )
        store.write_bytes(SCORED, _parquet(image_ids, labels, logits, more))
        result |= {"correct": int((logits.argmax(1) == labels).sum()), "leaves": len(labels)}
    store.write_json(RESULT, result)
    store.child("checkpoints").delete_tree()  # weights are large and cells are many
    del state, method
    trim_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the process is used again, and others share the GPU
    return result


def score_test(
    method: Method, dataset: Dataset, plan: WorkerConfig, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """(logits (N, K), labels (N,), image ids) of every test leaf, once, in the order of the index."""
    index = read_index(dataset, "test")
    logits, _ = look(method, dataset, "test", plan, np.arange(index.num_rows), device)
    return logits, index["label"].to_numpy().astype(np.int64), index["image_id"].to_pylist()


def read_scored(store: Store, image_ids: list[str], column: str = "logits") -> NDArray[np.float64]:
    """Logits (N, K), or strangeness (N,), that a job left, in the order of `image_ids`. RuntimeError unless of just these leaves."""
    table = pq.read_table(io.BytesIO(store.read_bytes(SCORED)))
    place = {image_id: row for row, image_id in enumerate(table["image_id"].to_pylist())}
    if place.keys() != set(image_ids):
        raise RuntimeError(f"{store.uri}/{SCORED} does not hold the scores of these {len(image_ids)} leaves")
    return np.stack(table[column].to_numpy())[[place[image_id] for image_id in image_ids]].astype(np.float64)


def _parquet(
    image_ids: list[str], labels: NDArray[np.int64], logits: NDArray[np.float32], more: Mapping[str, Any]
) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"image_id": image_ids, "label": labels, "logits": pa.array(list(logits)), **more})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
