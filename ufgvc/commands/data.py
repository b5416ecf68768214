"""From nothing or photographs to masks: synth, ingest, detect, mask."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ufgvc.commands.command import command
from ufgvc.commands.fields import DATA, FRESH, RUNS, SEED, made, services, source_fields
from ufgvc.core.config import Settings, select_fields


def _synth(method: str) -> type[Settings]:
    from ufgvc.synthetic import SynthSettings

    return made("Synth", (SynthSettings,), out=(str, Field(description="folder to write")), seed=(int, SEED))


@command("synth", "make synthetic leaves in the released Ultra-FGVC layout, with exact masks", _synth)
def synth(told: Any) -> None:
    from ufgvc.core.errors import disk_errors
    from ufgvc.core.process import cpu_count
    from ufgvc.core.storage import open_store
    from ufgvc.synthetic import SynthSettings, synthesize

    with disk_errors(told.out):
        print(
            synthesize(
                open_store(told.out).local_path, select_fields(SynthSettings, told), told.seed, workers=cpu_count()
            )
        )


def _ingest(method: str) -> type[Settings]:
    from ufgvc.data.ingest import IngestSettings

    return made(
        "Ingest",
        (IngestSettings,),
        data=(str, DATA),
        seed=(int, SEED),
        fresh=(bool, FRESH),
        **source_fields(),
        **services(False),
    )


@command("ingest", "read photographs and boxes, check them, and store them as a data set", _ingest)
def ingest(told: Any) -> None:
    from ufgvc.commands import steps as pipeline

    print(pipeline.ingest_step(told, told).summary)


def _detect(method: str) -> type[Settings]:
    from ufgvc.regions.settings import DetectSettings

    return made(
        "Detect",
        (DetectSettings,),
        data=(str, DATA),
        runs=(str, RUNS),
        seed=(int, SEED),
        fresh=(bool, FRESH),
        **services(),
    )


@command("detect", "train the region detector on a few dozen annotated leaves and measure it (Table I)", _detect)
def detect(told: Any) -> None:
    from ufgvc.commands import steps as pipeline

    print(pipeline.detect_step(told, told).summary)


def _mask(method: str) -> type[Settings]:
    from ufgvc.regions.settings import MaskSettings

    source = (
        str | None,
        Field(None, description="for kind exact: the leaves with masks/vein and masks/contour, a folder or a URI"),
    )
    model = (
        str | None,
        Field(None, description="the detector's folder; default: the newest of this data set below --runs"),
    )
    places: dict[str, Any] = {"data": (str, DATA), "source": source, "runs": (str, RUNS), "model": model}
    return made("Mask", (MaskSettings,), fresh=(bool, FRESH), **places, **services())


@command("mask", "find the regions of every leaf and store their masks", _mask)
def mask(told: Any) -> None:
    from ufgvc.commands import steps as pipeline

    print(pipeline.mask_step(told, told, told.model).summary)
