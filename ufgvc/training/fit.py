"""Fits the linear classifier of a probe: multinomial logistic regression on embeddings, its strength by validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.data.splits import assign_folds
from ufgvc.methods.method import Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings, embed_training_images
from ufgvc.training.fit_regions import fit_regions
from ufgvc.training.loader import BatchLoader

log = logging.getLogger(__name__)
# Inverse strength of the L2 penalty, as scikit-learn's C. On grape5 and grape29 0.1 to 10 do about as well.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
DEFAULT_STRENGTH = 1.0  # where nothing can be held out: one leaf (or plant) of each cultivar
FOLDS = 5
ONE_FOLD_ABOVE = 20_000  # images: with so many, one held-out fold decides
HELD = 4096  # images: up to here the standardised rows stay in memory, in float64
CHUNK = 512  # images that are computed with at a time: on a CPU their rows should stay in its cache
FALLING = 1e-6  # share; float32 sums of many rows are more exact
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
    if method.regions:
        fit_regions(method, loader, ranks)
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
    mean, scale = _mean_and_scale(found, ranks)
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


def _mean_and_scale(found: Embeddings, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) float64 over all rows (N, V, D) of all ranks; a constant column has scale 1."""
    width = found.rows.shape[2]
    sums = torch.zeros(2, width, dtype=torch.float64)
    count = torch.tensor(float(len(found.labels) * found.rows.shape[1]), dtype=torch.float64)
    chunks = [np.arange(at, min(at + CHUNK, len(found.labels))) for at in range(0, len(found.labels), CHUNK)]
    for chunk in chunks:
        sums[0] += torch.from_numpy(found.take(chunk)).double().sum(dim=(0, 1))
    count, first = _sum(count, ranks), _sum(sums[0], ranks)
    mean = first / count
    for chunk in chunks:
        sums[1] += (torch.from_numpy(found.take(chunk)).double() - mean).square().sum(dim=(0, 1))
    std = (_sum(sums[1], ranks) / count).sqrt()
    return mean, torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1.0)


def _sum(value: Tensor, ranks: Ranks) -> Tensor:
    return ranks.sum(value.to(ranks.device)).cpu()


