"""Settings and results of `evaluate`, `promote` and `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from ufgvc.core.text import plural
from ufgvc.core.types import MaskKind
from ufgvc.evaluation.drift import Drift
from ufgvc.evaluation.metrics import Scores
from ufgvc.runtime.resources import ActorSettings


class ScoreSettings(ActorSettings):
    """How images are scored with a model."""

    batch_size: int = Field(32, ge=1)
    """leaves in a forward pass"""
    max_actors: int | None = Field(None, ge=0)
    """actors at most; 0: score in this process; default: this process for up to 2000 leaves, else as many as fit"""


class EvaluateSettings(ScoreSettings):
    """Evaluation on the test leaves."""

    top: int = Field(5, ge=1)
    """k of the top-k accuracy"""
    cam_leaves: int = Field(6, ge=0)
    """leaves in the figure of class activation maps, a random sample with the seed"""
    region_leaves: int = Field(4, ge=0)
    """leaves in the figure of regions, a random sample with the seed"""
    mask_kind: Annotated[MaskKind, tyro.conf.Suppress] = "box"
    """masks of the figure of regions, if the data set has them"""
    paper: Literal["cotton80", "soylocal200"] | None = None
    """also show the paper's accuracies on this data set; only for the real photographs"""
    register_version: bool = True
    """register the model in MLflow as `challenger` (only a model of a run, and only with tracking)"""


class PromoteSettings(ScoreSettings):
    """Comparison of the challenger with the champion."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """significance level of the exact McNemar test"""
    strict: bool = False
    """exit code 3 unless the challenger is promoted (1 from `ray job submit`: scripts should read promotion.json)"""
    force: bool = False
    """promote without regard to the test or to other data: for a rollback, or after the data set has changed"""


class PredictSettings(ActorSettings):
    """Prediction for new photographs."""

    top: int = Field(5, ge=1)
    """number of likeliest cultivars written for each photograph"""
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    """torch, onnx (onnxruntime; a torch model is exported first), or auto: onnx for many photographs on CPUs, if it is
    installed, else what the model's folder holds"""
    unknown: bool = True
    """name leaves above the model's out-of-distribution threshold `unknown` (`ufgvc calibrate` fits one)"""
    batch_size: int = Field(32, ge=1)
    """photographs in a forward pass"""
    max_actors: int | None = Field(None, ge=0)
    """actors at most; 0: predict in this process; default: this process for up to 100 photographs, else as many as
    fit"""
    rows_per_file: int = Field(100_000, ge=1)
    """photographs in one Parquet file"""
    page: int = Field(1000, ge=0, le=100_000)
    """photographs shown on predictions.html, the most doubtful ones; each is read a second time; 0: no page"""


@dataclass(frozen=True)
class EvaluateResult:
    """Result of an evaluation.

    folder, report: URIs of the report folder and of report.html.  scores: of the model.  compared: of the other models.
    version: in the registry, None if it was not registered.  metrics: content of metrics.json.
    """

    folder: str
    report: str
    scores: Scores
    compared: dict[str, Scores] = field(default_factory=dict)
    version: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Where everything is, and metrics.json, which has the scores of all models."""
        return {"folder": self.folder, "report": self.report, "version": self.version, "metrics": self.metrics}

    def summary(self) -> str:
        """The text for the terminal."""
        one = self.scores.accuracy
        registered = f"registered as version {self.version} (challenger); " if self.version else ""
        return (
            f"accuracy {one.k} of {one.n} = {100 * one.value:.1f} % "
            f"(95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}), "
            f"balanced accuracy {100 * self.scores.balanced_accuracy:.1f} %; {registered}report: {self.report}"
        )


@dataclass(frozen=True)
class PredictResult:
    """Result of a batch prediction.

    predicted: photographs with a prediction.  unknown: of these, called unknown.  rejected: files without a prediction.
    csv, json, rejected_csv: URIs.  parquet: URIs of the parts.  page: URI of predictions.html, None without one.
    calibrated: whether the model's probabilities are calibrated.  has_threshold: whether it has an out-of-distribution
    threshold.  drift: of the photographs against the leaves that the model knows.  answers: a line for each photograph,
    if they are MAX_LISTED or fewer; the page shows all.
    """

    predicted: int
    rejected: int
    csv: str
    json: str
    rejected_csv: str
    parquet: tuple[str, ...]
    unknown: int = 0
    calibrated: bool = False
    has_threshold: bool = False
    drift: Drift | None = None
    page: str | None = None
    answers: tuple[str, ...] = ()

    def summary(self) -> str:
        """The text for the terminal."""
        listed = "".join(f"{answer}\n" for answer in sorted(self.answers))
        bad = f"; {plural(self.rejected, 'other file')}, see {self.rejected_csv}" if self.rejected else ""
        named = f"{listed}{plural(self.predicted, 'photograph')} predicted" + (
            f", {self.unknown} of them unknown (`known` is false)" if self.unknown else ""
        )
        lacks = [] if self.calibrated else ["the probabilities are not calibrated"]
        lacks += [] if self.has_threshold else ["no leaf can be called unknown"]
        raw = f"\n{' and '.join(lacks)}: see `ufgvc calibrate`" if lacks else ""
        page = f"\npage: {self.page}" if self.page else ""
        drift = f"\n{self.drift.summary()}" if self.drift and not self.answers else ""
        return f"{named}: {self.csv}{bad}{page}{raw}{drift}"
