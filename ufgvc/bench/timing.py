"""Times functions for a comparison: several rounds, each in a random order; medians and quartiles over the rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values of all rounds."""
        low, median, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.5, 0.75)).tolist()
        return cls(median, low, high)

    def scaled(self, factor: float) -> Spread:
        """Multiplied by a factor."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Measurement:
    """One line of a table.  value: in `unit`.  baseline: name of the measurement that it was timed in turn with.

    ratio: of its rate to that of `baseline` (above 1: faster), median and quartiles of the rounds' ratios.
    """

    name: str
    value: Spread
    unit: str
    baseline: str | None = None
    ratio: Spread | None = None


@dataclass(frozen=True)
class Timed:
    """Seconds that each call took, one entry a round, in the order of the rounds."""

    seconds: Mapping[str, tuple[float, ...]]

    def rate(
        self, name: str, unit: str, units: float, baseline: str | None = None, baseline_units: float | None = None
    ) -> Measurement:
        """Units a second.  units: number that one call handles.  baseline_units: that of the baseline, if it
        differs."""
        own = np.asarray(self.seconds[name])
        ratio = None
        if baseline is not None:
            other = np.asarray(self.seconds[baseline])
            ratio = Spread.of(((units / own) / ((baseline_units or units) / other)).tolist())
        return Measurement(name, Spread.of((units / own).tolist()), unit, baseline, ratio)

    def time(self, name: str, unit: str = "s", scale: float = 1.0, baseline: str | None = None) -> Measurement:
        """The seconds themselves, times `scale`."""
        own = np.asarray(self.seconds[name])
        ratio = Spread.of((np.asarray(self.seconds[baseline]) / own).tolist()) if baseline is not None else None
        return Measurement(name, Spread.of((own * scale).tolist()), unit, baseline, ratio)


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
    """Calls each function once a round, in a random order, after a warm-up round.

    clock: in seconds; `time.process_time` excludes the time of other processes.  device: synchronised before and
    after each call, if it is a GPU.  budget: seconds of wall time after which no round begins, once there are
    MIN_ROUNDS.
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
        if number >= MIN_ROUNDS and time.monotonic() - begun > budget:
            break
        for place in random.permutation(len(names)):
            name = names[int(place)]
            wait()
            start = clock()
            calls[name]()
            wait()
            found[name].append(clock() - start)
    return Timed({name: tuple(seconds) for name, seconds in found.items()})
