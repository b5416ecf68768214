"""Draws the detector's report: Table I and Figure 3 of the paper with our figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ufgvc.core.types import Box
from ufgvc.data.images import Pixels
from ufgvc.data.resize import resize_longest
from ufgvc.regions.masks import make_masks

# Annotated photographs and mAP@0.5 in the paper: YOLOv5, 480 px, COCO weights.
PAPER = {"Cotton80 (paper)": (30, 0.963), "SoyLocal (paper)": (70, 0.995)}
# Of the first region, the second, ...: as many as there can be, and not to be confused with green leaves.
_COLOURS = ("#c2185b", "#1565c0", "#ef6c00", "#6a1b9a", "#00838f", "#5d4037", "#f9a825", "#455a64")
_PANEL_SIDE = 320  # pixels


def format_table(name: str, metrics: Mapping[str, Any]) -> str:
    """Table I in Markdown.  metrics: as of `detect`; what was not published or measured is an empty cell."""
    by_region = metrics["map50_by_region"]
    header = ["data", "annotated", "mAP@0.5", *by_region, "every region", "evaluated on"]
    found, total = metrics["num_complete"], metrics["num_evaluated"]
    ours = [
        name,
        str(metrics["num_trained"]),
        _format(metrics["map50"]),
        *map(_format, by_region.values()),
        f"{found}/{total} ({found / total:.1%})",
        f"{total} {metrics['evaluated_on']}",
    ]
    empty = [""] * (len(header) - 3)
    paper = [[data, str(count), _format(value), *empty] for data, (count, value) in PAPER.items()]
    rows = [header, ["---"] * len(header), ours, *paper]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def draw_detections(leaves: Sequence[tuple[str, Pixels, Sequence[Box]]], regions: Sequence[str]) -> bytes:
    """Figure 3 as PNG, a row for each leaf: the photograph with its boxes, then its pixels inside each region's boxes.

    leaves: (name, (H, W, 3) uint8, boxes in its pixels).  regions: of the data set.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ufgvc.core.fonts import PLAIN, drawable

    with mpl.rc_context(PLAIN):
        columns, colours = ("leaf", *regions), dict(zip(regions, _COLOURS, strict=False))
        figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(leaves) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(leaves), len(columns), squeeze=False)
        for row, (name, image, boxes) in zip(axes, leaves, strict=True):
            row[0].set_ylabel(name, fontsize=8)
            _draw_boxes(row[0], image, boxes, colours)
            masks = make_masks(image, boxes, "box", regions)
            for axis, region in zip(row[1:], regions, strict=True):
                _draw_masked(axis, image, masks[region])
        for axis, title, colour in zip(axes[0], columns, ("black", *colours.values()), strict=True):
            axis.set_title(title, fontsize=10, color=colour)
        for axis in axes.ravel():
            axis.set_xticks([])
            axis.set_yticks([])
        buffer = io.BytesIO()
        with drawable(figure):
            figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_boxes(axis: Any, image: Pixels, boxes: Sequence[Box], colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Rectangle

    small = resize_longest(image, _PANEL_SIDE)
    scale = small.shape[1] / image.shape[1]
    axis.imshow(small)
    for box in boxes:
        corner, width, height = (box.x0 * scale, box.y0 * scale), box.width * scale, box.height * scale
        axis.add_patch(Rectangle(corner, width, height, fill=False, lw=1.4, ec=colours[box.region]))


def _draw_masked(axis: Any, image: Pixels, mask: np.ndarray | None) -> None:
    """The image inside the mask, on white; without a mask the words "not found"."""
    masked = np.full_like(image, 255) if mask is None else np.where(mask[..., None], image, np.uint8(255))
    axis.imshow(resize_longest(masked, _PANEL_SIDE))
    if mask is None:
        axis.text(0.5, 0.5, "not found", transform=axis.transAxes, ha="center", va="center", color="#555555")
