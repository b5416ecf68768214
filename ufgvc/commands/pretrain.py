"""`ufgvc pretrain`: initial weights for each architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasRay, WritesRuns
from ufgvc.core.config import select_fields
from ufgvc.experiments.settings import PretrainSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.experiments.pretrain import PretrainResult


class Pretrain(HasRay, WritesRuns, HasData, PretrainSettings):
    """Settings of `ufgvc pretrain`."""


def run(settings: Pretrain, context: Context) -> PretrainResult:
    """Trains initial weights and prints their accuracies."""
    from ufgvc.experiments.pretrain import pretrain

    result = pretrain(settings.data, select_fields(PretrainSettings, settings), context)
    print(result.summary())
    return result
