"""The charts of an audit: leaves of each cultivar, measures of the photographs, and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ufgvc.core.fonts import shorten
from ufgvc.evaluation.audit.growth import Growth
from ufgvc.reports.figures import ACCENT, SECOND, SOFT, STYLE, Chart

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NAMED = 40  # cultivars with a bar of their own


def balance_chart(counts: Mapping[str, Ints], classes: Sequence[str]) -> Chart:
    """Leaves of each cultivar in each split, {split: (K,)}; a histogram where there are too many cultivars."""
    total = np.sum(list(counts.values()), axis=0)
    colours = dict(zip(counts, (ACCENT, SECOND, SOFT), strict=False))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.24 * min(len(classes), NAMED)), layout="constrained")
        ax = figure.subplots()
        if len(classes) <= NAMED:
            left = np.zeros(len(classes))
            for split, values in counts.items():
                ax.barh(range(len(classes)), values, left=left, color=colours[split], label=split, height=0.7)
                left += values
            names = [shorten(name) for name in classes]
            ax.set(yticks=range(len(classes)), yticklabels=names, xlabel="leaves")
            ax.set_ylim(len(classes) - 0.4, -0.6)
            ax.grid(visible=False, axis="y")
            ax.legend(loc="lower right")
        else:
            figure.set_size_inches(7.2, 2.6)
            step = -(-(int(np.ptp(total)) + 1) // 20)  # leaves in a bar, which stands about its numbers
            ax.hist(total, bins=np.arange(total.min() - 0.5, total.max() + step, step).tolist(), color=ACCENT)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set(xlabel="leaves of a cultivar", ylabel="cultivars")
            ax.grid(visible=False, axis="x")
    alt = f"Leaves of {len(classes)} cultivars: from {total.min()} to {total.max()}, median {np.median(total):.0f}."
    return Chart("balance", "Leaves of each cultivar", alt, figure)


def measures_chart(values: Mapping[str, Floats]) -> Chart:
    """A histogram of each measure of the photographs, {axis label: (N,)}; NaN is left out."""
    with mpl.rc_context(STYLE | {"axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9}):
        figure = Figure(figsize=(9.2, 2.2 * -(-len(values) // 3)), layout="constrained")
        grid = figure.subplots(-(-len(values) // 3), 3, squeeze=False)
        texts = []
        for ax, (name, column) in zip(grid.flat, values.items(), strict=False):
            known = column[~np.isnan(column)]
            ax.hist(known, bins=24, color=ACCENT)
            ax.set(xlabel=name)
            ax.grid(visible=False, axis="x")
            if len(known):
                texts.append(f"{name}: {known.min():.3g} to {known.max():.3g}, median {np.median(known):.3g}")
        for ax in grid.flat[len(values) :]:
            ax.set_axis_off()
    return Chart(
        "measures", "Measures of the photographs", f"Histograms of the photographs. {'; '.join(texts)}.", figure
    )


def growth_chart(curve: Growth, chance: float) -> Chart:
    """Accuracy over the training leaves of a cultivar with 95 % intervals, and the forecast for twice as many."""
    x = [point.leaves for point in curve.points]
    y = [100 * point.found.value for point in curve.points]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        ax = figure.subplots()
        for point in curve.points:
            ax.plot([point.leaves] * 2, [100 * point.found.low, 100 * point.found.high], color=ACCENT, alpha=0.45,
                    linewidth=3, solid_capstyle="round")  # fmt: skip
        ax.plot(x, y, "o-", color=ACCENT, label="measured")
        if curve.doubled is not None:
            one, at = curve.doubled, curve.doubled_leaves
            ax.plot([at, at], [100 * one.low, 100 * one.high], color=SECOND, alpha=0.45, linewidth=3)
            ax.plot([x[-1], at], [y[-1], 100 * one.value], "--", color=SECOND)
            ax.plot([at], [100 * one.value], "s", color=SECOND, label="forecast")
            x = [*x, at]
        ax.axhline(100 * chance, color=SOFT, linewidth=1, linestyle="--")
        ax.set_xscale("log", base=2)
        ax.set(xlabel="training leaves of a cultivar, mean (dashed: chance level)", ylabel="accuracy, %", ylim=(0, 102))
        ax.set_xticks(x, [f"{leaves:.3g}" for leaves in x])
        ax.minorticks_off()
        ax.legend(loc="lower right")
    listed = "; ".join(
        f"{point.leaves:.3g} leaves {100 * point.found.value:.1f} % "
        f"({100 * point.found.low:.1f} to {100 * point.found.high:.1f})"
        for point in curve.points
    )
    return Chart("growth", "Learning curve", f"Accuracy by training leaves of a cultivar: {listed}.", figure)
