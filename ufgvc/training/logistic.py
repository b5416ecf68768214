"""Multinomial logistic regression on standardised embeddings, in bounded memory and over all ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings

log = logging.getLogger(__name__)
HELD = 4096  # images: up to here the standardised rows stay in memory, in float64
CHUNK = 512  # images that are computed with at a time: on a CPU their rows should stay in its cache
FALLING = 1e-6  # share; float32 sums of many rows are more exact
CONVERGED = {"maxiter": 2000, "ftol": 1e-10, "gtol": 1e-8}  # of L-BFGS: when it stops
KEPT = 20_000  # images whose logits are kept: enough to fit a temperature
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Scores of images: sum of the cross-entropies, number right and number, of all ranks.

    kept: logits (n, K) and labels (n,) of this rank's images, evenly spaced, of KEPT over all ranks.
    """

    loss: float
    right: int
    count: int
    kept: list[tuple[Floats, Ints]]


def mean_and_scale(found: Embeddings, ranks: Ranks) -> tuple[Tensor, Tensor]:
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


class LogisticRegression:
    """Multinomial logistic regression on the standardised rows of all ranks.

    The rows of a few images are held in float64, standardised. Of many, a chunk at a time is read as it is, and mean
    and scale are folded into the weights: nothing is copied, and memory does not grow with the rows.
    Fewer rows than columns are turned into the space that they span: the weights of the solution lie in it, so nothing
    is lost, and every step costs as many columns as there are rows.  basis: (r, D) of that space; None: not turned.
    intercept: False for no bias, with rows that are scaled and not centred.
    """

    def __init__(self, found: Embeddings, num_classes: int, ranks: Ranks, intercept: bool = True) -> None:
        self.found, self.ranks, self.num_classes, self.intercept = found, ranks, num_classes, intercept
        self.mean, self.scale = (each.to(ranks.device) for each in mean_and_scale(found, ranks))
        if not intercept:
            self.mean = torch.zeros_like(self.mean)
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
        from scipy.optimize import minimize  # a third of a second, which other trainings need not wait for

        begin = np.zeros(self.num_classes * (self.width + 1)) if start is None else start
        objective = self._objective(chosen, strength, falling=None if self.rows is not None else FALLING)
        done = minimize(objective, begin, jac=True, method="L-BFGS-B", options=CONVERGED)
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
                if self.intercept:  # else its slope is 0, and it stays at the 0 where it starts
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

    def score(self, chosen: NDArray[np.bool_], flat: Floats) -> Scores:
        """Scores the chosen images, with logits averaged over views."""
        weight, bias = self._fold(flat)
        sums, views = torch.zeros(3, dtype=torch.float64, device=self.ranks.device), self.found.rows.shape[1]
        count = int(_sum(torch.tensor(float(chosen.sum()), dtype=torch.float64), self.ranks))
        every, kept = -(-max(1, count) // KEPT), []
        for rows, repeated in self.chunks(chosen, torch.float64):
            logits, labels = (rows @ weight.T + bias).unflatten(0, (-1, views)).mean(dim=1), repeated[::views]
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            sums += torch.stack([loss, right.double(), torch.full_like(loss, len(labels))])
            kept.append((logits[::every].cpu().numpy(), labels[::every].cpu().numpy()))
        loss_sum, right_sum, _ = self.ranks.sum(sums).tolist()
        return Scores(loss_sum, int(right_sum), count, kept)

    def unfold(self, flat: Floats) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) float64 of a solution, for standardised rows."""
        weight, bias = self._unpack(flat)
        return (weight if self.basis is None else weight @ self.basis), bias

    def _unpack(self, flat: Floats) -> tuple[Tensor, Tensor]:
        values = torch.from_numpy(flat).to(self.ranks.device)
        weight_size = self.num_classes * self.width
        return values[:weight_size].view(self.num_classes, self.width), values[weight_size:]
