"""Time and memory of fitting a probe's classifier to many embeddings: `python -m tests.many_embeddings 100000 FOLDER`.

docs/results/real.md has figures. The embeddings are drawn: a mean of each cultivar, and noise.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ufgvc.core.storage import open_store
from ufgvc.data.splits import assign_folds
from ufgvc.data.stream import ROWS_PER_CHUNK, Chunk
from ufgvc.training.ddp import Ranks
from ufgvc.training.embedding_shards import EmbeddingShards
from ufgvc.training.embeddings import Embeddings
from ufgvc.training.fit import fit_classifier

WIDTH, CULTIVARS, NOISE = 2400, 10, 15.0


def write_shards(folder: Path, labels: np.ndarray) -> EmbeddingShards:
    """One view (1, WIDTH) of each leaf."""
    starts = range(0, len(labels), ROWS_PER_CHUNK)
    chunks = [Chunk("", None, at, min(at + ROWS_PER_CHUNK, len(labels)), at) for at in starts]
    shards = EmbeddingShards(open_store(folder), folder, tuple(chunks), 448)
    means = np.random.default_rng(0).normal(0, 1, (CULTIVARS, 1, WIDTH))
    for chunk in shards.missing(chunks):
        here = labels[chunk.start : chunk.stop]
        noise = np.random.default_rng(chunk.start).normal(0, NOISE, (len(here), 1, WIDTH))
        shards.write(chunk.position, (means[here] + noise).astype(np.float32))
    return shards


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int, folder: Path) -> None:
    labels = np.arange(count) % CULTIVARS
    shards = write_shards(folder, labels)
    before, started, busy = peak_mib(), time.monotonic(), time.process_time()
    places = np.arange(count)
    found = Embeddings(shards.fetch(shards.chunks), labels, places, places)
    folds = assign_folds(labels, [None] * count, 5, 0)
    fitted = fit_classifier(found, folds, CULTIVARS, Ranks(0, 1, torch.device("cpu")))
    seconds, size = time.monotonic() - started, sum(path.stat().st_size for path in folder.glob("*.npy")) / 2**20
    print(f"{count} rows of {WIDTH} in {len(shards.chunks)} shards, {size:.0f} MiB, {CULTIVARS} cultivars")
    print(f"fit in {seconds:.0f} s ({time.process_time() - busy:.0f} s of a core), C = {fitted.strength:g}")
    print(f"held out right: {fitted.held_out}; peak memory {peak_mib():.0f} MiB, {before:.0f} before the fit")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
