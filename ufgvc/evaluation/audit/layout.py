"""A map of leaves in two dimensions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

MOST = 2000  # leaves on the map: a page with more is slow
COMPONENTS, PERPLEXITY, LEAST = 50, 30, 8


def lay_out(features: NDArray[np.float64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(M,) indices of at most MOST leaves, a random sample if there are more, and their places (M, 2) in [0, 1].

    features: (N, r) principal components, the largest first. By t-SNE (van der Maaten and Hinton 2008): near leaves are
    alike; distances between distant groups mean nothing. Fewer than LEAST leaves: the first two components.
    """
    count = len(features)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:MOST])
    found = features[chosen, :COMPONENTS].astype(np.float64)
    if count < LEAST or found.shape[1] < 2:
        places = np.pad(found[:, :2], [(0, 0), (0, max(0, 2 - found.shape[1]))])
    else:
        perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(found)
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    return chosen, (places - low) / np.where(span > 0, span, 1)
