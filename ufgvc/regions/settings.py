"""The settings of `detect` and `mask`; the command line reads them, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.runtime.resources import ActorSettings, Device

Weights = Literal["yolov5n", "yolov5s", "yolov5m"]
Source = Literal["detected", "annotated", "annotated_else_detected"]


class PretrainSettings(Settings):
    """The synthetic leaves of `init: synthetic`, and how long the detector looks at them."""

    preset: Literal["cotton80", "soylocal200"] = "cotton80"
    """which real set's geometry the synthetic leaves have"""
    leaves: int = Field(160, ge=8)
    """synthetic photographs"""
    image_size: int = Field(320, ge=64, multiple_of=32)
    """their side in pixels"""
    epochs: int = Field(30, ge=1)
    """times each is seen"""


class DetectSettings(Settings):
    """The region detector (Table I): YOLOv5 with the anchor-free head."""

    annotated: int = Field(30, ge=4)
    """annotated training leaves that are drawn (paper: 30 for cotton, 70 for soy)"""
    weights: Weights = "yolov5n"
    """size of the network"""
    image_size: int = Field(480, ge=64, multiple_of=32)
    """longest side in pixels that the network sees"""
    epochs: int = Field(80, ge=1)
    """times each drawn leaf is seen"""
    batch: int = Field(8, ge=1)
    """photographs a step"""
    learning_rate: float = Field(2e-3, gt=0)
    """of AdamW at its peak; falls by a cosine"""
    mosaic: float = Field(0.0, ge=0, le=1)
    """share of training images put together from four; off for the last 40 % of the epochs"""
    confidence: float = Field(0.25, gt=0, lt=1)
    """least score of a box that counts as found (masks use it too)"""
    init: str = "synthetic"
    """first weights: synthetic (trained by us on synthetic leaves, once), coco (needs coco_weights), none, or a file (.safetensors, .pt)"""
    coco_weights: str | None = None
    """the file yolov5nu.pt (yolov5su.pt, ...) of ultralytics, for `init: coco`"""
    pretrain: PretrainSettings = PretrainSettings()
    """the synthetic leaves of `init: synthetic`"""
    device: Device = "auto"
    """cpu, gpu, or auto: a GPU if torch sees one (does not change the run's key)"""


class MaskSettings(ActorSettings):
    """Masks for all leaves."""

    kind: Literal["box", "luminance", "structure", "exact"] = "box"
    """box: 1 inside the boxes; luminance: the leaf's bright pixels there (the paper's text); structure: vein pixels, outline band;
    exact: the masks that lie beside the photographs of --source (masks/vein, masks/contour), without a detector"""
    boxes: Source = "detected"
    """whose boxes: the detector's, those that people drew, or these where there are any (exact masks need none)"""
    confidence: float | None = Field(None, gt=0, lt=1)
    """least score of a box; default: what the detector was measured with"""
    min_found: float = Field(0.5, ge=0, le=1)
    """least share of the training leaves on which every region must be found; with fewer no masks are stored (0: go on all the same)"""
    batch: int = Field(8, ge=1)
    """photographs that the detector sees at once"""
    max_actors: int | None = Field(None, ge=1)
    """actors at most; default: one a part file, as CPUs and GPUs allow"""
    cpus_per_actor: int = Field(1, ge=1)
    """CPUs of each; the detector computes on one, the others decode photographs"""
