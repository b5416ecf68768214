"""Weights that sum to 1, as a picture: a triangle for three of them, a line for two; with the reading in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ufgvc.evaluation.search_record import Dimension, SearchRecord, TrialResult
from ufgvc.evaluation.search_result import leading
from ufgvc.evaluation.selection_bias import contenders
from ufgvc.evaluation.stats import holm
from ufgvc.reports.figures import ACCENT, INK, LINE, SECOND, SOFT, STYLE, Chart
from ufgvc.reports.search_figures import MANY, shades, too_few
from ufgvc.reports.search_text import LIKELY
from ufgvc.reports.tables import percent

HEIGHT = math.sqrt(3) / 2


def simplex_chart(axis: Dimension, story: SearchRecord) -> Chart | None:
    """None for other axes, for more than three weights, and where nothing ran."""
    shown = [trial for trial in story.trials if trial.state != "failed" and trial.curve and not trial.repeat]
    if axis.kind != "simplex" or len(axis.parts) not in (2, 3) or not contenders(story) or not shown:
        return None
    with mpl.rc_context(STYLE | {"legend.fontsize": 9.5}):
        figure = _triangle(axis, story, shown) if len(axis.parts) == 3 else _line(axis, story, shown)
    alt = f"Cross-validated accuracy over the weights {', '.join(axis.parts)}. {simplex_in_words(axis, story)}"
    return Chart(f"search-{axis.name.replace('.', '-')}", "The weights", alt, figure)


def projected(values: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> NDArray[np.float64]:
    """(N, 2): the first weight's corner at (0, 0), the second's at (1, 0), the third's on top; distances are equal along all sides."""
    weights = np.array([[float(value[part]) for part in parts] for value in values]).reshape(-1, 3)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return weights @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, HEIGHT]])


def simplex_in_words(axis: Dimension, story: SearchRecord) -> str:
    """Where the best settings lie, and whether any weight goes with the score beyond chance."""
    top, entered = leading(story), contenders(story)
    if not top:
        return too_few(story)
    where = ", ".join(f"{part} {np.mean([trial.values[axis.name][part] for trial in top]):.2f}" for part in axis.parts)
    paper = next((trial for trial in story.trials if trial.number == 0), None)
    beside = (
        f" (the paper's: {', '.join(f'{paper.values[axis.name][part]:.3g}' for part in axis.parts)})" if paper else ""
    )
    return f"The best {len(top)} of {len(entered)} complete trials lie about {where}{beside}. {_trend(axis, entered)}"


def _trend(axis: Dimension, entered: Sequence[TrialResult]) -> str:
    """Rank correlation of each weight with the score, with Holm's correction; two weights have one between them."""
    scores = [trial.curve[-1] for trial in entered]
    found = {}
    for part in axis.parts if len(axis.parts) > 2 else axis.parts[:1]:
        weights = [trial.values[axis.name][part] for trial in entered]
        if np.ptp(weights) > 0 and np.ptp(scores) > 0:
            found[part] = spearmanr(weights, scores)
    corrected = holm([one.pvalue for one in found.values()]) if found else np.zeros(0)
    sure = [(part, one.statistic) for (part, one), p in zip(found.items(), corrected, strict=True) if p < LIKELY]
    if not sure:
        return "Over all complete trials the score does not rise or fall with any of the weights beyond chance."
    told = " and ".join(
        f"{'more' if rho > 0 else 'less'} {part} (rank correlation {rho:+.2f})".replace("-", "\u2212")
        for part, rho in sure
    )
    return f"Over all complete trials a higher score goes with {told}."


def _triangle(axis: Dimension, story: SearchRecord, shown: Sequence[TrialResult]) -> Figure:
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.1, HEIGHT + 0.1), aspect="equal")
    ax.axis("off")
    _grid(ax)
    for x, y, across, up, part in zip((0, 1, 0.5), (-0.06, -0.06, HEIGHT + 0.03), ("center",) * 3, ("top", "top", "bottom"), axis.parts,
                                      strict=True):  # fmt: skip
        ax.text(x, y, f"only {part}", ha=across, va=up, color=INK, fontweight="bold")
    for place, (x, y, turn) in enumerate(((0.16, 0.5, 60), (0.5, -0.1, 0), (0.84, 0.5, -60))):
        arrow = (
            f"\u2190 {axis.parts[0]}"
            if place == 0
            else f"{axis.parts[place]} \u2192"
            if place == 1
            else f"\u2190 {axis.parts[2]}"
        )
        ax.text(x, y, arrow, ha="center", va="center", rotation=turn, rotation_mode="anchor", color=SOFT)
    points = dict(
        zip(
            (trial.number for trial in shown),
            projected([trial.values[axis.name] for trial in shown], axis.parts),
            strict=True,
        )
    )
    _marks(ax, story, shown, points)
    ax.legend(handles=_handles(story), loc="upper right", borderaxespad=0, labelspacing=0.8)
    return figure


