"""Settings of `audit`."""

from __future__ import annotations

from pydantic import Field

from ufgvc.core.places import WeightsPlace
from ufgvc.evaluation.settings import ScoreSettings


class AuditSettings(ScoreSettings):
    """Audit of a data set."""

    batch_size: int = Field(16, ge=1)
    """leaves in a forward pass"""
    folds: int = Field(5, ge=2)
    """folds of the leaves of both splits, each named by a classifier that was fitted to the others"""
    repeats: int = Field(3, ge=1)
    """partitions into folds, over which figures are averaged; more than 2000 leaves get one"""
    side: int = Field(448, ge=32)
    """side in pixels of the photographs as the frozen network sees them; a --model has its own"""
    backbone: str = "efficientnet_lite0"
    """the frozen network that embeds the leaves without a --model: see `linear_probe`"""
    init: WeightsPlace = "imagenet"
    """its weights: imagenet, none (random), or the URI of a state dict"""
