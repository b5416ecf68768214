"""Embeds a split before the training workers start: Ray Data decodes it, actors with the network write shards."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ufgvc.core.process import keep_freed_memory
from ufgvc.core.text import format_duration
from ufgvc.data.stream import decode_chunks
from ufgvc.methods import build
from ufgvc.methods.backbones import memory_format
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.runtime.resources import ActorSettings, actor_pool
from ufgvc.runtime.session import uses_cluster
from ufgvc.runtime.tasks import run_tasks
from ufgvc.training.embedding_shards import EmbeddingShards
from ufgvc.training.embeddings import embed_images
from ufgvc.training.frozen import fastest_form
from ufgvc.training.settings import WorkerConfig

log = logging.getLogger(__name__)
MAX_IN_WORKERS = 1000  # images; up to here the workers embed them sooner than actors would start
LINES = 20  # of progress, at most


def embed_split(config: WorkerConfig) -> bool:
    """Embeds the images of the training split that have no shard yet, with an actor pool. Needs a Ray session.

    Returns whether there was anything to do for actors. Up to MAX_IN_WORKERS images are left to the workers, which
    embed their own (`embed_training_images`), and so are those of a network that finds regions: its finder is fitted to
    masks by the workers first, and is part of the network.
    UserError for a photograph or a disk that cannot be read or written; RuntimeError unless each image comes back once.
    """
    recipe = Recipe.model_validate(config.recipe)
    if not recipe.classifier_fit or config.mask_kind is not None:
        return False
    dataset = config.open_dataset()
    if dataset.counts[config.split] <= MAX_IN_WORKERS:
        return False  # before the network is built, which takes a second that small trainings need not wait
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # as the workers do, for random weights
        method = build(config.method, num_classes=len(dataset.classes), init=config.train.init, **config.options)
    method = replace(method, recipe=recipe)
    shards = EmbeddingShards.of(config, method)
    missing = shards.missing(shards.chunks)
    count, started = sum(map(len, missing)), time.monotonic()
    if count <= MAX_IN_WORKERS:
        return False
    import ray

    pool = actor_pool(ActorSettings(device=config.train.device), len(missing))
    log.info("embed: %d leaves, up to %d actors on %s", count, pool.max_actors, pool.device)
    if not uses_cluster(None):  # whose nodes may lack the packages
        method = fastest_form(method, dataset.counts[config.split], pool.device)
    embedded = decode_chunks(dataset.store, missing, shards.side).map_batches(
        ShardEmbedder,
        fn_constructor_args=(ray.put(method), shards, pool.device),
        batch_size=None,
        **pool.options,
    )
    seen: Counter[int] = Counter()
    for number, row in enumerate(run_tasks(embedded.iter_rows()), start=1):
        seen[int(row["position"])] += int(row["rows"])
        if number * LINES // len(missing) > (number - 1) * LINES // len(missing):
            log.info("embed: %d of %d leaves", seen.total(), count)
    if seen != {chunk.position: len(chunk) for chunk in missing} or shards.missing(shards.chunks):
        raise RuntimeError(f"{shards.store.uri}: embedded {seen.total()} of {count} leaves")
    seconds = time.monotonic() - started
    log.info("embed: %d leaves in %s, %.1f a second", count, format_duration(seconds), count / seconds)
    return True


class ShardEmbedder:
    """Embeds decoded chunks and writes their shards; an actor for `map_batches` of a Ray Dataset.

    method: Ray's reference to the method, with its frozen weights.
    """

    def __init__(self, method: Any, shards: EmbeddingShards, device: str) -> None:
        import ray

        if device == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        self.method: Method = ray.get(method)
        self.shards, self.device = shards, torch.device(device)
        self.method.net.to(self.device).to(memory_format=memory_format(self.method.net, self.device))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{"position": (n,), "image": (n, R, R, 3)} of one chunk -> its first position and number of rows."""
        position = int(batch["position"][0])
        self.shards.write(position, embed_images(self.method, batch["image"], self.device))
        return {"position": np.array([position]), "rows": np.array([len(batch["image"])])}
