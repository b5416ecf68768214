"""Settings that several commands share. Each class is a group of flags; a command inherits those that it needs."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.places import WRITTEN, LabelledPlace, Place, WrittenPlace
from ufgvc.core.types import MaskKind
from ufgvc.runtime.session import RaySettings
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

Owner = TypeVar("Owner", bound=Settings)


class CommandSettings(Settings):
    """Base of the settings of every command."""

    def context(self) -> Context:
        """Where the command writes and records, and on what it runs; the default for what it has no setting for."""
        given = {field.name for field in fields(Context)} & type(self).model_fields.keys()
        return Context(**{name: getattr(self, name) for name in given})

    def settings_for(self, owner: type[Owner], section: Settings | None = None, **values: Any) -> Owner:
        """The settings of a step: `values`, then the fields of its section, then those that this command has itself."""
        own: dict[str, Any] = {}
        for source in (self, section):
            names = owner.model_fields.keys() & type(source).model_fields.keys() if source is not None else ()
            own |= {name: getattr(source, name) for name in names}
        return owner.model_validate(own | values)


class HasData(CommandSettings):
    """An ingested data set to read."""

    data: Place
    """where the ingested data set lies: a folder, s3://bucket/prefix, or another URI of pyarrow.fs"""


class WritesData(HasData):
    """An ingested data set to write."""

    data: WrittenPlace
    """where the ingested data set lies: a folder, s3://bucket/prefix, or another URI of pyarrow.fs"""


class HasModel(CommandSettings):
    """A trained model."""

    model: Place
    """models:/name@alias, runs:/<id>/model, or a folder"""


class HasCompared(CommandSettings):
    """Models to compare with."""

    compare: tuple[LabelledPlace, ...] = ()
    """other models as label=MODEL, for the table, the tests and the figure"""


class HasRuns(CommandSettings):
    """Runs to read, and MLflow."""

    runs: Place = "runs"
    """folder or URI of all runs"""
    tracking: TrackingSettings = TrackingSettings()
    """where runs are recorded"""


class WritesRuns(HasRuns):
    """Runs to write, and MLflow."""

    runs: WrittenPlace = "runs"
    """folder or URI of all runs"""
    tracking: Annotated[TrackingSettings, WRITTEN] = TrackingSettings()
    """where runs are recorded"""


class HasRay(CommandSettings):
    """Ray."""

    ray: RaySettings = RaySettings()
    """where the tasks run"""


class HasSeed(CommandSettings):
    """Random numbers."""

    seed: int = Field(0, ge=0)
    """seed of all random numbers"""


class HasFresh(CommandSettings):
    """Results of earlier runs."""

    fresh: bool = False
    """start over instead of using what an earlier run with the same settings left"""


class HasMaskKind(CommandSettings):
    """The kind of masks, the same for all steps."""

    mask_kind: MaskKind = "box"
    """box: 1 inside the boxes; luminance: the leaf's bright pixels there (the paper's text); structure: vein pixels,
    outline band; exact: the masks that lie with the photographs (masks/<region>), without a detector"""


class HasMethod(CommandSettings):
    """A method and its options. `Command.settings` puts the options of the chosen method in place of `Settings`."""

    method: str = "mask_guided"
    """name of the method; --options are its own"""
    options: Settings = Settings()
    """options of the method"""