def _grid(ax: Any) -> None:
    """Lines of equal weight at each fifth; the number stands at the end of the side along which its weight grows."""
    corners = np.eye(3)
    for share in (0.2, 0.4, 0.6, 0.8):
        for part in range(3):
            second, third = corners[(part + 1) % 3], corners[(part + 2) % 3]
            ends = share * corners[part] + (1 - share) * np.stack([second, third])
            (x0, y0), (x1, y1) = _flat(ends)
            ax.plot([x0, x1], [y0, y1], color=LINE, linewidth=0.9, zorder=1)
            side = [(-6, 2, "right", "center"), (0, -4, "center", "top"), (6, 2, "left", "center")][part]
            ax.annotate(
                f"{share:g}",
                (x1, y1),
                side[:2],
                textcoords="offset points",
                ha=side[2],
                va=side[3],
                fontsize=9,
                color=SOFT,
            )
    edge = _flat(np.eye(3)[[0, 1, 2, 0]])
    ax.plot(edge[:, 0], edge[:, 1], color=SOFT, linewidth=1.2, zorder=1)


def _flat(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return projected([dict(enumerate(row)) for row in weights], range(3))  # type: ignore[arg-type, misc]


def _line(axis: Dimension, story: SearchRecord, shown: Sequence[TrialResult]) -> Figure:
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    ax = figure.subplots()
    first, second = axis.parts
    points = {trial.number: np.array([trial.values[axis.name][first], 100 * trial.curve[-1]]) for trial in shown}
    _marks(ax, story, shown, points)
    ax.set(xlim=(-0.03, 1.03), xlabel=f"weight of {first} (the rest is {second})", ylabel="cross-validated accuracy, %")
    figure.legend(handles=_handles(story), loc="outside upper left", ncols=4)
    return figure


def _marks(
    ax: Any, story: SearchRecord, shown: Sequence[TrialResult], points: Mapping[int, NDArray[np.float64]]
) -> None:
    """The lower scores first, so that the higher ones lie on them."""
    opacity, size = shades(story), 10 if len(shown) < MANY else 7
    for trial in sorted(shown, key=lambda trial: trial.curve[-1]):
        x, y = points[trial.number]
        if trial.state == "stopped":
            ax.plot(x, y, "o", color=SOFT, alpha=0.35, markersize=3.5, markeredgewidth=0, zorder=2)
        else:
            filled = (ACCENT, opacity[trial.number])
            ax.plot(
                x,
                y,
                "o",
                markerfacecolor=filled,
                markeredgecolor=ACCENT,
                markeredgewidth=0.8,
                markersize=size,
                zorder=3,
            )
        if trial.number == 0:
            ax.plot(x, y, "D", color="none", markeredgecolor=SECOND, markeredgewidth=2.2, markersize=14, zorder=5)
        if trial.number == story.best:
            ax.plot(x, y, "o", color="none", markeredgecolor=INK, markeredgewidth=2.2, markersize=17, zorder=4)


def _handles(story: SearchRecord) -> list[Any]:
    from matplotlib.lines import Line2D

    entered, opacity = sorted(contenders(story), key=lambda trial: -trial.curve[-1]), shades(story)
    samples = {
        percent(trial.curve[-1]): opacity[trial.number]
        for trial in (entered[0], entered[len(entered) // 2], entered[-1])
    }

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, **style)

    handles = [
        mark(score or "", marker="o", markerfacecolor=(ACCENT, alpha), markeredgecolor=ACCENT, markersize=10)
        for score, alpha in samples.items()
    ]
    if any(trial.number == story.best for trial in entered):
        best = mark(
            f"best (trial {story.best})",
            marker="o",
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=2.2,
            markersize=14,
        )
        handles.append(best)
    paper = mark(
        "the paper's", marker="D", markerfacecolor="none", markeredgecolor=SECOND, markeredgewidth=2.2, markersize=11
    )
    stopped = mark("stopped early", marker="o", color=SOFT, alpha=0.35, markersize=4)
    return [*handles, paper, *([stopped] if any(trial.state == "stopped" for trial in story.trials) else [])]
