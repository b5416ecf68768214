"""Fits the linear classifier of a probe: multinomial logistic regression on embeddings, its strength by validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ufgvc.data.splits import assign_folds
from ufgvc.methods.method import Method
from ufgvc.models.calibration import fit_temperature
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings, embed_training_images
from ufgvc.training.fit_regions import fit_regions
from ufgvc.training.loader import BatchLoader
from ufgvc.training.logistic import Bools, LogisticRegression, Scores

log = logging.getLogger(__name__)
# Inverse strength of the L2 penalty, as scikit-learn's C. On grape5 and grape29 0.1 to 10 do about as well.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
DEFAULT_STRENGTH = 1.0  # where nothing can be held out: one leaf (or plant) of each cultivar
FOLDS = 5
ONE_FOLD_ABOVE = 20_000  # images: with so many, one held-out fold decides
TOGETHER = 256  # cultivars times folds that are fitted in one: more would take memory and save no time
RISES = 2  # after so many weaker penalties with more loss none is tried: on noise these take most of the time
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A classifier on standardised embeddings.  weight: (K, D).  bias: (K,).  mean, scale: (D,) of the embeddings.

    loss, right: sum of the cross-entropies, and number right, of the training images.
    strength: the chosen C.  held_out: (number right, number) of the folds that chose it; None: a default was used.
    temperature: fitted to the logits of these, each by the classifier that was not fitted on its fold; None without
    folds, and if all are right, which would make the temperature as small as it can be.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    loss: float
    right: int
    strength: float
    held_out: tuple[int, int] | None
    temperature: float | None = None


def fit_epoch(method: Method, loader: BatchLoader, ranks: Ranks, seed: int) -> dict[str, float]:
    """Fits the classifier of a probe on the loader's training images and puts it into the net; the metrics' row.

    Metrics: loss and accuracy on the training images, strength (C), and held_out_accuracy, held_out_leaves and
    temperature (see `Fitted`) if folds chose it; images_per_second is the rate of the embedding, or of looking it up
    where the actors of `embed_split` or an earlier training did it.
    A cultivar without training images is never named: nothing holds its bias, which falls until the fit has converged.
    """
    started = time.monotonic()
    overwrite(method.net, mean=0.0, scale=1.0)
    if method.regions:
        fit_regions(method, loader, ranks)
    found = embed_training_images(method, loader, ranks)
    seconds = time.monotonic() - started
    fitted = fit_classifier(found, choose_folds(found, loader, seed), method.num_classes, ranks)
    overwrite(method.net, mean=fitted.mean, scale=fitted.scale)
    overwrite(method.net.get_submodule("classifier"), weight=fitted.weight, bias=fitted.bias)
    count = loader.num_train
    row = {
        "train_accuracy": fitted.right / count,
        "learning_rate": 0.0,
        "loss_classification": fitted.loss / count,
        "loss": fitted.loss / count,
        "images_per_second": count / seconds,
        "data_wait": 0.0,
        "strength": fitted.strength,
    }
    if fitted.held_out is None:
        log.warning(
            "each cultivar has one training leaf (or plant): C = %g was not chosen on held-out leaves", fitted.strength
        )
        return row
    right, held = fitted.held_out
    row |= {"held_out_accuracy": right / held, "held_out_leaves": float(held)}
    return row if fitted.temperature is None else row | {"temperature": fitted.temperature}


def choose_folds(found: Embeddings, loader: BatchLoader, seed: int) -> Ints | None:
    """The fold (N,) of each image of `found`, grouped as the leaves are, -1 for those that always train; None: no fold
    holds any.
    """
    folds = np.full(int(loader.train_indices.max()) + 1, -1)
    folds[loader.train_indices] = assign_folds(loader.train_labels, loader.train_groups, FOLDS, seed)
    return folds[found.positions] if (folds >= 0).any() else None


def overwrite(module: nn.Module, **values: Tensor | float) -> None:
    """Overwrites parameters and buffers."""
    with torch.no_grad():
        for name, value in values.items():
            tensor = getattr(module, name)
            tensor.copy_(torch.as_tensor(value).expand(tensor.shape))


def fit_classifier(
    found: Embeddings,
    folds: Ints | None,
    num_classes: int,
    ranks: Ranks,
    strengths: tuple[float, ...] = STRENGTHS,
    intercept: bool = True,
) -> Fitted:
    """Fits the classifier; the strength of its penalty has the smallest log-loss on held-out images.

    Strengths are tried in turn, roughly, until the loss has risen for good (`RISES`). The weights change by about as
    much from each to the next, so each starts from where the two before it lead.

    found: of this rank; the sums of all ranks decide, so every rank returns the same.
    folds: (N,) fold of each image of `found`, -1 for those that always train; None: the default strength is used.
    intercept: False for a layer without a bias: `bias` and `mean` are 0, so the embeddings are scaled, not centred.
    """
    problem = LogisticRegression(found, num_classes, ranks, intercept)
    if folds is None:
        return _fitted(problem, DEFAULT_STRENGTH, None)
    held = np.stack([folds == fold for fold in range(1 if problem.count > ONE_FOLD_ABOVE else FOLDS)])
    counts = ranks.sum(torch.from_numpy(held.sum(axis=1)).double().to(ranks.device)).cpu().numpy()
    held = held[counts > 0]  # else no cultivar has so many plants
    parts = np.array_split(held, min(len(held), -(-len(held) * num_classes // TOGETHER)))
    starts: Sequence[Tensor | None] = [None] * len(parts)
    before: Sequence[Tensor | float] = [0.0] * len(parts)
    least, rises = np.inf, 0
    for strength in strengths:
        rough = [problem.solve(~part, strength, start, rough=True) for part, start in zip(parts, starts, strict=True)]
        loss, rises = sum(each.loss for each in _held_out(problem, held, rough)), rises + 1
        if loss < least:
            least, rises, best, near = loss, 0, strength, rough
        if rises == RISES:
            break
        starts, before = [2 * now - last for now, last in zip(rough, before, strict=True)], rough
    solved = [problem.solve(~part, best, start) for part, start in zip(parts, near, strict=True)]
    chosen = _held_out(problem, held, solved)
    fitted = _fitted(problem, best, torch.cat(solved).mean(dim=0, keepdim=True))
    right, count = sum(each.right for each in chosen), sum(each.count for each in chosen)
    own = [pair for each in chosen for pair in each.kept]
    kept = [pair for rank in ranks.gather(own) for pair in rank]
    logits, labels = (np.concatenate(column) for column in zip(*kept, strict=True))
    wrong = (logits.argmax(axis=1) != labels).any()
    temperature = fit_temperature(logits, labels) if wrong else None
    return replace(fitted, held_out=(right, count), temperature=temperature)


def _held_out(problem: LogisticRegression, held: Bools, solved: Sequence[Tensor]) -> list[Scores]:
    """Scores of the images that each fold (F, N) holds, by its solution."""
    return [problem.score(*each) for each in zip(held, torch.cat(list(solved)), strict=True)]


def _fitted(problem: LogisticRegression, strength: float, start: Tensor | None) -> Fitted:
    """The classifier of all images with a strength."""
    everything = np.ones((1, len(problem.found.labels)), bool)
    solution = problem.solve(everything, strength, start)[0]
    weight, bias = problem.unfold(solution)
    score = problem.score(everything[0], solution)
    mean, scale = problem.mean.float(), problem.scale.float()
    return Fitted(weight.float(), bias.float(), mean, scale, score.loss, score.right, strength, None)
