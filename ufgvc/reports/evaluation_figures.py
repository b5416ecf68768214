"""The charts of an evaluation: accuracy, training curves, recall and confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ufgvc.core.fonts import shorten
from ufgvc.reports.figures import ACCENT, INK, SECOND, SOFT, STYLE, Chart

NAMES_UP_TO = 24  # classes whose names are written next to the confusion matrix
COUNTS_UP_TO = 12  # classes whose counts are written into it


def accuracy_chart(accuracies: Mapping[str, tuple[float, float, float]], chance: float) -> Chart:
    """One line for each model: accuracy and interval (value, low, high in [0, 1]); the first in the accent colour."""
    labels = [shorten(name) for name in accuracies]
    with mpl.rc_context(STYLE):
        figure, ax = _axes(7.2, 0.75 + 0.42 * len(labels))
        for y, (value, low, high) in enumerate(accuracies.values()):
            colour, span = ACCENT if y == 0 else SOFT, [100 * low, 100 * high]
            ax.plot(span, [y, y], color=colour, linewidth=3, solid_capstyle="round", alpha=0.45)
            ax.plot([100 * value], [y], "o", color=colour, markersize=8, clip_on=False)
        ax.axvline(100 * chance, color=SOFT, linewidth=1, linestyle="--")
        ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
        ax.set(xlabel="accuracy, % (dashed: chance level)")
        ax.set_xlim(left=0, right=min(102, 100 * max(high for _, _, high in accuracies.values()) + 6))
        ax.grid(visible=False, axis="y")
    listed = "; ".join(
        f"{name} {100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        for name, (value, low, high) in accuracies.items()
    )
    return Chart("accuracy", "Accuracy with 95 % intervals", f"Accuracy with 95 % interval: {listed}.", figure)


def training_chart(history: Sequence[Mapping[str, float]]) -> Chart | None:
    """Losses and accuracies of the rows of metrics.jsonl over "epoch"; None without any.

    Metrics with "loss" in their name are drawn on the left, those with "accuracy" on the right.
    """
    epochs = [float(row.get("epoch", i)) for i, row in enumerate(history)]
    names = sorted({key for row in history for key, value in row.items() if isinstance(value, int | float)})
    losses = [name for name in names if "loss" in name.lower()]
    accuracies = [name for name in names if "accuracy" in name.lower()]
    if not losses and not accuracies:
        return None
    with mpl.rc_context(STYLE | {"legend.fontsize": 9.5}):
        figure, (left, right) = _axes(9.2, 3.1, ncols=2)
        for ax, chosen, title, factor in ((left, losses, "Loss", 1), (right, accuracies, "Accuracy, %", 100)):
            for i, name in enumerate(chosen):
                rows = zip(epochs, history, strict=True)
                x, y = zip(
                    *((epoch, factor * row[name]) for epoch, row in rows if row.get(name) is not None), strict=True
                )
                ax.plot(x, y, label=name, marker="o" if len(x) < 3 else None, color=(ACCENT, SECOND, SOFT)[i % 3],
                        linestyle=("-", "--", ":")[i // 3 % 3])  # fmt: skip
            ax.set(title=title, xlabel="epoch")
            ax.set_ylim(bottom=0)
            ax.grid(visible=False, axis="x")
            ax.xaxis.get_major_locator().set_params(integer=True)
            if chosen:
                ax.legend()
    last = history[-1]
    listed = ", ".join(f"{name} {last[name]:.3g}" for name in (*losses, *accuracies) if last.get(name) is not None)
    alt = f"Losses and accuracies over {len(history)} epochs. At the end: {listed}."
    return Chart("training", "Training curve", alt, figure)


def recall_chart(recall: NDArray[np.float64]) -> Chart:
    """A histogram of the recall (K,) of the cultivars, in [0, 1]; NaN is left out."""
    known = recall[~np.isnan(recall)]
    edges = np.linspace(0, 100, 11)
    counts, _ = np.histogram(100 * known, bins=edges)
    with mpl.rc_context(STYLE):
        figure, ax = _axes(7.2, 2.5)
        ax.bar(edges[:-1] + 5, counts, width=8.8, color=ACCENT)
        ax.set(xlabel="recall, %", ylabel="cultivars", xticks=edges[::2])
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.grid(visible=False, axis="x")
    zero, full, median = int((known == 0).sum()), int((known == 1).sum()), 100 * np.median(known)
    alt = f"Recall of {len(known)} cultivars: median {median:.0f} %, {full} with 100 %, {zero} with 0 %."
    return Chart("recall", "Recall of the cultivars", alt, figure)


def confusion_chart(counts: NDArray[np.int64], classes: Sequence[str]) -> Chart:
    """The confusion matrix (K, K), row the true cultivar, normalised by row; names where there is room."""
    leaves = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, leaves, out=np.zeros(counts.shape), where=leaves > 0)
    transparent_to_green = LinearSegmentedColormap.from_list("", [(0.12, 0.48, 0.30, 0.0), (0.12, 0.48, 0.30, 1.0)])
    size = len(classes)
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure, ax = _axes(6.4, 6.4)
        ax.imshow(shares, cmap=transparent_to_green, vmin=0, vmax=1, interpolation="nearest")
        ax.set(xlabel="predicted cultivar", ylabel="true cultivar")
        if size <= NAMES_UP_TO:
            names = [shorten(name) for name in classes]
            ax.set(xticks=range(size), yticks=range(size), yticklabels=names)
            ax.set_xticklabels(names, rotation=90 if max(map(len, names)) > 3 else 0)
        if size <= COUNTS_UP_TO:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    ax.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.55 else INK)
    alt = f"Confusion matrix of {size} cultivars: {np.trace(counts)} of {counts.sum()} leaves are on the diagonal."
    return Chart("confusion", "Confusion matrix", alt, figure)


def _axes(width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)
