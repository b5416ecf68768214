"""The figures of a report: charts as SVG that follows the page's colours, photographs side by side as tables of pictures.

Every figure also exists as a PNG file on white. Nothing here touches pyplot's global state.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ufgvc.core.fonts import PLAIN, as_text, drawable, shortened

# Each drawing colour and the CSS variable that takes its place in the page, so that a chart follows light and dark.
COLOURS = {"#17211b": "--ink", "#5f6b64": "--soft", "#d5dcd6": "--line", "#1f7a4d": "--accent", "#b98a2f": "--second"}
INK, SOFT, LINE, ACCENT, SECOND = COLOURS
STYLE: dict[Any, Any] = PLAIN | {
    "font.size": 11, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "ufgvc",
    "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": LINE, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.8, "xtick.major.size": 0, "ytick.major.size": 0, "lines.linewidth": 2,
    "axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip


LETTERS = 24  # that stand side by side under a picture of a figure


@dataclass(frozen=True)
class Chart:
    """A drawing: name (file name without ending), title, alt (what a person who cannot see it should know), figure."""

    name: str
    title: str
    alt: str
    figure: Figure

    def to_svg(self) -> str:
        """Inline SVG without a fixed size, identifiers made unique by the chart's name, colours as CSS variables."""
        buffer = io.StringIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with mpl.rc_context(STYLE), as_text():
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # Inside HTML the namespaces are implied, and a fixed size would not shrink on a telephone.
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.name}-\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{self.name}-\1"', svg)
        for colour, variable in COLOURS.items():
            svg = svg.replace(colour, f"var({variable})")
        return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)

    def to_png(self) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE), drawable(self.figure):
            self.figure.savefig(buffer, format="png", dpi=150, facecolor="white", bbox_inches="tight")
        return buffer.getvalue()


@dataclass(frozen=True)
class Panels:
    """Photographs side by side: one row a leaf (its caption first), one column a model or mask; images (H, W, 3) uint8.

    marks[row][column] is a short line under a picture ("" for none).
    """

    name: str
    title: str
    alt: str
    columns: tuple[str, ...]
    captions: tuple[str, ...]
    images: tuple[tuple[NDArray[np.uint8], ...], ...]
    marks: tuple[tuple[str, ...], ...]

    def to_png(self) -> bytes:
        rows, columns = len(self.images), len(self.columns)
        with mpl.rc_context(STYLE | {"axes.grid": False}):
            figure = Figure(figsize=(2.1 * columns, 2.35 * rows + 0.3), layout="constrained")
            axes = figure.subplots(rows, columns, squeeze=False)
            for i, row in enumerate(self.images):
                for j, picture in enumerate(row):
                    ax = axes[i][j]
                    ax.imshow(picture)
                    ax.set(xticks=[], yticks=[], frame_on=False)
                    ax.set_xlabel(_wrapped(self.marks[i][j]), fontsize=9)
                    if i == 0:
                        ax.set_title(_wrapped(self.columns[j]), loc="center")
                axes[i][0].set_ylabel(_wrapped(self.captions[i]))
            buffer = io.BytesIO()
            with drawable(figure):
                figure.savefig(buffer, format="png", dpi=130, facecolor="white")
        return buffer.getvalue()


def _wrapped(text: str) -> str:
    return fill(shortened(text, 3 * LETTERS), LETTERS)


