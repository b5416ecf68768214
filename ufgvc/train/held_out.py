"""The training leaves that a training did not learn from, scored by what it has become."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ufgvc.data.shards import Dataset, read_index
from ufgvc.methods.method import Method
from ufgvc.train.feed import Plan, make_feed
from ufgvc.train.steps import eval_step


def score_held_out(
    method: Method, dataset: Dataset, plan: Plan, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """(logits (N, K), labels (N,), image ids) of the leaves that the plan holds out of the training split, each once.

    method: with the recipe of the plan, and the weights to score.  RuntimeError for logits that are not finite.
    """
    assert plan.validation in ("holdout", "kfold")
    index = read_index(dataset, "train")
    feed = make_feed(plan, method.recipe, dataset, index, 0, 1, device)
    net = method.net.to(device).to(memory_format=torch.channels_last).eval()
    logits = np.concatenate([eval_step(method, net, images, plan.precision).cpu().numpy() for images, _ in feed.validation()])
    if not np.isfinite(logits).all():
        raise RuntimeError(f"training diverged: no numbers for {int((~np.isfinite(logits)).any(1).sum())} of {len(logits)} held-out leaves")
    names = index["image_id"].to_pylist()
    return logits, feed.held_labels[feed.held_at], [names[place] for place in feed.held_at]
