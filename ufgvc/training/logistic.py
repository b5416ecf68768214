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

from ufgvc.core.errors import UserError
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings

log = logging.getLogger(__name__)
HELD = 4096  # images: up to here the standardised rows stay in memory, in float64
CHUNK = 512  # images that are computed with at a time: on a CPU their rows should stay in its cache
CONVERGED = {"maxiter": 2000, "ftol": 1e-10, "gtol": 1e-8}  # of L-BFGS: when it stops
ROUGH = {"maxiter": 2000, "ftol": 1e-6, "gtol": 0.0}  # the same where losses are only compared
ABOVE_1 = 1e6  # times a loss: SciPy's ftol is a share of values above 1
KEPT = 20_000  # images whose logits are kept: enough to fit a temperature
CURVED = 512  # rows that say in which directions the objective is curved, a third of the columns at most: a small cost
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
    if not std.isfinite().all():
        raise UserError(
            "the network's embeddings of the training images are not all finite numbers",
            fix="take other weights: those of a training that diverged give none",
        )
    return mean, torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1.0)


def _sum(value: Tensor, ranks: Ranks) -> Tensor:
    return ranks.sum(value.to(ranks.device)).cpu()


@dataclass(frozen=True)
class Stretched:
    """Solutions (M, D + 1) stretched by the square root of I + rows' @ rows, and back; the bias by a factor.

    Where that is the second derivative, the stretched objective is equally curved in all directions, and L-BFGS needs
    few steps.  directions: (r, D), orthonormal.  factors: (r,) in these.  Both may be float32.
    """

    directions: Tensor
    factors: Tensor
    bias: Tensor

    @staticmethod
    def of(rows: Tensor, bias: Tensor, kind: torch.dtype = torch.float64) -> Stretched:
        """rows: (m, D).  bias: second derivative by the bias.  kind: of directions and factors."""
        squares, turned = torch.linalg.eigh(rows @ rows.T)  # a quarter of the time of rows' singular values
        seen = squares > 1e-3 + 1e-10 * squares.sum()  # others are hardly stretched, or rounding errors
        squares, turned = squares[seen], turned[:, seen]
        directions, factors = (turned / squares.sqrt()).T @ rows, (1 + squares).sqrt()
        return Stretched(directions.to(kind), factors.to(kind), bias.clamp(min=1e-3).sqrt())

    def stretch(self, solution: Tensor) -> Tensor:
        """Stretched solutions (M, D + 1)."""
        return self._times(solution, self.factors, self.bias)

    def shrink(self, solution: Tensor) -> Tensor:
        """Stretched solutions as they were; a gradient becomes the one by the stretched solution."""
        return self._times(solution, 1 / self.factors, 1 / self.bias)

    def _times(self, solution: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
        weight = solution[:, :-1]
        seen = weight.to(factors.dtype) @ self.directions.T * (factors - 1)
        weight = weight + seen @ self.directions
        return torch.cat([weight, solution[:, -1:] * bias], dim=1)


class LogisticRegression:
    """Multinomial logistic regression on the standardised rows of all ranks.

    The rows of a few images are held in float64, standardised. Of many, a chunk at a time is read as it is, and mean
    and scale are folded into the weights: nothing is copied, and memory does not grow with the rows.
    Held rows have no columns that are 0 in all of them: their weights would be 0. Fewer rows than columns are turned
    into the space that they span, in which the weights of the solution lie.
    varying: (D,), the other columns.  basis: (r, d) of that space; None: not turned.
    intercept: False for no bias, with rows that are scaled and not centred.
    """

    def __init__(self, found: Embeddings, num_classes: int, ranks: Ranks, intercept: bool = True) -> None:
        self.found, self.ranks, self.num_classes, self.intercept = found, ranks, num_classes, intercept
        self.mean, self.scale = (each.to(ranks.device) for each in mean_and_scale(found, ranks))
        if not intercept:
            self.mean = torch.zeros_like(self.mean)
        self.width = found.rows.shape[2]
        self.varying = torch.ones(self.width, dtype=torch.bool, device=ranks.device)
        self.basis: Tensor | None = None
        self.count = int(_sum(torch.tensor(float(len(found.labels)), dtype=torch.float64), ranks))
        self.rows: Tensor | None = None
        if self.count > HELD:
            return
        rows = torch.from_numpy(found.take(np.arange(len(found.labels)))).to(ranks.device).double()
        rows.sub_(self.mean).div_(self.scale)
        self.varying = ranks.sum(rows.square().sum(dim=(0, 1))) > 1e-9  # less adds at most C * 1e-9 to a logit
        self.rows = rows[:, :, self.varying]
        self.width = self.rows.shape[2]
        if ranks.world_size == 1 and rows.shape[0] * rows.shape[1] < self.width:
            basis, turned = torch.linalg.qr(self.rows.flatten(0, 1).T)
            self.basis, self.rows, self.width = basis.T, turned.T.view(*rows.shape[:2], -1), len(turned)

    def chunks(self, chosen: Bools, kind: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows (n * V, D) and labels (n * V,) of the images that any of P problems has chosen (P, N), on the device,
        and 1 where a problem has chosen it, else 0 (n * V, P); held rows are standardised.
        """
        places, views = np.flatnonzero(chosen.any(axis=0)), self.found.rows.shape[1]
        buffer = torch.empty(0)
        for at in range(0, len(places), CHUNK):
            place = places[at : at + CHUNK]
            labels = torch.from_numpy(self.found.labels[place]).to(self.ranks.device).repeat_interleave(views)
            shares = torch.from_numpy(chosen[:, place].T).to(self.ranks.device, kind).repeat_interleave(views, dim=0)
            if self.rows is not None:
                held = self.rows[torch.from_numpy(place).to(self.ranks.device)]
                yield held.flatten(0, 1).to(kind), labels, shares
                continue
            raw = torch.from_numpy(self.found.take(place)).flatten(0, 1).to(self.ranks.device)
            if raw.dtype != kind:  # into the same memory each time: new pages would cost more than the arithmetic
                if len(buffer) < len(raw):
                    buffer = torch.empty_like(raw, dtype=kind)
                raw = buffer[: len(raw)].copy_(raw)
            yield raw, labels, shares

    def _fold(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (M, D) and bias (M,) float64 for the rows of `chunks`, of M rows of solutions (M, D + 1)."""
        weight, bias = solution[:, :-1], solution[:, -1]
        if self.rows is not None:
            return weight, bias
        weight = weight / self.scale
        return weight, bias - weight @ self.mean

    def solve(self, chosen: Bools, strength: float, start: Tensor | None, rough: bool = False) -> Tensor:
        """The minimisers (P, K, D + 1) of C times the sum of the cross-entropies of the images that a problem has
        chosen (P, N), plus half the weights' square norm.

        As in scikit-learn's LogisticRegression the bias is not penalised. L-BFGS of SciPy, to convergence. All problems
        are one to it, because reading the rows takes most of the time. Rank 0 runs it, and the others compute where it
        says: if each ran it, another processor's rounding could part them, and they would wait for each other forever.
        rough: in float32, until an iteration brings a millionth of the loss: enough to compare strengths.
        """
        from scipy.optimize import minimize  # a third of a second, which other trainings need not wait for

        shape = len(chosen), self.num_classes, self.width + 1
        begin = torch.zeros(shape, dtype=torch.float64, device=self.ranks.device) if start is None else start
        begin = begin.flatten(0, 1)
        kind, options, unit = (torch.float32, ROUGH, ABOVE_1) if rough else (torch.float64, CONVERGED, 1.0)
        space = self._space(chosen, strength, begin, kind)
        objective = self._objective(chosen, strength, kind)

        def shrunk(flat: Floats) -> Tensor:
            return space.shrink(torch.from_numpy(flat).to(begin).view_as(begin))

        def stretched(flat: Floats) -> tuple[float, Floats]:
            value, gradient = objective(self._share(shrunk(flat), True)[0])
            return value * unit, space.shrink(gradient * unit).flatten().cpu().numpy()

        if self.ranks.rank == 0:
            first = space.stretch(begin).flatten().cpu().numpy()
            done = minimize(stretched, first, jac=True, method="L-BFGS-B", options=options)
            if not done.success:
                log.info("logistic regression with C = %g stopped before it converged: %s", strength, done.message)
            return self._share(shrunk(done.x), False)[0].view(shape)
        solution, more = self._share(begin, False)
        while more:
            objective(solution)
            solution, more = self._share(begin, False)
        return solution.view(shape)

    def _share(self, solution: Tensor, more: bool) -> tuple[Tensor, bool]:
        """Rank 0's values, on every rank: a solution, and whether its loss is asked for."""
        both = torch.cat([solution.flatten(), solution.new_tensor([more])])
        both = self.ranks.sum(both if self.ranks.rank == 0 else torch.zeros_like(both))
        return both[:-1].view_as(solution), bool(both[-1])

    def _space(self, chosen: Bools, strength: float, start: Tensor, kind: torch.dtype) -> Stretched:
        """Where the objective is about as curved in every direction, by the rows that curve it most at the start."""
        weight, bias = (each.to(kind) for each in self._fold(start))
        rows, curved, total = weight[:0], bias[:0], bias.new_zeros(())
        for more, _, shares in self.chunks(chosen, kind):
            likely = (more @ weight.T + bias).unflatten(1, (len(chosen), -1)).softmax(dim=2)
            here = ((likely * (1 - likely)).mean(dim=2) * shares).mean(dim=1)
            total += here.sum()
            rows, curved = torch.cat([rows, more]), torch.cat([curved, here])
            curved, most = curved.topk(min(len(curved), -(-min(CURVED, self.width // 3) // self.ranks.world_size)))
            rows = rows[most]
        rows = rows.double() if self.rows is not None else (rows - self.mean) / self.scale
        own = (rows * (strength * curved).sqrt()[:, None]).cpu().numpy()
        every = torch.from_numpy(np.concatenate(self.ranks.gather(own))).to(self.ranks.device)
        return Stretched.of(every, strength * self.ranks.sum(total.double()), kind)

    def _objective(self, chosen: Bools, strength: float, kind: torch.dtype) -> Callable[[Tensor], tuple[float, Tensor]]:
        """What `solve` minimises, of solutions (P * K, D + 1), and its gradient.  kind: of the products with rows."""
        held = list(self.chunks(chosen, kind)) if self.rows is not None else None

        def objective(solution: Tensor) -> tuple[float, Tensor]:
            weight, bias = (each.to(kind) for each in self._fold(solution))
            slopes, loss = torch.zeros_like(solution), solution.new_zeros(1)
            for rows, labels, shares in held or self.chunks(chosen, kind):
                logits = (rows @ weight.T + bias).double().unflatten(1, (len(chosen), -1))
                log_probabilities = logits.log_softmax(dim=2)
                each = torch.arange(len(rows), device=rows.device)
                loss -= (log_probabilities[each, :, labels] * shares).sum()
                slope = log_probabilities.exp()
                slope[each, :, labels] -= 1
                slope = (slope * shares[..., None]).flatten(1)
                slopes[:, :-1] += slope.to(kind).T @ rows
                if self.intercept:  # else its slope is 0, and it stays at the 0 where it starts
                    slopes[:, -1] += slope.sum(dim=0)
            if self.rows is None:
                slopes[:, :-1] = (slopes[:, :-1] - slopes[:, -1:] * self.mean) / self.scale
            totals = self.ranks.sum(torch.cat([slopes.flatten(), loss]))
            gradient = strength * totals[:-1].view_as(solution)
            gradient[:, :-1] += solution[:, :-1]
            # Divided by C and the rows: the stopping rule of L-BFGS should not depend on them.
            per = 1 / (strength * max(1, self.count))
            value = (strength * totals[-1] + 0.5 * solution[:, :-1].square().sum()).item() * per
            return value, gradient * per

        return objective

    def score(self, chosen: Bools, solution: Tensor) -> Scores:
        """Scores the chosen images (N,) by a solution (K, D + 1), with logits averaged over views."""
        weight, bias = self._fold(solution)
        sums, views = torch.zeros(3, dtype=torch.float64, device=self.ranks.device), self.found.rows.shape[1]
        count = int(_sum(torch.tensor(float(chosen.sum()), dtype=torch.float64), self.ranks))
        every, kept = -(-max(1, count) // KEPT), []
        for rows, repeated, _ in self.chunks(chosen[None], torch.float64):
            logits, labels = (rows @ weight.T + bias).unflatten(0, (-1, views)).mean(dim=1), repeated[::views]
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            sums += torch.stack([loss, right.double(), torch.full_like(loss, len(labels))])
            kept.append((logits[::every].cpu().numpy(), labels[::every].cpu().numpy()))
        loss_sum, right_sum, _ = self.ranks.sum(sums).tolist()
        return Scores(loss_sum, int(right_sum), count, kept)

    def unfold(self, solution: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) float64 of a solution (K, D + 1), for standardised rows."""
        weight, bias = solution[:, :-1], solution[:, -1]
        full = weight.new_zeros(len(weight), len(self.varying))
        full[:, self.varying] = weight if self.basis is None else weight @ self.basis
        return full, bias
