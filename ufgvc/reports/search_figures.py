"""The charts of a search: best score over the trials, weights of a simplex, all parameters, importance."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from ufgvc.evaluation.search_parameters import Importance, free_parameters
from ufgvc.evaluation.search_record import Dimension, SearchRecord
from ufgvc.evaluation.search_summary import SearchSummary
from ufgvc.evaluation.selection_bias import best_gains, expected_maximum
from ufgvc.reports.figures import ACCENT, INK, LINE, SECOND, SOFT, STYLE, Chart
from ufgvc.reports.tables import percent

MANY = 60  # trials; more are drawn with smaller marks and thinner lines
BAND = (0.05, 0.95)
HEIGHT = math.sqrt(3) / 2  # of the triangle with sides 1
SMALL_LEGEND = STYLE | {"legend.fontsize": 9.5}


def progress_chart(record: SearchRecord, summary: SearchSummary) -> Chart | None:
    """The best score so far, and the best score of as many equal settings; None without complete trials."""
    trials = sorted(record.candidates, key=lambda trial: trial.number)
    if not trials:
        return None
    numbers, scores = [trial.number for trial in trials], 100 * np.array([trial.curve[-1] for trial in trials])
    last = max(trial.number for trial in record.trials)
    ends, best = [*numbers, last + 0.5], np.maximum.accumulate(scores)
    with mpl.rc_context(SMALL_LEGEND):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        ax: Any = figure.subplots()
        if summary.selection_bias:
            _draw_bias(ax, ends, summary)
        ax.plot(numbers, scores, "o", color=SOFT, markersize=4.5, alpha=0.75, label="complete trial")
        repeats = [trial for trial in record.trials if trial.repeat and trial.score is not None]
        if repeats:
            x, y = zip(*((trial.number, 100 * trial.curve[-1]) for trial in repeats), strict=True)
            label = "paper's setting, other seed"
            ax.plot(x, y, "D", color="none", markeredgecolor=SECOND, markersize=6, label=label)
        ax.step(ends, [*best, best[-1]], where="post", color=ACCENT, label="best so far")
        ax.set(xlabel="trial", ylabel="cross-validated accuracy, %", xlim=(-0.6, last + 0.6))
        # With few repeats the band can reach far beyond any score.
        margin = max(1.0, 0.35 * float(np.ptp(scores)))
        ax.set_ylim(max(0.0, scores.min() - margin), min(100.5, scores.max() + 1.5 * margin))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=2)
    alt = f"Best cross-validated accuracy so far over {len(record.trials)} trials; at the end {best[-1]:.1f} %."
    return Chart("search-progress", "Best so far", alt, figure)


def _draw_bias(ax: Any, ends: Sequence[float], summary: SearchSummary) -> None:
    """The distribution of the best of the first 1, 2, ... complete trials if all settings were equal."""
    bias = summary.selection_bias
    assert bias is not None
    seeds, counts = bias.seeds, range(1, len(ends))
    gains = [np.quantile(best_gains(seeds, n), BAND) for n in counts]
    low, high = 100 * np.clip(seeds.mean + np.array([*gains, gains[-1]]).T, 0, 1)
    middle = [100 * (seeds.mean + seeds.sd * expected_maximum(n)) for n in counts]
    mean = f" (mean of {seeds.trainings})" if seeds.trainings > 1 else ""
    ax.fill_between(ends, low, high, step="post", color=LINE, alpha=0.6, linewidth=0,
                    label="best of equal settings: 90 % of searches")  # fmt: skip
    ax.step(ends, [*middle, middle[-1]], where="post", color=SOFT, linewidth=1.6, linestyle=":",
            label="best of equal settings: expected")  # fmt: skip
    ax.axhline(100 * seeds.mean, color=SECOND, linewidth=1.6, linestyle="--", label="paper's setting" + mean)


def simplex_chart(dimension: Dimension, record: SearchRecord) -> Chart | None:
    """The score over three weights that sum to 1, as a ternary plot; None for any other dimension."""
    trials = sorted(record.candidates, key=lambda trial: trial.curve[-1])
    if dimension.kind != "simplex" or len(dimension.parts) != 3 or not trials:
        return None
    with mpl.rc_context(SMALL_LEGEND):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        ax: Any = figure.subplots()
        ax.set(xlim=(-0.12, 1.12), ylim=(-0.1, HEIGHT + 0.08), aspect="equal")
        ax.axis("off")
        for a, b, c in np.ndindex(6, 6, 6):
            if a + b + c == 5:  # the vertices of a grid with spacing 0.2; each starts up to three of its edges
                for step in ((1, -1, 0), (0, 1, -1), (-1, 0, 1)):
                    ends = np.array([(a, b, c), np.add((a, b, c), step)])
                    if ends.min() >= 0:
                        ax.plot(*_ternary(ends / 5).T, color=LINE, linewidth=0.9, zorder=1)
        for corner, part in zip(np.eye(3), dimension.parts, strict=True):
            (x, y), above = _ternary(corner), corner[2]
            ax.text(x, y + (0.03 if above else -0.03), f"only {part}", ha="center", va="bottom" if above else "top",
                    color=INK, fontweight="bold")  # fmt: skip
        points = _ternary([[trial.values[dimension.name][part] for part in dimension.parts] for trial in trials])
        for trial, (x, y), alpha in zip(trials, points, _opacities(record), strict=True):
            ax.plot(x, y, "o", markerfacecolor=(ACCENT, alpha), markeredgecolor=ACCENT, markeredgewidth=0.8,
                    markersize=7 if len(trials) > MANY else 10, zorder=3)  # fmt: skip
            if trial.number == record.best:
                ax.plot(x, y, "o", color="none", markeredgecolor=INK, markeredgewidth=2.2, markersize=17, zorder=4,
                        label=f"best (trial {trial.number})")  # fmt: skip
            if trial.number == 0:
                ax.plot(x, y, "D", color="none", markeredgecolor=SECOND, markeredgewidth=2.2, markersize=14, zorder=5,
                        label="paper's setting")  # fmt: skip
        ax.legend(loc="upper right", borderaxespad=0, labelspacing=1)
    name = f"search-{dimension.name.replace('.', '-')}"
    alt = f"Cross-validated accuracy of {len(trials)} trials over the weights {', '.join(dimension.parts)}."
    return Chart(name, "The weights", alt, figure)


def _ternary(weights: Any) -> np.ndarray:
    """Weights (..., 3) as points (..., 2) of a triangle with corners (0, 0), (1, 0) and (0.5, HEIGHT)."""
    shares = np.asarray(weights, dtype=float)
    return shares / shares.sum(axis=-1, keepdims=True) @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, HEIGHT]])


def _opacities(record: SearchRecord) -> list[float]:
    """One for each candidate, from the lowest score to the highest; by rank, so that outliers do not hide the rest."""
    scores = sorted(trial.curve[-1] for trial in record.candidates)
    ranks = rankdata(scores, method="max") - 1
    return [0.12 + 0.88 * (rank / max(1, len(scores) - 1)) ** 2 for rank in ranks]


def parallel_chart(record: SearchRecord) -> Chart | None:
    """Parallel coordinates: one axis for each parameter, the score last; None without complete trials."""
    trials, free = sorted(record.candidates, key=lambda trial: trial.curve[-1]), free_parameters(record)
    if not trials or not free:
        return None
    low, high = trials[0].curve[-1], trials[-1].curve[-1]
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(min(12.0, max(7.2, 1.1 * len(free) + 1.4)), 4.4), layout="constrained")
        ax: Any = figure.subplots()
        for trial, alpha in zip(trials, _opacities(record), strict=True):
            height = (trial.curve[-1] - low) / (high - low) if high > low else 0.5
            style = {"color": ACCENT, "linewidth": 0.8 if len(trials) > MANY else 1.4, "alpha": alpha, "zorder": 2}
            if trial.number == record.best:
                style = {"color": INK, "linewidth": 2.8, "zorder": 5, "label": f"best (trial {trial.number})"}
            elif trial.number == 0:
                style = {"color": SECOND, "linewidth": 2.8, "linestyle": "--", "zorder": 4, "label": "paper's setting"}
            ax.plot([*(one.position(trial.values) for one in free), height], **style)
        score_ticks = [(0.0, percent(low)), (1.0, percent(high))] if high > low else [(0.5, percent(low))]
        axes: list[Sequence[tuple[float, str | None]]] = [*(one.ticks() for one in free), score_ticks]
        for i, ticks in enumerate(axes):
            ax.plot([i, i], [0, 1], color=SOFT, linewidth=1, zorder=3)
            for y, text in ticks:
                va = {0.0: "top", 1.0: "bottom"}.get(y, "center")
                offset = {0.0: -4, 1.0: 4}.get(y, 0)
                ax.annotate(text, (i, y), (0, offset), textcoords="offset points", ha="center", va=va, fontsize=9.5,
                            color=INK, zorder=6)  # fmt: skip
        names = ["\n".join(textwrap.wrap(one.label, 12)) for one in free]
        ax.set(xticks=range(len(free) + 1), xticklabels=[*names, "accuracy"], yticks=[], ylim=(-0.09, 1.09))
        ax.spines[["left", "bottom"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2)
    alt = f"Every complete trial as a line over {', '.join(one.label for one in free)} and accuracy."
    return Chart("search-parallel", "All parameters", alt, figure)


def importance_chart(found: Importance) -> Chart:
    """One bar for each parameter, relative to the significance threshold at 1."""
    labels, ratios = list(found.ratios), list(found.ratios.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(labels)), layout="constrained")
        ax = figure.subplots()
        ax.barh(range(len(labels)), ratios, height=0.62, color=[ACCENT if ratio > 1 else SOFT for ratio in ratios])
        ax.axvline(1, color=INK, linewidth=1.4, linestyle="--")
        ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
        ax.set(xlim=(0, 1.1 * max(1, *ratios)), xlabel="importance (above 1: significant, p < 0.05)")
        ax.grid(visible=False, axis="y")
    listed = ", ".join(f"{label} {ratio:.2f}" for label, ratio in found.ratios.items())
    alt = f"Importance of the parameters, relative to the significance threshold: {listed}."
    return Chart("search-importance", "Importance", alt, figure)
