"""Scores all images of a split with one or more models, in this process or by Ray actors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.process import cpu_count
from ufgvc.core.storage import Store
from ufgvc.data.dataset import Dataset
from ufgvc.data.images import decode
from ufgvc.data.resize import resize_square
from ufgvc.data.stream import Chunk, list_chunks
from ufgvc.evaluation.settings import ScoreSettings
from ufgvc.models.calibration import check_finite
from ufgvc.models.model import LoadedModel
from ufgvc.models.score import rank_classes
from ufgvc.runtime.resources import actor_pool, choose_device
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.runtime.tasks import map_in_threads, one_task_each, run_tasks
from ufgvc.training.memory import memory_for_scores

MAX_IN_PROCESS = 2000  # images; up to here starting actors takes longer than it saves
READ_THREADS = 4  # that decode in this process, at most: each has a batch of images in memory
_Squares = dict[int, list[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Scored:
    """Scores of N images in the order of their shards.

    image_id: N ids.  label: (N,) int64.  By the name of the model: logits (N, K) float64, and out-of-distribution
    scores (N,).
    """

    image_id: list[str]
    label: NDArray[np.int64]
    logits: dict[str, NDArray[np.float64]]
    ood_score: dict[str, NDArray[np.float64]]

    def right(self) -> dict[str, NDArray[np.bool_]]:
        """(N,) whether the top-1 class is the label, by model."""
        return {name: rank_classes(logits, 1)[:, 0] == self.label for name, logits in self.logits.items()}


def score_split(
    dataset: Dataset, models: Mapping[str, LoadedModel], settings: ScoreSettings, split: str = "test"
) -> Scored:
    """Scores every image of a split once with every model. Needs a Ray session unless `scores_in_process`.

    UserError if the split is empty, or if a model has diverged. RuntimeError unless each image comes back exactly once.
    """
    tasks = list_chunks(dataset, split, None)
    expected = dataset.counts.get(split, 0)
    if not expected:
        raise UserError(f"has no {split} leaves", where=dataset.store.uri, fix="ingest a source with a test split")
    score = _score_here if scores_in_process(dataset, settings, split) else _score_by_actors
    table = pa.concat_tables(list(score(dataset.store, tasks, models, settings)))
    image_ids = table["image_id"].to_pylist()
    check_complete(image_ids, expected)
    logits = {name: np.stack(table[f"logits:{name}"].to_numpy()).astype(np.float64) for name in models}
    for name, values in logits.items():
        check_finite(values, name)
    ood_score = {name: table[f"ood_score:{name}"].to_numpy() for name in models}
    return Scored(image_ids, table["label"].to_numpy().astype(np.int64), logits, ood_score)


def scores_in_process(dataset: Dataset, settings: ScoreSettings, split: str = "test") -> bool:
    """Whether this process scores the images itself: `max_actors: 0`, or few images and no number given."""
    few = dataset.counts.get(split, 0) <= MAX_IN_PROCESS
    return settings.max_actors == 0 or (settings.max_actors is None and few)


def session_for_scores(dataset: Dataset, settings: ScoreSettings, ray: RaySettings) -> AbstractContextManager[Any]:
    """A Ray session for `score_split`, or nothing where this process scores the test images."""
    if scores_in_process(dataset, settings):
        return contextlib.nullcontext()
    return ray_session(ray, settings.gpus_to_wait_for)


def check_complete(image_ids: list[str], expected: int) -> None:
    """RuntimeError unless there are `expected` ids, all different: metrics of a part of the split would be wrong."""
    if len(image_ids) != expected or len(set(image_ids)) != expected:
        raise RuntimeError(f"scored {len(image_ids)} leaves, {len(set(image_ids))} different ones, of {expected}")


class ChunkScorer:
    """Scores chunks with all models: {"task": indices} -> a table of image_id, label, logits and ood_score."""

    def __init__(
        self, store: Store, tasks: list[Chunk], models: Any, batch_size: int, device: str, read_ahead: int = 1
    ) -> None:
        """read_ahead: batches that are decoded, a thread each, while one is scored."""
        if not isinstance(models, dict):
            import ray

            models = ray.get(models)
        self.store, self.tasks, self.batch_size, self.read_ahead = store, tasks, batch_size, read_ahead
        self.models: dict[str, LoadedModel] = {name: model.to(device) for name, model in models.items()}
        self._sides = {int(model.input["resize"]) for model in self.models.values()}

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Scores the tasks whose indices are in the batch."""
        parts = (part for index in batch["task"] for part in self._parts(self.tasks[int(index)]))
        return pa.concat_tables([self._score(*each) for each in map_in_threads(self._decode, parts, self.read_ahead)])

    def _parts(self, task: Chunk) -> Iterator[pa.Table]:
        columns = ["image_id", "image", "orientation", "label"]
        rows = read_parquet_rows(self.store, task.images, task.start, task.stop, columns)
        return (rows.slice(start, self.batch_size) for start in range(0, rows.num_rows, self.batch_size))

    def _decode(self, rows: pa.Table) -> tuple[pa.Table, _Squares]:
        """The rows, and by the side that a model takes their images (side, side, 3) uint8."""
        squares: _Squares = {side: [] for side in self._sides}
        for image, orientation in zip(rows["image"].to_pylist(), rows["orientation"].to_pylist(), strict=True):
            decoded = decode(image, orientation)
            for side, images in squares.items():
                images.append(resize_square(decoded, side))
        return rows.select(["image_id", "label"]), squares

    def _score(self, rows: pa.Table, squares: _Squares) -> pa.Table:
        for name, model in self.models.items():
            with memory_for_scores(self.batch_size, model.input, model.device):
                logits, ood_score = model.score(squares[int(model.input["resize"])], self.batch_size)
            rows = rows.append_column(f"logits:{name}", pa.array(list(logits)))
            rows = rows.append_column(f"ood_score:{name}", pa.array(ood_score))
        return rows


def _score_here(
    store: Store, tasks: list[Chunk], models: Mapping[str, LoadedModel], settings: ScoreSettings
) -> Iterator[pa.Table]:
    threads = min(READ_THREADS, cpu_count())
    device = choose_device(settings.device)
    yield ChunkScorer(store, tasks, dict(models), settings.batch_size, device, threads)({"task": range(len(tasks))})


def _score_by_actors(
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
