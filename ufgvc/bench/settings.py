"""Settings of `ufgvc bench`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ufgvc.core.config import Settings, unique
from ufgvc.core.process import cpu_count
from ufgvc.runtime.resources import Device

Part = Literal["reading", "cached", "step", "feed", "startup"]
PARTS: tuple[Part, ...] = ("reading", "cached", "step", "feed", "startup")
GrowthStep = Literal["ingest", "boxes", "detect", "mask", "train", "features", "predict"]
GROWTH_STEPS: tuple[GrowthStep, ...] = ("ingest", "boxes", "detect", "mask", "train", "features", "predict")
VARIANTS = {"off": (False,), "on": (True,), "both": (False, True)}


class BenchSettings(Settings):
    """What is measured, and at which sizes. Empty settings are chosen for the machine."""

    out: str = "bench"
    """local folder for bench.json, bench.md and growth.png"""
    source: str | None = None
    """your own photographs, a folder or a URI; default: synthetic ones (1200 x 900 JPEG, about 200 KB)"""
    photographs: int | None = Field(None, ge=16)
    """photographs to measure with; default: 64, with a GPU 512"""
    parts: tuple[Part, ...] = PARTS
    """what is measured: reading, cached, step, feed (the step fed by the loader), startup (with evaluate and
    predict)"""
    methods: tuple[str, ...] = Field(("resnet50", "mask_guided"), min_length=1)
    """methods whose training step is timed, in turn; ratios are to the first"""
    backbones: tuple[str, ...] = ()
    """backbones of the methods that have this option; default: each method's own; without a GPU resnet18 for
    resnet50"""
    sides: tuple[int, ...] = ()
    """sides of the training crop in pixels; default: 160, with a GPU 448"""
    batches: tuple[int, ...] = ()
    """images a step; default: 8, with a GPU 16 and 128"""
    precisions: tuple[Literal["fp32", "bf16"], ...] = ()
    """default: fp32, with a GPU that computes in it bf16"""
    compile: Literal["off", "on", "both"] = "off"
    """time the step with torch.compile: its first call takes a minute or more"""
    cuda_graphs: Literal["off", "on", "both"] | None = None
    """time the step recorded once and replayed, as `--train.cuda-graphs` does; default: off, with a GPU both"""
    device: Device = "auto"
    """cpu, gpu, or auto: a GPU if torch sees one"""
    rounds: int = Field(5, ge=3)
    """rounds at most (3 at least); each times everything that is compared once, in a random order"""
    growth: bool = False
    """also time and peak memory of ingest, detect, mask, train, features (linear_probe) and predict at 1, 10 and 100
    times the rows (takes minutes more)"""
    growth_rows: int = Field(48, ge=16)
    """rows of the smallest size of growth"""
    growth_steps: tuple[GrowthStep, ...] = GROWTH_STEPS
    """steps of growth; ingest always runs; boxes: ingest with a box file for each photograph, for detect and mask"""
    growth_cores: tuple[int, ...] = ()
    """cores of the steps of growth, for example 1 2 for both in turn; default: all"""
    seed: int = Field(0, ge=0)
    """seed of the synthetic photographs, the networks and the order within a round"""

    _each_once = field_validator("parts", "methods", "backbones", "sides", "batches", "precisions", "growth_cores")(
        unique
    )

    @field_validator("growth_cores")
    @classmethod
    def _cores_that_are_there(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= value <= cpu_count() for value in values):
            raise ValueError(f"give 1 to {cpu_count()}, the cores of this machine")
        return values

    @field_validator("sides", "batches")
    @classmethod
    def _large_enough(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(value < 2 for value in values):
            raise ValueError("give numbers of 2 or more")
        return values

    @property
    def compiled(self) -> tuple[bool, ...]:
        """The values of `compile` to measure."""
        return VARIANTS[self.compile]

    def captured(self, gpu: bool) -> tuple[bool, ...]:
        """The values of `cuda_graphs` to measure."""
        return VARIANTS[self.cuda_graphs or ("both" if gpu else "off")]
