"""`ufgvc synth`: synthetic leaves in the released Ultra-FGVC layout, with exact masks."""

from __future__ import annotations

from typing import Any

from ufgvc.commands.fields import HasSeed
from ufgvc.core.config import select_fields
from ufgvc.core.places import WrittenPlace
from ufgvc.synthetic import SynthSettings
from ufgvc.tracking.context import Context


class Synth(HasSeed, SynthSettings):
    """Settings of `ufgvc synth`."""

    out: WrittenPlace
    """folder to write"""


def run(settings: Synth, context: Context) -> dict[str, Any]:
    """Writes synthetic leaves and prints where."""
    from ufgvc.core.errors import disk_errors
    from ufgvc.core.process import cpu_count
    from ufgvc.core.storage import open_store
    from ufgvc.synthetic import synthesize

    folder = open_store(settings.out).local_path
    with disk_errors(settings.out):
        made = synthesize(folder, select_fields(SynthSettings, settings), context.seed, workers=cpu_count())
    print(made)
    return {"folder": made}