class _Problem:
    """Multinomial logistic regression on the standardised rows of all ranks.

    The rows of a few images are held in float64, standardised. Of many, a chunk at a time is read as it is, and mean
    and scale are folded into the weights: nothing is copied, and memory does not grow with the rows.
    Fewer rows than columns are turned into the space that they span: the weights of the solution lie in it, so nothing
    is lost, and every step costs as many columns as there are rows.  basis: (r, D) of that space; None: not turned.
    """

    def __init__(self, found: Embeddings, mean: Tensor, scale: Tensor, num_classes: int, ranks: Ranks) -> None:
        self.found, self.ranks, self.num_classes = found, ranks, num_classes
        self.mean, self.scale = mean.to(ranks.device), scale.to(ranks.device)
        self.width = found.rows.shape[2]
        self.basis: Tensor | None = None
        self.count = int(_sum(torch.tensor(float(len(found.labels)), dtype=torch.float64), ranks))
        self.rows: Tensor | None = None
        if self.count > HELD:
            return
        rows = torch.from_numpy(found.take(np.arange(len(found.labels)))).to(ranks.device).double()
        self.rows = rows.sub_(self.mean).div_(self.scale)
        if ranks.world_size == 1 and rows.shape[0] * rows.shape[1] < self.width:
            _, values, basis = torch.linalg.svd(self.rows.flatten(0, 1), full_matrices=False)
            self.basis = basis[values > 1e-9 * values[0]]
            self.rows = self.rows @ self.basis.T
            self.width = len(self.basis)

    def chunks(self, chosen: NDArray[np.bool_], kind: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (n * V, D) and labels (n * V,) of the chosen images on the device; held rows are standardised."""
        places, views = np.flatnonzero(chosen), self.found.rows.shape[1]
        buffer = torch.empty(0)
        for at in range(0, len(places), CHUNK):
            place = places[at : at + CHUNK]
            labels = torch.from_numpy(self.found.labels[place]).to(self.ranks.device).repeat_interleave(views)
            if self.rows is not None:
                yield self.rows[torch.from_numpy(place).to(self.ranks.device)].flatten(0, 1), labels
                continue
            raw = torch.from_numpy(self.found.take(place)).flatten(0, 1).to(self.ranks.device)
            if raw.dtype != kind:  # into the same memory each time: new pages would cost more than the arithmetic
                if len(buffer) < len(raw):
                    buffer = torch.empty_like(raw, dtype=kind)
                raw = buffer[: len(raw)].copy_(raw)
            yield raw, labels

    def _fold(self, flat: Floats) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) float64 for the rows of `chunks`."""
        weight, bias = self._unpack(flat)
        if self.rows is not None:
            return weight, bias
        weight = weight / self.scale
        return weight, bias - weight @ self.mean

    def solve(self, chosen: NDArray[np.bool_], strength: float, start: Floats | None) -> Floats:
        """The minimiser (K * (D + 1),) of C times the sum of the cross-entropies plus half the weights' square norm.

        As in scikit-learn's LogisticRegression the bias is not penalised. L-BFGS of SciPy, to convergence.
        """
        begin = np.zeros(self.num_classes * (self.width + 1)) if start is None else start
        objective = self._objective(chosen, strength, falling=None if self.rows is not None else FALLING)
        done = minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-10})
        if not done.success:
            log.info("logistic regression with C = %g stopped before it converged: %s", strength, done.message)
        return np.asarray(done.x)

    def _objective(
        self, chosen: NDArray[np.bool_], strength: float, falling: float | None = None
    ) -> Callable[[Floats], tuple[float, Floats]]:
        """What `solve` minimises, and its gradient.

        falling: rows are multiplied in float32 until the value changes by less than this share from one call to the
        next, and in float64 from then on, so that the minimum is the exact one; None: in float64 always.
        """
        weight_size = self.num_classes * self.width
        held = list(self.chunks(chosen, torch.float64)) if self.rows is not None else None
        kind, last = torch.float64 if falling is None else torch.float32, np.inf

        def objective(flat: Floats) -> tuple[float, Floats]:
            nonlocal kind, last
            weight, bias = (each.to(kind) for each in self._fold(flat))
            slopes = torch.zeros(self.num_classes, self.width, dtype=torch.float64, device=self.ranks.device)
            sums = torch.zeros(self.num_classes + 1, dtype=torch.float64, device=self.ranks.device)
            for rows, labels in held or self.chunks(chosen, kind):
                log_probabilities = (rows @ weight.T + bias).double().log_softmax(dim=1)
                sums[-1] -= log_probabilities.gather(1, labels[:, None]).sum()
                slope = log_probabilities.exp()
                slope[torch.arange(len(rows), device=rows.device), labels] -= 1
                slopes += slope.to(kind).T @ rows
                sums[:-1] += slope.sum(dim=0)
            if self.rows is None:
                slopes = (slopes - sums[:-1, None] * self.mean) / self.scale
            totals = self.ranks.sum(torch.cat([slopes.flatten(), sums])).cpu().numpy()
            penalised = flat[:weight_size]
            gradient = strength * totals[:-1]
            gradient[:weight_size] += penalised
            # Divided by C and the rows: the stopping rule of L-BFGS should not depend on them.
            per = 1 / (strength * max(1, self.count))
            value = float((strength * totals[-1] + 0.5 * penalised @ penalised) * per)
            if falling is not None and abs(last - value) < falling * value:
                kind = torch.float64
            last = value
            return value, gradient * per

        return objective

    def score(self, chosen: NDArray[np.bool_], flat: Floats) -> tuple[float, int, int]:
        """(sum of the cross-entropies, number right, number) of the chosen images, with logits averaged over views."""
        weight, bias = self._fold(flat)
        sums, views = torch.zeros(3, dtype=torch.float64, device=self.ranks.device), self.found.rows.shape[1]
        for rows, repeated in self.chunks(chosen, torch.float64):
            logits, labels = (rows @ weight.T + bias).unflatten(0, (-1, views)).mean(dim=1), repeated[::views]
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
