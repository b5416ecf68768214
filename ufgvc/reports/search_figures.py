"""The figures of a search over all of its fields, each with its reading in a sentence made from the numbers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from ufgvc.evaluation.search_importance import Importance
from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.search_result import ENOUGH, SearchResult, leading
from ufgvc.evaluation.selection_bias import SeedVariance, contenders, expected_maximum, quantile_of_best
from ufgvc.reports.figures import ACCENT, INK, LINE, SECOND, SOFT, STYLE, Chart
from ufgvc.reports.search_fields import Field, free_fields, value_text
from ufgvc.reports.tables import percent

BAND = (0.05, 0.95)
FAINT = 0.12
MANY = 60  # trials, from which lines and points are drawn smaller


def shades(story: SearchRecord) -> dict[int, float]:
    """{number: opacity} of the complete trials, by the rank of their score: one far below the others would leave those all alike."""
    entered = contenders(story)
    ranks = rankdata([trial.curve[-1] for trial in entered], method="max") - 1
    return {
        trial.number: FAINT + (1 - FAINT) * (rank / max(1, len(entered) - 1)) ** 2
        for trial, rank in zip(entered, ranks, strict=True)
    }


def progress_chart(story: SearchRecord, result: SearchResult) -> Chart | None:
    """The best score so far, the paper's mean, and how far as many equal settings would have come; None without complete trials."""
    entered = sorted(contenders(story), key=lambda trial: trial.number)
    if not entered:
        return None
    numbers, scores = [trial.number for trial in entered], 100 * np.array([trial.curve[-1] for trial in entered])
    last = max(trial.number for trial in story.trials)
    with mpl.rc_context(STYLE | {"legend.fontsize": 9.5}):
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        ax: Any = figure.subplots()
        if result.selection_bias:
            noise, counts = result.selection_bias.noise, np.arange(1, len(entered) + 1)
            mean = 100 * noise.mean
            middle = [mean + 100 * noise.sd * expected_maximum(int(n)) for n in counts]
            # The ends are integrals that take time, and hardly bend over the logarithm of n.
            some = np.unique(np.geomspace(1, len(entered), 24).round().astype(int))
            low, high = (
                np.interp(np.log(counts), np.log(some), [100 * best_of(noise, int(n), q) for n in some]) for q in BAND
            )
            ends = [*numbers, last + 0.5]
            ax.fill_between(ends, [*low, low[-1]], [*high, high[-1]], step="post", color=LINE, alpha=0.6, linewidth=0,
                            label="equal settings: 90 of 100 searches")  # fmt: skip
            ax.step(ends, [*middle, middle[-1]], where="post", color=SOFT, linewidth=1.6, linestyle=(0, (1, 1.4)),
                    label="equal settings: expected best")  # fmt: skip
            ax.axhline(
                mean, color=SECOND, linewidth=1.6, linestyle=(0, (5, 3)), label="the paper's setting" + _mean_of(result)
            )
        ax.plot(numbers, scores, "o", color=SOFT, markersize=4.5, alpha=0.75, label="a complete trial")
        repeats = [trial for trial in story.trials if trial.repeat and trial.score is not None]
        if repeats:
            ax.plot([t.number for t in repeats], [100 * t.curve[-1] for t in repeats], "D", color="none", markeredgecolor=SECOND,
                    markersize=6, markeredgewidth=1.4, label="the paper's setting again")  # fmt: skip
        best = np.maximum.accumulate(scores)
        ax.step([*numbers, last + 0.5], [*best, best[-1]], where="post", color=ACCENT, label="best so far")
        ax.set(xlabel="trial", ylabel="cross-validated accuracy, %", xlim=(-0.6, last + 0.6))
        # The band of few repeats can reach far beyond any score.
        margin = max(1.0, 0.35 * float(np.ptp(scores)))
        ax.set_ylim(max(0.0, scores.min() - margin), min(100.5, scores.max() + 1.5 * margin))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=2)
    alt = f"Best cross-validated accuracy so far over {len(story.trials)} trials. {progress_in_words(story, result)}"
    return Chart("search-progress", "Best so far", alt, figure)


