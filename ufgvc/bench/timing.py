"""Timing of things that are compared: in turn, several rounds, a drawn order in each, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Measurement:
    """One line of a table.  value: in `unit`.  beside: what it was timed in turn with.

    ratio: how many times the rate of `beside` this one has (above 1: faster), median and quartiles of the rounds' ratios.
    """

    name: str
    value: Spread
    unit: str
    beside: str | None = None
    ratio: Spread | None = None


@dataclass(frozen=True)
class Timed:
    """Seconds that each call took, one entry a round, in the order of the rounds."""

    seconds: Mapping[str, tuple[float, ...]]

    def rate(
        self, name: str, unit: str, units: float, beside: str | None = None, beside_units: float | None = None
    ) -> Measurement:
        """units: what one call handles, so that the value is units a second; beside_units: of the other call, if they differ."""
        own = np.asarray(self.seconds[name])
        ratio = None
        if beside is not None:
            other = np.asarray(self.seconds[beside])
            ratio = Spread.of(((units / own) / ((beside_units or units) / other)).tolist())
        return Measurement(name, Spread.of((units / own).tolist()), unit, beside, ratio)

    def time(self, name: str, unit: str = "s", scale: float = 1.0, beside: str | None = None) -> Measurement:
        """The seconds themselves, times `scale`."""
        own = np.asarray(self.seconds[name])
        ratio = Spread.of((np.asarray(self.seconds[beside]) / own).tolist()) if beside is not None else None
        return Measurement(name, Spread.of((own * scale).tolist()), unit, beside, ratio)


def time_in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    device: torch.device | None = None,
    budget: float = 10.0,
    warm_up: bool = True,
    seed: int = 0,
) -> Timed:
    """Calls each once a round, in an order drawn for each round, after a round that does not count.

    clock: seconds; `time.process_time` counts what this process computed, whatever else the machine does.  device: waited for
    before and after each call, if it is a GPU.  budget: seconds of wall time after which no round begins, once there are three.
    """
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    random = np.random.default_rng(seed)
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    if warm_up:
        for name in names:
            calls[name]()
    begun = time.monotonic()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() - begun > budget:
            break
        for place in random.permutation(len(names)):
            name = names[int(place)]
            wait()
            start = clock()
            calls[name]()
            wait()
            found[name].append(clock() - start)
    return Timed({name: tuple(seconds) for name, seconds in found.items()})
