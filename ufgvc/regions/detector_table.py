"""Table I: how well the regions are found, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ufgvc.core.types import REGIONS

PAPER = {
    "Cotton80 (paper)": (30, 0.963),
    "SoyLocal (paper)": (70, 0.995),
}  # annotated photographs, mAP@0.5; YOLOv5, 480 px, COCO weights
_HEAD = ["data", "annotated", "mAP@0.5", *(f"{region}" for region in REGIONS), "every region", "measured on"]


def format_table(name: str, metrics: Mapping[str, Any]) -> str:
    """Markdown. `metrics` is what `detect` measured; a figure that nobody published or measured is an empty cell."""
    by_region = metrics["map50_by_region"]
    k, n = metrics["complete_k"], metrics["complete_n"]
    ours = [
        name,
        str(metrics["trained_on"]),
        _figure(metrics["map50"]),
        *(_figure(by_region.get(region)) for region in REGIONS),
        f"{k}/{n} ({k / n:.1%})",
        f"{n} {metrics['measured_on']}",
    ]
    theirs = [[data, str(count), _figure(value), "", "", "", ""] for data, (count, value) in PAPER.items()]
    rows = [_HEAD, ["---"] * len(_HEAD), ours, *theirs]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
