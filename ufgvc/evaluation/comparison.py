"""What a benchmark measured, before anything is made of it: methods, data draws, and one cell for each training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ufgvc.reports.figures import Panels

TableName = Literal["II", "III", "controls"]


@dataclass(frozen=True)
class Cell:
    """One training run, scored. right: (N,) bool for the test leaves of its draw, in the draw's order; None if it failed or is missing.

    error: why it failed (its first line is shown).  seconds: wall time of training.  images_per_second: training images.
    train_accuracy: on the last epoch's crops, 0 to 1.
    selected_on_test: the epoch was chosen on the very leaves of `right`.
    """

    draw: str
    seed: int
    right: NDArray[np.bool_] | None
    error: str | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    learning_rate: float | None = None
    train_accuracy: float | None = None
    selected_on_test: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row: a method with its settings, and its cells over draws and seeds.

    key: unique; the paper's own rows have the method's name as key.  label, backbone, options, note: texts to show.
    regions: the masks that guide it.  tables: where the row stands.  paper: the paper's accuracy, 0 to 1.
    gflops: 1e9 operations (2 per multiply-add) of one image forward at the test size.  inference_rate: images a second.
    None is what was not measured, and is shown as an empty cell.
    """

    key: str
    label: str
    method: str
    backbone: str
    tables: frozenset[TableName]
    regions: tuple[str, ...] = ()
    options: str = ""
    paper: float | None = None
    parameters: int | None = None
    gflops: float | None = None
    inference_rate: float | None = None
    note: str = ""
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, eq=False)
class BenchmarkDataset:
    """One set of test leaves. labels: (N,) int64 in [0, classes). A draw is equal to itself only."""

    name: str
    labels: NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Comparison:
    """A whole benchmark. references: keys of the baseline and of the proposed method; every row is compared with both.

    energy: {label: (mean share of the class activation map inside the masks, mean share of the picture that they cover, leaves)}.
    """

    title: str
    budget: Literal["equal", "published"]
    draws: tuple[BenchmarkDataset, ...]
    entries: tuple[Entry, ...]
    references: tuple[str, ...] = ("resnet50", "mask_guided")
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    cam: Panels | None = None
    energy: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys, names = [entry.key for entry in self.entries], [draw.name for draw in self.draws]
        if len(set(keys)) < len(keys) or len(set(names)) < len(names):
            raise ValueError(f"two entries or two draws share a name: {keys}, {names}")
        strangers = {cell.draw for entry in self.entries for cell in entry.cells} - set(names)
        if strangers:
            raise ValueError(f"cells of unknown draws: {sorted(strangers)}")

    def entry(self, key: str) -> Entry | None:
        """The entry with that key; None if the benchmark left it out."""
        return next((entry for entry in self.entries if entry.key == key), None)
