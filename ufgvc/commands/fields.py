"""Flags that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, create_model

from ufgvc.core.config import Settings

if TYPE_CHECKING:
    from ufgvc.tracking.context import Context

DATA = Field(description="where the ingested data set lies: a folder, s3://bucket/prefix, or another URI of pyarrow.fs")
RUNS = Field("runs", description="where runs are kept: a folder or a URI")
MODEL = Field(description="models:/name@alias, runs:/<id>/model, or a folder")
SOURCE = Field(description="the photographs: a folder or a URI")
SEED = Field(0, ge=0, description="seed of everything that is drawn")
FRESH = Field(False, description="start over instead of using what an earlier run left")


def context_of(settings: Any) -> Context:
    """The context of a command: what its settings say of runs, tracking, Ray, seed and fresh."""
    from ufgvc.tracking.context import Context

    return Context(
        **{field: getattr(settings, field) for field in Context.__dataclass_fields__ if hasattr(settings, field)}
    )


def made(name: str, bases: tuple[type[Settings], ...], /, **fields: Any) -> type[Settings]:
    return cast(type[Settings], create_model(name, __base__=bases, **fields))


def services(tracked: bool = True) -> dict[str, Any]:
    from ufgvc.runtime.session import RaySettings
    from ufgvc.tracking.settings import TrackingSettings

    ray = {"ray": (RaySettings, RaySettings())}
    return ray | ({"tracking": (TrackingSettings, TrackingSettings())} if tracked else {})


def source_fields() -> dict[str, Any]:
    from ufgvc.data.readers import ReaderName

    return {
        "source": (str, Field(description="the photographs: a folder, a .csv or .parquet table, or a URI of one")),
        "name": (str | None, Field(None, description="name of the data set; default: the last part of --data")),
        "reader": (ReaderName, Field("auto", description="form of the source; auto looks at it")),
        "boxes": (
            str | None,
            Field(None, description="boxes in YOLO, COCO or Pascal VOC form, if they do not lie in the source"),
        ),
        "split": (
            float | None,
            Field(
                None, gt=0, lt=1, description="share of each cultivar that becomes test, for a source without a split"
            ),
        ),
    }


def many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value
