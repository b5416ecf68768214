"""Settings that name a folder, a file or a URI: their types, and what is checked of them before any work starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, get_origin

from pydantic.fields import FieldInfo

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store


@dataclass(frozen=True)
class PlaceMarker:
    """Marks a setting (or a section of settings) as a folder, a file or a URI.

    written: the command writes there.  name_allowed: a plain name may stand instead ("imagenet"); only a value with a
    slash or a dot is a place.  labelled: the value is label=PLACE.
    """

    written: bool = False
    name_allowed: bool = False
    labelled: bool = False


WRITTEN = PlaceMarker(written=True)
Place = Annotated[str, PlaceMarker()]
WrittenPlace = Annotated[str, WRITTEN]
WeightsPlace = Annotated[str, PlaceMarker(name_allowed=True)]
LabelledPlace = Annotated[str, PlaceMarker(labelled=True)]


@dataclass(frozen=True)
class NamedPlace:
    """A place that settings name.  flag: the command-line flag without its dashes."""

    flag: str
    text: str
    written: bool


def places_of(settings: Settings, prefix: str = "", written: bool = False) -> Iterator[NamedPlace]:
    """Every place in the settings and their sections. written: the marker on the section says so of all its places."""
    for key, field in type(settings).model_fields.items():
        value, flag = getattr(settings, key), f"{prefix}{key.replace('_', '-')}"
        marker = place_marker(field)
        writes = written or (marker is not None and marker.written)
        if isinstance(value, Settings):
            yield from places_of(value, f"{flag}.", marker is not None and marker.written)
        elif marker is not None:
            for text in value if isinstance(value, tuple) else (value,):
                if text is None or (marker.name_allowed and not re.search(r"[/.]", text)):
                    continue
                yield NamedPlace(flag, text.partition("=")[2] if marker.labelled else text, writes)


def place_marker(field: FieldInfo) -> PlaceMarker | None:
    """How a setting is marked; None if it names no place."""
    return next(_markers(field.annotation, field.metadata), None)


def _markers(annotation: object, metadata: list[object]) -> Iterator[PlaceMarker]:
    """The markers of a field: its own, and those inside of `Place | None` and `tuple[Place, ...]`."""
    yield from (each for each in metadata if isinstance(each, PlaceMarker))
    if get_origin(annotation) is not None:
        yield from (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, PlaceMarker))
        for inner in getattr(annotation, "__args__", ()):
            yield from _markers(inner, [])


def check_absolute(settings: Settings) -> None:
    """UserError for a relative path: inside of a Ray job it would lie in Ray's copy of the project, which is
    deleted."""
    for place in places_of(settings):
        # models:/name has one slash
        absolute = re.match(r"[a-z][a-z0-9+.-]*:/", place.text) or os.path.isabs(os.path.expanduser(place.text))
        if place.text and not absolute:
            raise UserError(
                f"the relative path {place.text!r} would lie in Ray's copy of the project",
                where=f"--{place.flag}",
                fix="give an absolute path or s3://...",
            )


def check_writable(settings: Settings) -> None:
    """UserError for a place that cannot be written, before the work whose results are to be written there."""
    for place in places_of(settings):
        if place.written:
            open_store(place.text).check_writable()
