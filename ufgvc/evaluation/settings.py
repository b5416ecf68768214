"""What an evaluation can be told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from ufgvc.core.types import MaskKind
from ufgvc.evaluation.metrics import Scores
from ufgvc.runtime.resources import ActorSettings


class ScoreSettings(ActorSettings):
    """How leaves are put through a model."""

    batch_size: int = Field(32, ge=1)
    """leaves a forward pass"""
    max_actors: int | None = Field(None, ge=0)
    """actors at most; 0: score in this process; default: this process for up to 2000 leaves, else as many as fit"""


class EvaluateSettings(ScoreSettings):
    """Evaluation on the test leaves."""

    top: int = Field(5, ge=1)
    """a leaf counts for the top figure if its cultivar is among this many likeliest"""
    cam_leaves: int = Field(6, ge=0)
    """leaves in the figure of class activation maps, drawn with the seed, not picked"""
    region_leaves: int = Field(4, ge=0)
    """leaves in the figure of regions, drawn with the seed"""
    mask_kind: Annotated[MaskKind, tyro.conf.Suppress] = "box"
    """the masks shown in the figure of regions, if they are there"""
    paper: Literal["cotton80", "soylocal200"] | None = None
    """put the paper's figures for this data set beside ours; only for the real photographs"""
    register_version: bool = True
    """file the model in the MLflow registry as `challenger` (only a model that a run made, and only with tracking)"""
    seed: int = 0
    """draws the leaves of the figures"""


class PromoteSettings(ScoreSettings):
    """The challenger against the champion."""

    alpha: float = Field(0.05, gt=0, lt=1)
    """level of the exact McNemar test: the challenger wins, or loses, if p is below it"""
    strict: bool = False
    """exit code 3 unless the challenger is champion now (`ray job submit` makes 1 of it: scripts read promotion.json)"""
    force: bool = False
    """promote whatever the test says, and over other data: for a rollback, or after the data set has changed; the decision says so"""


@dataclass(frozen=True)
class EvaluateResult:
    """report: URI of report.html. scores: of the model under report. version: of the registry, None if it was not filed."""

    folder: str
    report: str
    scores: Scores
    compared: dict[str, Scores] = field(default_factory=dict)
    version: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for people."""
        one = self.scores.accuracy
        return (
            f"accuracy {one.k} of {one.n} = {100 * one.value:.1f} % (95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}), "
            f"balanced {100 * self.scores.balanced_accuracy:.1f} %; report: {self.report}"
        )
