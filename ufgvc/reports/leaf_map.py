"""A map of leaves as inline SVG: a mark for each, its name and thumbnail on hover, without a script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, MARGIN = 720, 520, 28  # units of the drawing
GOLDEN = 137.508  # degrees: neighbouring cultivars get hues far apart
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.2L4.8 4H-4.8z",
    "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
)
THUMBNAIL, NAMED = 96, 24  # units of a thumbnail's side; cultivars whose names are written on the map


@dataclass(frozen=True)
class LeafMap:
    """M leaves in two dimensions.

    name: of the block.  places: (M, 2) in [0, 1].  labels: (M,) indices into `classes`.  texts: what hovering shows.
    marked: (M,) bool, leaves with a ring.  thumbnails: M JPEG files, or () for none.
    """

    name: str
    title: str
    alt: str
    classes: Sequence[str]
    places: NDArray[np.float64]
    labels: NDArray[np.int64]
    texts: Sequence[str]
    marked: NDArray[np.bool_]
    thumbnails: Sequence[bytes] = ()

    def to_svg(self) -> str:
        """Inline SVG. The marks are below; above them lie invisible ones, each with its title and thumbnail, so that no
        mark covers a thumbnail.
        """
        x = MARGIN + self.places[:, 0] * (WIDTH - 2 * MARGIN)
        y = HEIGHT - MARGIN - self.places[:, 1] * (HEIGHT - 2 * MARGIN)
        marks, above = [], []
        for row, label in enumerate(self.labels.tolist()):
            at = f"transform='translate({x[row]:.1f} {y[row]:.1f})'"
            ring = "<circle class='ring' r='9'/>" if self.marked[row] else ""
            marks.append(f"<g {at}>{_shape(label)}{ring}</g>")
            text = f"<title>{escape(self.texts[row])}</title><circle class='hit' r='8'/>"
            above.append(f"<g class='leaf' {at}>{text}{self._thumbnail(row, x[row], y[row])}</g>")
        names = self._names(x, y) if len(self.classes) <= NAMED else []
        return (
            f"<svg class='map' viewBox='0 0 {WIDTH} {HEIGHT}' aria-hidden='true' focusable='false'>"
            f"{''.join(marks)}{''.join(names)}{''.join(above)}</svg>{self._legend()}"
        )

    def _thumbnail(self, row: int, x: float, y: float) -> str:
        if not self.thumbnails:
            return ""
        left = -x + min(max(x + 10, 0), WIDTH - THUMBNAIL)
        top = -y + min(max(y + 10, 0), HEIGHT - THUMBNAIL)
        data = base64.b64encode(self.thumbnails[row]).decode()
        size = f"width='{THUMBNAIL}' height='{THUMBNAIL}'"
        return f"<image x='{left:.0f}' y='{top:.0f}' {size} href='data:image/jpeg;base64,{data}'/>"

    def _names(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[str]:
        """The name of each cultivar at the median place of its leaves."""
        found = []
        for label in np.unique(self.labels):
            here = self.labels == label
            place = f"x='{np.median(x[here]):.1f}' y='{np.median(y[here]):.1f}'"
            found.append(f"<text {place}>{escape(self.classes[label])}</text>")
        return found

    def _legend(self) -> str:
        """Every cultivar with its mark."""
        items = [
            f"<li><svg viewBox='-7 -7 14 14' aria-hidden='true'>{_shape(int(label))}</svg>"
            f"{escape(self.classes[label])}</li>"
            for label in np.unique(self.labels)
        ]
        return f"<ul class='legend'>{''.join(items)}</ul>"


def _shape(label: int) -> str:
    hue = label * GOLDEN % 360
    return f"<path style='--hue:{hue:.0f}' d='{SHAPES[label % len(SHAPES)]}'/>"