def progress_in_words(story: SearchRecord, result: SearchResult) -> str:
    """When the best came, and where it lies against what luck would give."""
    entered = contenders(story)
    if not entered or result.best is None:
        return "No trial completed."
    after = sum(trial.number > result.best.number for trial in entered)
    later = "no complete trial came after it"
    if after:
        later = (
            f"none of the {after} complete trials after it passed it"
            if after > 1
            else "the one complete trial after it did not pass it"
        )
    told = f"The highest score, {percent(result.best.score)}, came with trial {result.best.number}; {later}."
    if result.selection_bias and result.selection_bias.settings > 1 and not result.kept:
        found = result.selection_bias
        low, high = (best_of(found.noise, found.settings, q) for q in BAND)
        best = found.noise.mean + found.gain
        where = "above" if best > high else "below" if best < low else "inside"
        told += f" It lies {where} the grey band, where the best of {found.settings} equally good settings ends up in 90 of 100 searches."
    return told


def best_of(noise: SeedVariance, n: int, q: float) -> float:
    """The score that the best of n settings as good as the paper's stays below with probability q."""
    return min(1.0, max(0.0, noise.mean + noise.sd * quantile_of_best(q, n, noise.trainings, noise.freedom)))


def parallel_chart(story: SearchRecord) -> Chart | None:
    """One upright line a field, the score last; one line across them a trial. None without complete trials."""
    entered, fields = contenders(story), free_fields(story)
    if not entered or not fields:
        return None
    scores = [trial.curve[-1] for trial in entered]
    low, high, opacity = min(scores), max(scores), shades(story)
    score_ticks = [(0.0, percent(low)), (1.0, percent(high))] if high > low else [(0.5, percent(low))]
    best = next((trial for trial in entered if trial.number == story.best), None)
    paper = next((trial for trial in entered if trial.number == 0), None)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(min(12.0, max(7.2, 1.1 * len(fields) + 1.4)), 4.4), layout="constrained")
        ax: Any = figure.subplots()
        for trial in story.trials:
            if trial.state == "stopped":
                ax.plot(
                    range(len(fields)),
                    [field.place(trial.values) for field in fields],
                    color=LINE,
                    linewidth=1,
                    zorder=1,
                )
        for trial in sorted(entered, key=lambda trial: trial.curve[-1]):
            height = (trial.curve[-1] - low) / (high - low) if high > low else 0.5
            line = [*(field.place(trial.values) for field in fields), height]
            if trial is best:
                style = {"color": INK, "linewidth": 2.8, "zorder": 5, "label": f"best (trial {trial.number})"}
            elif trial is paper:
                style = {
                    "color": SECOND,
                    "linewidth": 2.8,
                    "zorder": 4,
                    "linestyle": (0, (4, 2)),
                    "label": "the paper's setting",
                }
            else:
                style = {
                    "color": ACCENT,
                    "linewidth": 1.4 if len(entered) < MANY else 0.8,
                    "alpha": opacity[trial.number],
                    "zorder": 2,
                }
            ax.plot(range(len(line)), line, **style)
        axes: list[Sequence[tuple[float, str | None]]] = [*(field.ticks() for field in fields), score_ticks]
        for place, ticks in enumerate(axes):
            ax.plot([place, place], [0, 1], color=SOFT, linewidth=1, zorder=3)
            _tick_texts(ax, place, ticks)
        names = ["\n".join(textwrap.wrap(field.label, 12)) for field in fields]
        ax.set(
            xticks=range(len(fields) + 1),
            xticklabels=[*names, "accuracy"],
            yticks=[],
            ylim=(-0.09, 1.09),
            xlim=(-0.3, len(fields) + 0.45),
        )
        ax.spines[["left", "bottom"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2)
    alt = f"Every complete trial as a line over {', '.join(field.label for field in fields)} and accuracy. {parallel_in_words(story)}"
    return Chart("search-parallel", "All fields", alt, figure)


def parallel_in_words(story: SearchRecord) -> str:
    """Where the best trials agree most, and where they do not."""
    top, entered = leading(story), contenders(story)
    if not top:
        return too_few(story)
    fields = free_fields(story)
    numeric = {field: _share_of_range(field, top, entered) for field in fields if field.axis.kind != "choice"}
    told = []
    if numeric:
        near, far = min(numeric, key=lambda field: numeric[field]), max(numeric, key=lambda field: numeric[field])
        told.append(
            f"The best {len(top)} of {len(entered)} complete trials agree most on {near.label} ({_span(near, top)}; tried: "
            f"{_span(near, entered)})" + (f" and least on {far.label} ({_span(far, top)})." if far is not near else ".")
        )
    for field in (field for field in fields if field.axis.kind == "choice"):
        choice, count = Counter(field.choice(trial.values) for trial in top).most_common(1)[0]
        among = sum(field.choice(trial.values) == choice for trial in entered)
        told.append(f"Of the best {len(top)}, {count} have {field.label} {choice}; of all {len(entered)}, {among}.")
    return " ".join(told)


def importance_chart(found: Importance) -> Chart:
    """One bar a field, and the line that shuffled scores seldom pass."""
    labels, ratios = list(found.ratios), list(found.ratios.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(labels)), layout="constrained")
        ax = figure.subplots()
        ax.barh(range(len(labels)), ratios, height=0.62, color=[ACCENT if ratio > 1 else SOFT for ratio in ratios])
        ax.axvline(1, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
        ax.set(
            yticks=range(len(labels)),
            yticklabels=labels,
            ylim=(len(labels) - 0.4, -0.6),
            xlim=(0, 1.1 * max(1, *ratios)),
        )
        ax.set_xlabel("importance (1: shuffled scores pass it in 5 of 100 cases)")
        ax.grid(visible=False, axis="y")
    listed = ", ".join(f"{label} {ratio:.2f}" for label, ratio in found.ratios.items())
    alt = f"Importance of the fields, as a multiple of chance: {listed}. {importance_in_words(found)}"
    return Chart("search-importance", "Importance", alt, figure)


def importance_in_words(found: Importance | None, story: SearchRecord | None = None) -> str:
    """Which fields pass the line of chance."""
    if found is None:
        few = story is None or len(contenders(story)) < ENOUGH
        return (
            too_few(story)
            if few and story
            else "All complete trials scored alike, so no field tells good ones from others."
        )
    sure = found.beyond_chance
    if not sure:
        first = next(iter(found.ratios))
        return (
            f"No field tells the best {found.top} trials from the rest beyond chance, that is better than with the scores shuffled among "
            f"the trials: this search does not show which field matters, not even {first}, which has the longest bar."
        )
    names = " and ".join(", ".join(sure).rsplit(", ", 1))
    others = "; of the other fields that is not shown" if len(sure) < len(found.ratios) else ""
    return (
        f"Beyond chance, that is better than with the scores shuffled among the trials, {names} tell{'s' if len(sure) == 1 else ''} the "
        f"best {found.top} trials from the rest{others}."
    )


def too_few(story: SearchRecord) -> str:
    return f"Too few trials to say: {len(contenders(story))} complete, and it takes {ENOUGH} to see what the good ones share."


def _share_of_range(field: Field, top: Sequence[TrialResult], entered: Sequence[TrialResult]) -> float:
    width = np.ptp([field.place(trial.values) for trial in entered])
    return float(np.ptp([field.place(trial.values) for trial in top]) / width) if width > 0 else 1.0


def _span(field: Field, trials: Sequence[TrialResult]) -> str:
    values = [field.value(trial.values) for trial in trials]
    low, high = value_text(min(values)), value_text(max(values))
    return low if low == high else f"{low} to {high}"


def _tick_texts(ax: Any, place: int, ticks: Sequence[tuple[float, str | None]]) -> None:
    outside = {0.0: (0, -4, "center", "top"), 1.0: (0, 4, "center", "bottom")}
    for height, text in ticks:
        x, y, across, up = outside.get(height, (4, 0, "left", "center"))
        ax.annotate(
            text,
            (place, height),
            (x, y),
            textcoords="offset points",
            ha=across,
            va=up,
            fontsize=9.5,
            color=INK,
            zorder=6,
        )


def _mean_of(result: SearchResult) -> str:
    trainings = result.selection_bias.noise.trainings if result.selection_bias else 1
    return f" (mean of {trainings})" if trainings > 1 else ""
