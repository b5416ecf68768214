"""Fits the linear classifier of a probe: multinomial logistic regression on embeddings, its strength by validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.data.splits import assign_folds
from ufgvc.methods.method import Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings, embed_training_images
from ufgvc.training.loader import BatchLoader

log = logging.getLogger(__name__)
# Inverse strength of the L2 penalty, as scikit-learn's C. On grape5 and grape29 0.1 to 10 do about as well.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
DEFAULT_STRENGTH = 1.0  # where nothing can be held out: one leaf (or plant) of each cultivar
FOLDS = 5
ONE_FOLD_ABOVE = 20_000  # rows: with so many, one held-out fold decides
CHUNK = 8192  # rows that are on the device in float64 at a time
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A classifier on standardised embeddings.  weight: (K, D).  bias: (K,).  mean, scale: (D,) of the embeddings.

    loss, right: sum of the cross-entropies, and number right, of the training images.
    strength: the chosen C.  held_out: (number right, number) of the folds that chose it; None: a default was used.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    loss: float
    right: int
    strength: float
    held_out: tuple[int, int] | None


def fit_epoch(method: Method, loader: BatchLoader, ranks: Ranks, seed: int) -> dict[str, float]:
    """Fits the classifier of a probe on the loader's training images and puts it into the net; the metrics' row.

    Metrics: loss and accuracy on the training images, strength (C), and held_out_accuracy if folds chose it;
    images_per_second is the rate of the embedding, or of reading where a file has the embeddings already.
    A cultivar without training images is never named: nothing holds its bias, which falls until the fit has converged.
    """
    started = time.monotonic()
    _set(method.net, mean=0.0, scale=1.0)
    found = embed_training_images(method, loader, ranks.device)
    seconds = time.monotonic() - started
    folds = np.full(int(loader.train_indices.max()) + 1, -1)
    folds[loader.train_indices] = assign_folds(loader.train_labels, loader.train_groups, FOLDS, seed)
    own = folds[found.positions] if (folds >= 0).any() else None
    fitted = fit_classifier(found, own, method.num_classes, ranks)
    _set(method.net, mean=fitted.mean, scale=fitted.scale)
    _set(method.net.get_submodule("classifier"), weight=fitted.weight, bias=fitted.bias)
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
    return row | {"held_out_accuracy": fitted.held_out[0] / fitted.held_out[1]}


def _set(module: nn.Module, **values: Tensor | float) -> None:
    """Overwrites parameters and buffers."""
    with torch.no_grad():
        for name, value in values.items():
            tensor = getattr(module, name)
            tensor.copy_(torch.as_tensor(value).expand(tensor.shape))


def fit_classifier(
    found: Embeddings, folds: Ints | None, num_classes: int, ranks: Ranks, strengths: tuple[float, ...] = STRENGTHS
) -> Fitted:
    """Fits the classifier; the strength of its penalty has the smallest log-loss on held-out images.

    found: of this rank; the sums of all ranks decide, so every rank returns the same.
    folds: (N,) fold of each image of `found`, -1 for those that always train; None: the default strength is used.
    """
    mean, scale = _mean_and_scale(found.rows, ranks)
    problem = _Problem(found, mean, scale, num_classes, ranks)
    everything = np.ones(len(found.labels), bool)
    if folds is None:
        return problem.fitted(problem.solve(everything, DEFAULT_STRENGTH, None), DEFAULT_STRENGTH, None)
    losses, right = np.zeros(len(strengths)), np.zeros(len(strengths), np.int64)
    total = 0
    for fold in range(1 if problem.count > ONE_FOLD_ABOVE else FOLDS):
        held, start = folds == fold, None
        if not _sum(torch.tensor(float(held.sum()), dtype=torch.float64), ranks):
            continue  # no cultivar has so many plants
        for place, strength in enumerate(strengths):
            start = problem.solve(~held, strength, start)  # each solution is near the next
            loss, correct, count = problem.score(held, start)
            losses[place] += loss
            right[place] += correct
        total += count
    best = int(np.argmin(losses))
    weights = problem.solve(everything, strengths[best], None)
    return problem.fitted(weights, strengths[best], (int(right[best]), total))


def _mean_and_scale(rows: NDArray[np.float32], ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) float64 over all rows (N, V, D) of all ranks; a constant column has scale 1."""
    width = rows.shape[2]
    sums = torch.zeros(2, width, dtype=torch.float64)
    count = torch.tensor(float(rows.shape[0] * rows.shape[1]), dtype=torch.float64)
    chunks = [slice(at, at + CHUNK) for at in range(0, len(rows), CHUNK)]
    for chunk in chunks:
        sums[0] += torch.from_numpy(rows[chunk].astype(np.float64)).sum(dim=(0, 1))
    count, first = _sum(count, ranks), _sum(sums[0], ranks)
    mean = first / count
    for chunk in chunks:
        sums[1] += (torch.from_numpy(rows[chunk].astype(np.float64)) - mean).square().sum(dim=(0, 1))
    std = (_sum(sums[1], ranks) / count).sqrt()
    return mean, torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1.0)


def _sum(value: Tensor, ranks: Ranks) -> Tensor:
    return ranks.sum(value.to(ranks.device)).cpu()


