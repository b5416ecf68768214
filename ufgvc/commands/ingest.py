"""`ufgvc ingest`: photographs and boxes become a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ufgvc.commands.fields import CommandSettings, HasFresh, HasRay, HasSeed, WritesData
from ufgvc.commands.step import Step
from ufgvc.core.config import select_fields, short_key
from ufgvc.core.places import Place
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.storage import open_store
from ufgvc.data.ingest import IngestSettings
from ufgvc.data.readers import ReaderName
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.data.dataset import Dataset

INGESTED_FILE = "ingested.json"  # {"key": of the settings and the source's state, "fingerprint": of the data set}


class HasSource(CommandSettings):
    """Photographs to read."""

    source: Place
    """the photographs: a folder, a .csv or .parquet table, or a URI of one"""
    name: str | None = None
    """name of the data set; default: the last part of --data"""
    reader: ReaderName = "auto"
    """form of the source; auto detects it"""
    boxes: Place | None = None
    """boxes in YOLO, COCO or Pascal VOC form, if they do not lie in the source"""
    groups: Place | None = None
    """table (.csv, .parquet) with the columns path and group: the plant, or photograph, that a leaf comes from; a plant
    is never in both splits, nor in two folds"""
    split: float | None = Field(None, gt=0, lt=1)
    """share of each cultivar that becomes test, for a source without a split"""


class Ingest(HasRay, HasFresh, HasSeed, WritesData, HasSource, IngestSettings):
    """Settings of `ufgvc ingest`."""


def run(settings: Ingest, context: Context) -> dict[str, Any]:
    """Stores the data set and prints what it contains."""
    step = execute(settings, context)
    print(step.summary)
    return to_json(step)


def to_json(step: Step[Dataset]) -> dict[str, Any]:
    """What describes the data set, without its shards."""
    dataset = step.result
    description: dict[str, Any] = {"data": dataset.store.uri, "name": dataset.name, "fingerprint": dataset.fingerprint}
    description |= {"classes": dataset.classes, "regions": dataset.regions, "counts": dataset.counts}
    return {**description, "found": step.found}


def execute(settings: Ingest, context: Context) -> Step[Dataset]:
    """Reads the source, unless its files and the settings are those of the data set that is there."""
    from ufgvc.data.dataset import open_dataset
    from ufgvc.data.ingest import ingest

    store = open_store(settings.data)
    key = _key(settings, context)
    if not context.fresh and store.exists(INGESTED_FILE) and store.read_json(INGESTED_FILE).get("key") == key:
        dataset = open_dataset(settings.data)
        note = "nothing in the source has changed since; --fresh reads it again"
        return Step(f"{_describe(dataset)}\n{note}", dataset, found=True)
    dataset = ingest(
        settings.source,
        settings.data,
        settings.name,
        settings.reader,
        settings.boxes,
        settings.groups,
        settings.split,
        context.seed,
        select_fields(IngestSettings, settings),
        context.ray,
    )
    store.write_json(INGESTED_FILE, {"key": key, "fingerprint": dataset.fingerprint})
    return Step(_describe(dataset), dataset)


def _key(settings: Ingest, context: Context) -> str:
    """Names everything that decides what the data set will hold: the settings and the files of the source."""
    from ufgvc.data.readers.snapshot import boxes_state, source_state

    state = [
        source_state(settings.source, without=open_store(settings.data)),
        boxes_state(settings.boxes) if settings.boxes else None,
    ]
    if settings.groups:  # not else: data sets of earlier versions keep their key
        state.append([[settings.groups], *boxes_state(settings.groups)])
    places = [open_store(place).uri if place else None for place in (settings.source, settings.boxes)]
    choices = [settings.name, settings.reader, settings.split, context.seed]
    return short_key([*places, *choices, select_fields(IngestSettings, settings).model_dump(mode="json"), state])


def _describe(dataset: Dataset) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in dataset.counts.items())
    regions = "" if dataset.regions == PAPER_REGIONS else f"regions {join_names(dataset.regions)}; "
    return (
        f"{dataset.name}: {len(dataset.classes)} cultivars, {counts} leaves; {regions}"
        f"fingerprint {dataset.fingerprint[:12]}; {dataset.store.uri}"
    )
