"""`ufgvc pretrain`: initial weights for each architecture."""

from __future__ import annotations

from ufgvc.commands.fields import HasData, HasRay, WritesRuns
from ufgvc.core.config import select_fields
from ufgvc.experiments.settings import PretrainSettings
from ufgvc.tracking.context import Context


class Pretrain(HasRay, WritesRuns, HasData, PretrainSettings):
    """Settings of `ufgvc pretrain`."""


def run(settings: Pretrain, context: Context) -> None:
    """Trains initial weights and prints their accuracies."""
    from ufgvc.experiments.pretrain import pretrain

    print(pretrain(settings.data, select_fields(PretrainSettings, settings), context).summary())