def data_uri(image: NDArray[np.uint8], side: int = 256) -> str:
    """A picture for the page: at most `side` pixels on its longer side, JPEG, in base64."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _axes(width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)


def accuracy_chart(accuracies: Mapping[str, tuple[float, float, float]], chance: float) -> Chart:
    """One line a model: accuracy and its interval (value, low, high in [0, 1]), the first one in the accent colour."""
    labels = [shortened(name) for name in accuracies]
    with mpl.rc_context(STYLE):
        figure, ax = _axes(7.2, 0.75 + 0.42 * len(labels))
        for place, (value, low, high) in enumerate(accuracies.values()):
            colour = ACCENT if place == 0 else SOFT
            ax.plot(
                [100 * low, 100 * high], [place, place], color=colour, linewidth=3, solid_capstyle="round", alpha=0.45
            )
            ax.plot([100 * value], [place], "o", color=colour, markersize=8, clip_on=False)
        ax.axvline(100 * chance, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        ax.set(
            yticks=range(len(labels)),
            yticklabels=labels,
            ylim=(len(labels) - 0.4, -0.6),
            xlabel="accuracy, % (dashed: chance)",
        )
        ax.set_xlim(left=0, right=min(102, 100 * max(high for _, _, high in accuracies.values()) + 6))
        ax.grid(visible=False, axis="y")
    told = "; ".join(
        f"{name} {100 * v:.1f} % ({100 * a:.1f} to {100 * b:.1f})" for name, (v, a, b) in accuracies.items()
    )
    return Chart("accuracy", "Accuracy with 95 % intervals", f"Accuracy and interval: {told}.", figure)


def training_chart(history: Sequence[Mapping[str, float]]) -> Chart | None:
    """Losses and accuracies over the epochs of metrics.jsonl; None if there is nothing to draw.

    A record holds "epoch" (or "step") and metrics by name: names with "loss" go left, names with "accuracy" right.
    """
    epochs = [float(row.get("epoch", row.get("step", place))) for place, row in enumerate(history)]
    names = sorted({key for row in history for key, value in row.items() if isinstance(value, int | float)})
    losses = [name for name in names if "loss" in name.lower()]
    accuracies = [name for name in names if "accuracy" in name.lower()]
    if not losses and not accuracies:
        return None
    with mpl.rc_context(STYLE | {"legend.fontsize": 9.5}):
        figure, (left, right) = _axes(9.2, 3.1, ncols=2)
        for ax, chosen, title, factor in ((left, losses, "Loss", 1), (right, accuracies, "Accuracy, %", 100)):
            for place, name in enumerate(chosen):
                style = {
                    "color": (ACCENT, SECOND, SOFT)[place % 3],
                    "linestyle": ("-", (0, (5, 2)), (0, (1, 1.5)))[place // 3 % 3],
                }
                known = [
                    (e, factor * row[name]) for e, row in zip(epochs, history, strict=True) if row.get(name) is not None
                ]
                ax.plot(*zip(*known, strict=True), label=name, marker="o" if len(known) < 3 else None, **style)
            ax.set(title=title, xlabel="epoch")
            ax.set_ylim(bottom=0)
            ax.grid(visible=False, axis="x")
            ax.xaxis.get_major_locator().set_params(integer=True)
            if chosen:
                ax.legend()
    last = ", ".join(
        f"{name} {history[-1][name]:.3g}" for name in (*losses, *accuracies) if history[-1].get(name) is not None
    )
    alt = f"Losses and accuracies over {len(history)} epochs. At the end: {last}."
    return Chart("training", "Training curve", alt, figure)


def recall_chart(recall: NDArray[np.float64]) -> Chart:
    """How many cultivars have which recall."""
    known = recall[~np.isnan(recall)]
    edges = np.linspace(0, 100, 11)
    counts, _ = np.histogram(100 * known, bins=edges)
    with mpl.rc_context(STYLE):
        figure, ax = _axes(7.2, 2.5)
        ax.bar(edges[:-1] + 5, counts, width=8.8, color=ACCENT)
        ax.set(xlabel="recall, %", ylabel="cultivars", xticks=edges[::2])
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.grid(visible=False, axis="x")
    none, full = int((known == 0).sum()), int((known == 1).sum())
    alt = f"Recall of {len(known)} cultivars: {full} always right, {none} never right, median {100 * np.median(known):.0f} %."
    return Chart("recall", "Recall of the cultivars", alt, figure)


def confusion_chart(counts: NDArray[np.int64], classes: Sequence[str]) -> Chart:
    """The confusion matrix, each row as shares of its cultivar's leaves. Names are written where there is room."""
    leaves = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, leaves, out=np.zeros(counts.shape), where=leaves > 0)
    fading = LinearSegmentedColormap.from_list("fading", [(0.12, 0.48, 0.30, 0.0), (0.12, 0.48, 0.30, 1.0)])
    size = len(classes)
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure, ax = _axes(6.4, 6.4)
        ax.imshow(shares, cmap=fading, vmin=0, vmax=1, interpolation="nearest")
        ax.set(xlabel="predicted cultivar", ylabel="true cultivar")
        if size <= 24:
            names = [shortened(name) for name in classes]
            ax.set(xticks=range(size), yticks=range(size), yticklabels=names)
            ax.set_xticklabels(names, rotation=90 if max(map(len, names)) > 3 else 0)
        if size <= 12:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    ax.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.55 else INK)
    alt = f"Confusion matrix of {size} cultivars: {np.trace(counts)} of {counts.sum()} leaves lie on the diagonal."
    return Chart("confusion", "Confusion matrix", alt, figure)
