"""Figure 3: leaves, and what their vein and contour boxes leave of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from ufgvc.core.types import REGIONS, Box
from ufgvc.regions.letterbox import Pixels, resize_longest
from ufgvc.regions.masks import make_masks

_COLOURS = {"vein": "#c2185b", "contour": "#1565c0"}
_SIDE = 320  # pixels of a panel


def draw_detections(leaves: Sequence[tuple[str, Pixels, Sequence[Box]]], kind: str = "box") -> bytes:
    """PNG with a row a leaf: the photograph with its boxes, then what each region's mask leaves of it.

    leaves: (name, (H, W, 3) uint8, boxes in its pixels). kind: of the masks. A region that was not found says so.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from ufgvc.core.fonts import PLAIN, drawable

    with mpl.rc_context(PLAIN):
        columns = ("leaf", *REGIONS)
        figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(leaves) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(leaves), len(columns), squeeze=False)
        for row, (name, image, boxes) in zip(axes, leaves, strict=True):
            small = resize_longest(image, _SIDE)
            scale = small.shape[1] / image.shape[1]
            masks = make_masks(image, boxes, kind)
            row[0].imshow(small)
            row[0].set_ylabel(name, fontsize=8)
            for box in boxes:
                corner = (box.x0 * scale, box.y0 * scale)
                colour = _COLOURS.get(box.region, "black")
                row[0].add_patch(
                    Rectangle(corner, box.width * scale, box.height * scale, fill=False, lw=1.4, ec=colour)
                )
            for axis, region in zip(row[1:], REGIONS, strict=True):
                mask = masks[region]
                shown = (
                    np.full_like(small, 255)
                    if mask is None
                    else resize_longest(np.where(mask[..., None], image, np.uint8(255)), _SIDE)
                )
                axis.imshow(shown)
                if mask is None:
                    axis.text(
                        0.5, 0.5, "not found", transform=axis.transAxes, ha="center", va="center", color="#555555"
                    )
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title, fontsize=10, color=_COLOURS.get(title, "black"))
        for axis in axes.ravel():
            axis.set_xticks([])
            axis.set_yticks([])
        buffer = io.BytesIO()
        with drawable(figure):
            figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
