"""Every test leaf through every model, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, read_parquet_rows
from ufgvc.data.dataset import Dataset
from ufgvc.data.images import decode
from ufgvc.data.stream import Chunk, list_chunks
from ufgvc.evaluation.settings import ScoreSettings
from ufgvc.models.calibration import check_finite
from ufgvc.models.model import LoadedModel
from ufgvc.runtime.resources import actor_pool, choose_device
from ufgvc.runtime.tasks import one_task_each, run_tasks
from ufgvc.training.memory import memory_for_scores

IN_PROCESS = 2000  # leaves up to which starting actors costs more than it saves


@dataclass(frozen=True)
class Scored:
    """N leaves in part order: image_id (N,), label (N,) int64, logits {model: (N, K) float64}, ood_score {model: (N,)}."""

    image_id: list[str]
    label: NDArray[np.int64]
    logits: dict[str, NDArray[np.float64]]
    ood_score: dict[str, NDArray[np.float64]]


def score_split(
    dataset: Dataset, models: Mapping[str, LoadedModel], settings: ScoreSettings, split: str = "test"
) -> Scored:
    """Logits of every model for every leaf of a split. RuntimeError unless each leaf comes back exactly once."""
    tasks = list_chunks(dataset, split, None)
    expected = dataset.counts.get(split, 0)
    if not expected:
        raise UserError(f"has no {split} leaves", where=dataset.store.uri, fix="ingest a source with a test split")
    tables = (
        _here(dataset.store, tasks, models, settings)
        if runs_here(dataset, settings, split)
        else _by_actors(dataset.store, tasks, models, settings)
    )
    whole = pa.concat_tables(list(tables))
    check_complete(whole["image_id"].to_pylist(), expected)
    columns = {name: np.stack(whole[f"logits:{name}"].to_numpy()).astype(np.float64) for name in models}
    for name, logits in columns.items():
        check_finite(logits, name)
    strange = {name: whole[f"ood_score:{name}"].to_numpy() for name in models}
    return Scored(whole["image_id"].to_pylist(), whole["label"].to_numpy().astype(np.int64), columns, strange)


def runs_here(dataset: Dataset, settings: ScoreSettings, split: str = "test") -> bool:
    """Whether this process scores the leaves itself: few leaves are done before actors have started."""
    return settings.max_actors == 0 or (settings.max_actors is None and dataset.counts.get(split, 0) <= IN_PROCESS)


def check_complete(image_ids: list[str], expected: int) -> None:
    """RuntimeError unless every leaf was scored, and once: a partial score is not a score."""
    if len(image_ids) != expected or len(set(image_ids)) != expected:
        raise RuntimeError(f"scored {len(image_ids)} leaves, {len(set(image_ids))} different ones, of {expected}")


class ChunkScorer:
    """Holds the models; called with {"task": indices} it gives one Arrow table of image_id, label and logits."""

    def __init__(self, store: Store, tasks: list[Chunk], models: Any, batch_size: int, device: str) -> None:
        if not isinstance(models, dict):
            import ray

            models = ray.get(models)
        self.store, self.tasks, self.batch_size = store, tasks, batch_size
        self.models: dict[str, LoadedModel] = {name: model.to(device) for name, model in models.items()}

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        return pa.concat_tables([self._score(self.tasks[int(index)]) for index in batch["task"]])

    def _score(self, task: Chunk) -> pa.Table:
        rows = read_parquet_rows(
            self.store, task.images, task.start, task.stop, ["image_id", "image", "orientation", "label"]
        )
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.models}
        strange: dict[str, list[np.ndarray]] = {name: [] for name in self.models}
        for start in range(0, rows.num_rows, self.batch_size):
            part = rows.slice(start, self.batch_size)
            turns = part["orientation"].to_pylist()
            images = [decode(image, turn) for image, turn in zip(part["image"].to_pylist(), turns, strict=True)]
            for name, model in self.models.items():
                with memory_for_scores(self.batch_size, model.input, model.device):
                    logits, ood_score = model.score(images, self.batch_size)
                found[name].append(logits)
                strange[name].append(ood_score)
        columns = {f"logits:{name}": pa.array(list(np.concatenate(value))) for name, value in found.items()}
        columns |= {f"ood_score:{name}": pa.array(np.concatenate(value)) for name, value in strange.items()}
        return pa.table({"image_id": rows["image_id"], "label": rows["label"], **columns})


def _here(
    store: Store, tasks: list[Chunk], models: Mapping[str, LoadedModel], settings: ScoreSettings
) -> Iterator[pa.Table]:
    scorer = ChunkScorer(store, tasks, dict(models), settings.batch_size, choose_device(settings.device))
    return (scorer({"task": [index]}) for index in range(len(tasks)))


def _by_actors(
    store: Store, tasks: list[Chunk], models: Mapping[str, LoadedModel], settings: ScoreSettings
) -> Iterator[pa.Table]:
    import ray

    pool = actor_pool(settings, len(tasks))
    scored = one_task_each([{"task": index} for index in range(len(tasks))]).map_batches(
        ChunkScorer,
        fn_constructor_args=(store, tasks, ray.put(dict(models)), settings.batch_size, pool.device),
        batch_size=1,
        **pool.options,
    )
    return run_tasks(scored.iter_batches(batch_size=None, batch_format="pyarrow"))
