"""Types that several packages share: kinds of masks, and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MaskKind = Literal["box", "luminance", "structure", "exact"]  # how masks are made; see ufgvc/regions/masks.py


@dataclass(frozen=True)
class Box:
    """A bounding box of a region, in pixels of the upright image: x to the right, y down, score in [0, 1]."""

    region: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0

    @property
    def width(self) -> float:
        """In pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """In pixels."""
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height