class _Problem:
    """Multinomial logistic regression on the rows of all ranks, a chunk at a time, in float64.

    Fewer rows than columns are turned into the space that they span: the weights of the solution lie in it, so nothing
    is lost, and every step costs as many columns as there are rows.  basis: (r, D) of that space; None: not turned.
    """

    def __init__(self, found: Embeddings, mean: Tensor, scale: Tensor, num_classes: int, ranks: Ranks) -> None:
        self.found, self.ranks, self.num_classes = found, ranks, num_classes
        self.mean, self.scale = mean.to(ranks.device), scale.to(ranks.device)
        self.width = found.rows.shape[2]
        self.basis: Tensor | None = None
        count, views, width = found.rows.shape
        if ranks.world_size == 1 and count * views < width:
            _, values, basis = torch.linalg.svd(self._standardised(np.arange(count)).flatten(0, 1), full_matrices=False)
            self.basis = basis[values > 1e-9 * values[0]]
            self.width = len(self.basis)
        self.count = int(_sum(torch.tensor(float(len(found.labels)), dtype=torch.float64), ranks))

    def _standardised(self, places: Ints) -> Tensor:
        rows = torch.from_numpy(np.asarray(self.found.rows[places])).to(self.ranks.device).double()
        return (rows - self.mean) / self.scale

    def chunks(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised rows (n, V, D) float64 and labels (n,) of the chosen images, on the device."""
        places = np.flatnonzero(chosen)
        for at in range(0, len(places), CHUNK):
            place = places[at : at + CHUNK]
            rows, labels = self._standardised(place), torch.from_numpy(self.found.labels[place]).to(self.ranks.device)
            yield (rows if self.basis is None else rows @ self.basis.T), labels

    def solve(self, chosen: NDArray[np.bool_], strength: float, start: Floats | None) -> Floats:
        """The minimiser (K * (D + 1),) of C times the sum of the cross-entropies plus half the weights' square norm.

        As in scikit-learn's LogisticRegression the bias is not penalised. L-BFGS of SciPy, to convergence.
        """
        from scipy.optimize import minimize  # a third of a second, which a network's workers need not wait for

        objective = self._objective(chosen, strength)
        begin = np.zeros(self.num_classes * (self.width + 1)) if start is None else start
        done = minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-10})
        if not done.success:
            log.info("logistic regression with C = %g stopped before it converged: %s", strength, done.message)
        return np.asarray(done.x)

    def _objective(self, chosen: NDArray[np.bool_], strength: float) -> Callable[[Floats], tuple[float, Floats]]:
        weight_size = self.num_classes * self.width
        chunks = list(self.chunks(chosen)) if chosen.sum() <= CHUNK else None  # few rows are made once

        def objective(flat: Floats) -> tuple[float, Floats]:
            weight, bias = self._unpack(flat)
            sums = torch.zeros(len(flat) + 1, dtype=torch.float64, device=self.ranks.device)
            for rows, labels in chunks or self.chunks(chosen):
                wide, repeated = rows.flatten(0, 1), labels.repeat_interleave(rows.shape[1])
                log_probabilities = (wide @ weight.T + bias).log_softmax(dim=1)
                sums[-1] -= log_probabilities.gather(1, repeated[:, None]).sum()
                slope = log_probabilities.exp()
                slope[torch.arange(len(wide), device=wide.device), repeated] -= 1
                sums[:weight_size] += (slope.T @ wide).flatten()
                sums[weight_size:-1] += slope.sum(dim=0)
            totals = self.ranks.sum(sums).cpu().numpy()
            penalised = flat[:weight_size]
            gradient = strength * totals[:-1]
            gradient[:weight_size] += penalised
            # Divided by C and the rows: the stopping rule of L-BFGS should not depend on them.
            per = 1 / (strength * max(1, self.count))
            return float((strength * totals[-1] + 0.5 * penalised @ penalised) * per), gradient * per

        return objective

    def score(self, chosen: NDArray[np.bool_], flat: Floats) -> tuple[float, int, int]:
        """(sum of the cross-entropies, number right, number) of the chosen images, with logits averaged over views."""
        weight, bias = self._unpack(flat)
        sums = torch.zeros(3, dtype=torch.float64, device=self.ranks.device)
        for rows, labels in self.chunks(chosen):
            logits = (rows @ weight.T + bias).mean(dim=1)
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            sums += torch.stack([loss, right.double(), torch.full_like(loss, len(labels))])
        loss_sum, right_sum, count = self.ranks.sum(sums).tolist()
        return loss_sum, int(right_sum), int(count)

    def fitted(self, flat: Floats, strength: float, held_out: tuple[int, int] | None) -> Fitted:
        """The classifier of a solution."""
        weight, bias = self._unpack(flat)
        loss, right, _ = self.score(np.ones(len(self.found.labels), bool), flat)
        mean, scale = self.mean.float(), self.scale.float()
        weight = weight if self.basis is None else weight @ self.basis
        return Fitted(weight.float(), bias.float(), mean, scale, loss, right, strength, held_out)

    def _unpack(self, flat: Floats) -> tuple[Tensor, Tensor]:
        values = torch.from_numpy(flat).to(self.ranks.device)
        weight_size = self.num_classes * self.width
        return values[:weight_size].view(self.num_classes, self.width), values[weight_size:]
