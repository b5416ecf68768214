"""The trained region detector: prediction of boxes, saving and loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image, nms

from ufgvc.core.errors import UserError
from ufgvc.core.text import parse_json
from ufgvc.core.types import Box
from ufgvc.data.images import Pixels
from ufgvc.data.resize import resize_longest
from ufgvc.regions.settings import YoloModel
from ufgvc.regions.yolo import build_net

FORMAT = 2
_PADDING = 114  # the grey that ultralytics pads with in training


@dataclass(frozen=True)
class Letterboxed:
    """An image resized into a square and padded.

    pixels: (side, side, 3) uint8.  scale: (2,) of x and y.  offset: (2,) pixels, left and top edge of the image.
    """

    pixels: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def letterbox(image: Pixels, side: int) -> Letterboxed:
    """Resizes an image (H, W, 3) uint8 to fit a square of `side` pixels and centres it on grey.

    Ultralytics' LetterBox does not antialias, but the training images are antialiased (`annotated.write_example`).
    """
    small = resize_longest(image, side)
    height, width = small.shape[:2]
    left, top = (side - width) // 2, (side - height) // 2
    square = np.full((side, side, 3), _PADDING, np.uint8)
    square[top : top + height, left : left + width] = small
    return Letterboxed(square, np.array([width / image.shape[1], height / image.shape[0]]), np.array([left, top]))


@dataclass
class Detector:
    """A trained network and what is needed to use it.

    model: name of the architecture.  regions: names of the classes.  image_size: longest side in pixels of its input.
    max_boxes: {region: most boxes on one image}.  info: fingerprints and metrics.
    """

    net: nn.Module
    model: YoloModel
    regions: tuple[str, ...]
    image_size: int
    max_boxes: dict[str, int]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    def to(self, device: str) -> Detector:
        """Moves the network to a device and returns self."""
        self.net.to(device)
        return self

    @torch.inference_mode()
    def predict(
        self, images: Sequence[Pixels], confidence: float = 0.001, iou_threshold: float = 0.7, limit: int = 300
    ) -> list[list[Box]]:
        """Boxes of each image (H, W, 3) uint8 RGB in its pixels, by falling score.

        confidence: lowest score.  iou_threshold: of non-maximum suppression.  limit: boxes of each region at most.
        """
        if not images:
            return []
        fitted = [letterbox(image, self.image_size) for image in images]
        batch = torch.from_numpy(np.stack([each.pixels for each in fitted])).to(self.device)
        output = self.net(batch.permute(0, 3, 1, 2).float() / 255)
        raw = (output[0] if isinstance(output, tuple) else output).float().cpu()  # (B, 4 + regions, cells)
        found = []
        for values, image, each in zip(raw, images, fitted, strict=True):
            boxes = box_convert(values[:4].T, "cxcywh", "xyxy").double()
            boxes = (boxes - torch.from_numpy(each.offset).repeat(2)) / torch.from_numpy(each.scale).repeat(2)
            boxes = clip_boxes_to_image(boxes, (image.shape[0], image.shape[1]))
            found.append(self._select(boxes, values[4:].double(), confidence, iou_threshold, limit))
        return found

    def _select(self, boxes: Tensor, scores: Tensor, confidence: float, iou_threshold: float, limit: int) -> list[Box]:
        """Non-maximum suppression in each region.  boxes: (N, 4) float64.  scores: (regions, N) float64."""
        found: list[Box] = []
        for region, values in zip(self.regions, scores, strict=True):
            candidates = values >= confidence
            candidates &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            corners, scored = boxes[candidates], values[candidates]
            for k in nms(corners, scored, iou_threshold)[:limit].tolist():
                x0, y0, x1, y1 = corners[k].tolist()
                found.append(Box(region, x0, y0, x1, y1, float(scored[k])))
        return sorted(found, key=lambda box: -box.score)

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors and model.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()}
        save_file(state, folder / "weights.safetensors")
        description = {
            "format": FORMAT,
            "kind": "regions",
            "model": self.model,
            "regions": list(self.regions),
            "image_size": self.image_size,
            "max_boxes": self.max_boxes,
            "info": self.info,
        }
        (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_detector(folder: Path, device: str = "cpu") -> Detector:
    """Loads what `Detector.save` wrote. UserError if the folder holds no detector, or a damaged one."""
    try:
        description = parse_json((folder / "model.json").read_bytes(), str(folder / "model.json"))
        state = load_file(folder / "weights.safetensors")
    except SafetensorError as error:
        where = str(folder / "weights.safetensors")
        raise UserError(f"is damaged: {error}", where=where, fix="run `ufgvc detect --fresh`") from None
    except FileNotFoundError as error:
        raise UserError(f"holds no detector ({error})", where=str(folder), fix="run `ufgvc detect` first") from None
    if description.get("kind") != "regions" or description.get("format") != FORMAT:
        raise UserError(
            "is not a region detector that this version reads", where=str(folder), fix="run `ufgvc detect` again"
        )
    regions = tuple(description["regions"])
    net = build_net(description["model"], len(regions))
    net.load_state_dict(state)
    size, max_boxes = description["image_size"], description["max_boxes"]
    return Detector(net.eval(), description["model"], regions, size, max_boxes, description["info"]).to(device)
