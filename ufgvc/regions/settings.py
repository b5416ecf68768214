"""The settings of `detect` and `mask`. The command line imports this module, so it imports nothing large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import tyro
from pydantic import Field, model_validator

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.places import WeightsPlace
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.types import MaskKind
from ufgvc.runtime.resources import ActorSettings, Device

YoloModel = Literal["yolov5n", "yolov5s", "yolov5m"]
METRICS = "metrics.json"  # of a detector's run; written last, so that a run folder with it is complete
BoxSource = Literal["detected", "annotated", "annotated_else_detected"]


class SyntheticInitSettings(Settings):
    """Training of the initial weights of `init: synthetic` on synthetic leaves."""

    preset: Literal["cotton80", "soylocal200"] = "cotton80"
    """the real data set whose geometry is imitated"""
    leaves: int = Field(160, ge=8)
    """number of synthetic photographs"""
    image_size: int = Field(320, ge=64, multiple_of=32)
    """side of the photographs in pixels"""
    epochs: int = Field(30, ge=1)
    """training epochs"""


class DetectSettings(Settings):
    """Training of the region detector (Table I): YOLOv5 with an anchor-free head."""

    num_annotated: int = Field(30, ge=0)
    """annotated training leaves to train on, sampled with the seed (paper: 30 for cotton, 70 for soy); 0: the detector
    of `init: synthetic` as it is, measured on all leaves with boxes"""
    model: YoloModel = "yolov5n"
    """architecture: n, s or m for nano, small or medium"""
    image_size: int = Field(480, ge=64, multiple_of=32)
    """longest side of the network's input in pixels"""
    epochs: int = Field(80, ge=1)
    """training epochs"""
    batch_size: int = Field(8, ge=1)
    """images in a training step"""
    learning_rate: float = Field(2e-3, gt=0)
    """peak learning rate of AdamW, with cosine decay"""
    mosaic: float = Field(0.0, ge=0, le=1)
    """share of training images composed of four images; 0 in the last 40 % of the epochs"""
    confidence: float = Field(0.25, gt=0, lt=1)
    """lowest score of a box that counts as found; also the default of `mask`"""
    init: WeightsPlace = "synthetic"
    """initial weights: synthetic (trained on synthetic leaves, once), coco (needs coco_weights), none, or a file
    (.safetensors, .pt)"""
    coco_weights: WeightsPlace | None = None
    """for `init: coco`: the file yolov5nu.pt (yolov5su.pt, ...) of ultralytics"""
    pretrain: SyntheticInitSettings = SyntheticInitSettings()
    """for `init: synthetic`"""
    device: Device = "auto"
    """cpu, gpu, or auto: a GPU if torch sees one (does not change the run's key)"""

    @model_validator(mode="after")
    def _check_count(self) -> DetectSettings:
        if 0 < self.num_annotated < 4:
            raise ValueError("num_annotated must be 0, or 4 or more")
        if not self.num_annotated and self.init != "synthetic":
            raise ValueError("without annotated leaves (num_annotated 0) init must be synthetic")
        return self


class MaskSettings(ActorSettings):
    """Masks of all images."""

    mask_kind: Annotated[MaskKind, tyro.conf.Suppress] = "box"
    """box: 1 inside the boxes; luminance: bright leaf pixels in them (the paper's text); structure: vein pixels and a
    band along the outline; exact: the masks in masks/<region> of --source, without a detector"""
    box_source: BoxSource = "detected"
    """which boxes to use: the detector's, the annotated ones, or the detector's for images without annotated ones"""
    confidence: float | None = Field(None, gt=0, lt=1)
    """lowest score of a box; default: the `confidence` of `detect`"""
    min_found: float = Field(0.5, ge=0, le=1)
    """required share of training leaves on which every region is found; below it no masks are stored (0: no check)"""
    batch_size: int = Field(8, ge=1)
    """images that the detector processes at once"""
    max_actors: int | None = Field(None, ge=1)
    """actors at most; default: one a shard, as CPUs and GPUs allow"""
    cpus_per_actor: int = Field(1, ge=1)
    """CPUs of each actor: one for the detector, the others decode photographs"""


class SuggestSettings(Settings):
    """Which leaves to annotate next."""

    count: int = Field(10, ge=1, le=1000)
    """leaves to suggest"""
    pool: int = Field(1000, ge=1, le=20_000)
    """training leaves without boxes that are looked at, sampled with the seed"""
    confidence: float = Field(0.25, gt=0, lt=1)
    """lowest score of a proposed box"""
    model: YoloModel = "yolov5n"
    """without a detector of this data set: architecture of the one that is trained on synthetic leaves"""
    pretrain: SyntheticInitSettings = SyntheticInitSettings()
    """without a detector of this data set: training on synthetic leaves"""
    device: Device = "auto"
    """cpu, gpu, or auto: a GPU if torch sees one"""


def check_kind(kind: str, regions: Sequence[str]) -> None:
    """UserError for masks of kind structure of regions other than vein and contour, which it is defined for."""
    own = [region for region in regions if region not in PAPER_REGIONS]
    if kind == "structure" and own:
        what = f"these masks are defined for {join_names(PAPER_REGIONS)}, and this data set has {join_names(own)}"
        raise UserError(what, where="--mask-kind structure", fix="use `--mask-kind box`, luminance or exact")
