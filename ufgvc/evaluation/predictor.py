"""Predictors: from paths of photographs to a table of predictions, in this process or in Ray actors."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from ufgvc.core.errors import UnreadableFile
from ufgvc.core.process import keep_freed_memory
from ufgvc.core.storage import Store
from ufgvc.data.images import BadImage, decode_photograph
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.methods.plugins import package_of
from ufgvc.models.model import LoadedModel
from ufgvc.runtime.resources import TorchDevice, actor_pool
from ufgvc.runtime.tasks import configure_ray_data, map_in_threads, run_tasks
from ufgvc.training.memory import memory_for_scores

READ_THREADS = 8  # that wait for storage, or decode
MOST_PARTS = 4  # of a batch at the same time; with more of them, threads wait for Python
MIN_PART = 4  # photographs; in smaller parts the fixed cost of each layer counts

_COLUMNS = {
    "known": pa.bool_(),
    "ood_score": pa.float64(),
    "relative_length": pa.float64(),
    "classes": pa.list_(pa.int32()),
    "probabilities": pa.list_(pa.float64()),
    "neighbours": pa.list_(pa.int32()),
    "distances": pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class Photograph:
    """image: (resize, resize, 3) uint8; None if it could not be read, and then the reason."""

    path: str
    image: NDArray[np.uint8] | None
    reason: str


class Predictor:
    """Predicts batches of photographs. One that cannot be read gets a reason instead of a prediction.

    model: or, for an actor, Ray's reference to it.
    """

    def __init__(self, store: Store, model: Any, top: int, device: str) -> None:
        if not isinstance(model, LoadedModel):
            import ray

            model = ray.get(model)
            keep_freed_memory()
        self.store, self.top = store, top
        self.model: LoadedModel = model.to(device)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """The predictions of {"path": (B,)}, see `score`."""
        return self.score(self.read([str(path) for path in batch["path"]]))

    def read(self, paths: list[str], map_paths: Callable[..., Any] = map) -> list[Photograph]:
        """Reads and decodes photographs.  map_paths: `map`, or that of a pool of threads."""
        return list(map_paths(self._read, paths))

    def score(self, photographs: list[Photograph]) -> pa.Table:
        """A row for each photograph: path, reason ("" if it was read), known, ood_score, relative_length, and lists:
        classes and their probabilities, neighbours (indices into the model's training leaves) and their distances.
        """
        paths, reasons = [each.path for each in photographs], [each.reason for each in photographs]
        images = [each.image for each in photographs if each.image is not None]
        with memory_for_scores(len(images), self.model.input, self.model.device):
            logits, ood_score, features = self.model.score_with_features(images, max(1, len(images)))
        order, probabilities = self.model.top_k(logits, self.top)
        nearest: list[list[int]] = [[]] * len(logits)
        distances: list[list[float]] = [[]] * len(logits)
        if self.model.leaves is not None and features is not None:
            nearest, distances = (found.tolist() for found in self.model.leaves.nearest(features))
        known = self.model.is_known(ood_score).tolist()
        lengths = self.model.relative_lengths(features, len(logits))
        scores = (known, ood_score.tolist(), lengths, order.tolist(), probabilities.tolist(), nearest, distances)
        read = zip(*scores, strict=True)
        rows = [(False, 0.0, None, [], [], [], []) if reason else next(read) for reason in reasons]
        columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
        arrays = {name: pa.array(values, _COLUMNS[name]) for name, values in columns.items()}
        return pa.table({"path": pa.array(paths, pa.string()), "reason": pa.array(reasons, pa.string()), **arrays})

    def _read(self, path: str) -> Photograph:
        try:
            encoded = self.store.read_bytes(path)
            return Photograph(path, self.model.resize(decode_photograph(encoded)), "")
        except BadImage as error:
            return Photograph(path, None, error.reason)
        except FileNotFoundError:
            return Photograph(path, None, "was deleted since the folder was listed")
        except UnreadableFile as error:
            return Photograph(path, None, error.what)


def predict_in_threads(
    store: Store, names: list[str], model: LoadedModel, settings: PredictSettings, device: TorchDevice
) -> Iterator[pa.Table]:
    """The predictions of photographs in this process, see `Predictor.score`, in their order.

    While some are scored, the next ones are read, and those before written. On CPUs the parts of a batch are scored at
    the same time, each by some of the cores: fewer cores in one layer wait less for each other and for the readers.
    """
    cores, batch_size = torch.get_num_threads(), min(settings.batch_size, len(names))
    predictor = Predictor(store, model, settings.top, device)
    parts = 1
    if device == "cpu" and not model.exported and package_of(model.method.name) is None:
        parts = max(1, min(MOST_PARTS, cores, batch_size // MIN_PART))
    free: SimpleQueue[tuple[Predictor, int]] = SimpleQueue()
    for part in range(parts):  # the last ones take the cores that do not divide evenly
        copied = predictor if part == 0 else Predictor(store, share_weights(model), settings.top, device)
        free.put((copied, (cores + part) // parts))

    own = threading.local()

    def score(photographs: list[Photograph]) -> pa.Table:
        if not hasattr(own, "predictor"):
            own.predictor, share = free.get()
            torch.set_num_threads(share)  # of this thread
        table: pa.Table = own.predictor.score(photographs)
        return table

    size = -(-batch_size // parts)
    batches = (names[start : start + size] for start in range(0, len(names), size))
    try:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            read = map_in_threads(lambda paths: predictor.read(paths, pool.map), batches, threads=1)
            yield from map_in_threads(score, read, threads=parts)
    finally:
        torch.set_num_threads(cores)  # of this thread, and of those that start from now on


def share_weights(model: LoadedModel) -> LoadedModel:
    """A copy of the model for another thread. Its network has the same weights in memory and a state of its own: some
    networks keep maps of a forward pass.
    """
    net = model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    shared: dict[int, Any] = {id(each): nn.Parameter(each.detach(), each.requires_grad) for each in net.parameters()}
    shared |= {id(each): each.detach() for each in net.buffers()}
    return replace(model, method=replace(model.method, net=copy.deepcopy(net, shared)))


def predict_by_actors(
    store: Store, names: list[str], model: LoadedModel, settings: PredictSettings, can_use_gpu: bool
) -> Iterator[pa.Table]:
    """The predictions of photographs by Ray actors, see `Predictor.score`, in their order. Inside of a Ray session."""
    import ray

    configure_ray_data()
    batches = -(-len(names) // settings.batch_size)
    pool = actor_pool(settings, batches, can_use_gpu=can_use_gpu)
    rows = ray.data.from_arrow(pa.table({"path": names})).repartition(min(batches, 4 * pool.max_actors))
    predicted = rows.map_batches(
        Predictor,
        fn_constructor_args=(store, ray.put(model.to("cpu")), settings.top, pool.device),
        batch_size=settings.batch_size,
        **pool.options,
    )
    return run_tasks(predicted.iter_batches(batch_size=None, batch_format="pyarrow"))
