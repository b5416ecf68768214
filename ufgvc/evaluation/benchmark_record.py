"""The raw results of a benchmark: data sets, methods, and one result for each training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.region_names import PAPER_REGIONS

TableName = Literal["II", "III", "controls"]
Protocol = Literal["fixed", "crossval"]


@dataclass(frozen=True)
class RunResult:
    """One training run of a method, with one seed on one data set.

    right: (N,) bool, whether each scored leaf of the data set was classified correctly; None if the run failed or is
    missing.  error: why it failed (its first line is shown).  seconds: wall time.  images_per_second: in training.
    learning_rates: different ones only in cross-validation, where each fold chooses its own.
    train_accuracy: on the augmented images of the last epoch, in [0, 1].
    A run of a cross-validation is a training for each fold: the figures except `right` are means over the folds.
    """

    dataset: str
    seed: int
    right: NDArray[np.bool_] | None
    error: str | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    learning_rates: tuple[float, ...] = ()
    train_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """A method with its settings, and its runs over data sets and seeds: one row of a table.

    key: unique; the paper's own rows have the method's name as key.  label, backbone, options, note: texts to show.
    regions: the masks that guide it.  tables: the tables that contain it.  paper: accuracy in the paper, in [0, 1].
    gflops: 1e9 operations (2 per multiply-add) of the forward pass of one image at the test size.
    None stands for what was not measured.
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
    note: str = ""
    runs: tuple[RunResult, ...] = ()


@dataclass(frozen=True, eq=False)
class BenchmarkDataset:
    """The scored leaves of one data set; equal to itself only.

    labels: (N,) int64 in [0, classes).  groups: (N,) int64 id of each leaf's plant or photograph; None: not known.
    """

    name: str
    labels: NDArray[np.int64]
    classes: int
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class BenchmarkRecord:
    """A whole benchmark. ValueError if keys or data set names repeat, or a run names an unknown data set.

    protocol: fixed scores the test leaves; crossval every leaf of the data sets once a seed, out of fold.
    references: keys of the baseline and of the proposed methods; every method is compared with each of them.
    energy: {label: (mean share of the class activation map inside the masks, mean share of the image that the masks
    cover, number of leaves)}.  regions: of the data sets.
    """

    title: str
    budget: Literal["equal", "published"]
    datasets: tuple[BenchmarkDataset, ...]
    methods: tuple[MethodResult, ...]
    references: tuple[str, ...] = ("resnet50", "mask_guided")
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    protocol: Protocol = "fixed"
    energy: Mapping[str, tuple[float, float, int]] = field(default_factory=dict)
    regions: tuple[str, ...] = PAPER_REGIONS

    def __post_init__(self) -> None:
        keys, names = [one.key for one in self.methods], [dataset.name for dataset in self.datasets]
        if len(set(keys)) < len(keys) or len(set(names)) < len(names):
            raise ValueError(f"two methods or two data sets share a name: {keys}, {names}")
        unknown = {run.dataset for one in self.methods for run in one.runs} - set(names)
        if unknown:
            raise ValueError(f"runs on unknown data sets: {sorted(unknown)}")

    def find(self, key: str) -> MethodResult | None:
        """The method with that key; None if it is not part of the benchmark."""
        return next((one for one in self.methods if one.key == key), None)
