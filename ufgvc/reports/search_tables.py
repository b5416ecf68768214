"""The tables of a search, and all of its trials as CSV. All numbers come from the story and `measure`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.search_result import SearchResult, Tested, measure, ranked
from ufgvc.reports.benchmark_tables import points
from ufgvc.reports.search_fields import Field, fields_of, value_text
from ufgvc.reports.search_text import duration, k_of_n, noise_in_words
from ufgvc.reports.tables import Table, p_text, percent

SHOWN = 12  # trials on the page; the CSV has all
Cells = list[str | None]


def search_tables(story: SearchRecord, result: SearchResult | None = None) -> dict[str, Table]:
    """`scores`, `settings`, `luck`, `trials`, `saved`: those that there is something to say in."""
    result = measure(story) if result is None else result
    made = {
        "scores": scores_table(story, result),
        "settings": settings_table(story, result),
        "luck": luck_table(result),
        "trials": trials_table(story),
        "saved": saved_table(story, result),
    }
    return {name: table for name, table in made.items() if table}


def scores_table(story: SearchRecord, result: SearchResult) -> Table | None:
    """The best setting beside the paper's, in cross-validation and on the test leaves."""
    settings = _compared(story, result)
    tested = [result.paper_tested, result.best_tested][: len(settings)]
    if not any(tested) and all(trial.score is None for trial in settings):
        return None
    rows: list[Cells] = []
    if any(tested):
        rows = [
            ["Test, right", *map(_right, tested)],
            ["Test, accuracy", *(percent(one.accuracy.value) if one else None for one in tested)],
            ["95 % interval", *map(_interval, tested)],
            ["Spread (seeds)", *map(_spread, tested)],
        ]
    if result.gain:
        rows += [
            ["Difference, points", None, points(result.gain.value)],
            ["95 % interval", None, f"{points(result.gain.low)} to {points(result.gain.high)}"],
            ["p", None, p_text(result.gain.p)],
        ]
    rows += [
        ["Cross-validation, right", *(k_of_n(trial, story) if trial.score is not None else None for trial in settings)],
        ["Cross-validation, accuracy", *(percent(trial.score) for trial in settings)],
    ]
    if result.selection_bias and result.selection_bias.noise.trainings > 1:
        rows.append(
            [
                f"Mean of {result.selection_bias.noise.trainings} trainings",
                percent(result.selection_bias.noise.mean),
                *([None] * (len(settings) - 1)),
            ]
        )
    note = f"Cross-validation: each training leaf named once, by a net that did not see it ({story.folds} folds)."
    if len(settings) > 1:
        note += " The best was chosen by it, so for the best it is too high."
    if any(tested):
        note += (
            " Test: trained on all training leaves, mean over the seeds; interval and p by bootstrap over cultivars and their leaves, of "
            "the mean over the seeds; spread: standard deviation over the seeds in points, with their number."
        )
    title = "The best setting beside the paper's" if len(settings) > 1 else "The paper's setting"
    return Table(title, ("", *_headings(settings)), rows, note=note)


def settings_table(story: SearchRecord, result: SearchResult) -> Table | None:
    """What the two settings are, and what was searched."""
    settings, fields = _compared(story, result), fields_of(story)
    if not settings or not fields:
        return None
    rows: list[Cells] = [
        [field.label, *(value_text(field.value(trial.values)) for trial in settings), _searched(field), field.name]
        for field in fields
    ]
    columns = ("", *_headings(settings), "Searched", "In the configuration")
    return Table("The values", columns, rows, frozenset({0, len(columns) - 1}))


def _compared(story: SearchRecord, result: SearchResult) -> list[TrialResult]:
    """The paper's trial, and the best where that is another."""
    paper = [trial for trial in story.trials if trial.number == 0]
    return [*paper, result.best] if paper and result.best and not result.kept else paper


def _headings(settings: Sequence[TrialResult]) -> list[str]:
    return ["Paper's", *(f"Best (trial {trial.number})" for trial in settings[1:])]


def luck_table(result: SearchResult) -> Table | None:
    """The numbers behind the sentence on luck."""
    found = result.selection_bias
    if found is None or found.settings < 2:
        return None
    noise, span = found.noise, found.noise.sd_interval()
    rows: list[Cells] = [
        ["Mean score of the paper's setting", percent(noise.mean), str(noise.trainings)],
        [
            "Standard deviation of equal settings, points",
            f"{100 * noise.sd:.1f}",
            str(noise.trainings) if noise.measured else None,
        ],
    ]
    if span:
        rows.append(["Its 95 % interval, points", f"{100 * span[0]:.1f} to {100 * span[1]:.1f}", str(noise.trainings)])
    rows += [
        ["Expected gain of the best of equal settings, points", points(found.expected), str(found.settings)],
        ["Gain of the best, points", points(found.gain), str(found.settings)],
        ["p: equal settings gain as much", p_text(found.p), str(found.settings)],
    ]
    note = (
        f"Standard deviation: {noise_in_words(noise)}. p counts that it and the mean are estimates from few trainings (Dunnett). "
        "Approximate: scores taken as normal, and only complete trials counted, though stopped ones were in the race for some epochs."
    )
    return Table("The luck of the highest score", ("In cross-validation", "Value", "Of trials"), rows, note=note)


def trials_table(story: SearchRecord, most: int = SHOWN) -> Table | None:
    """The trials, best first."""
    fields = fields_of(story)
    rows: list[Cells] = [
        [
            _name(trial), _state(trial, story), k_of_n(trial, story) if trial.curve else None,
            percent(trial.curve[-1]) if trial.curve else None, f"{len(trial.curve)} of {story.epochs}", _folds(trial),
            *(value_text(field.value(trial.values)) for field in fields), duration(trial.seconds),
        ]
        for trial in ranked(story)[:most]
    ]  # fmt: skip
    if not rows:
        return None
    columns = ("Trial", "State", "Right", "Accuracy", "Epochs", "Folds", *(field.label for field in fields), "Time")
    title = f"The first {most} of {len(story.trials)} trials" if len(story.trials) > most else "The trials"
    note = "By cross-validated accuracy, which is too high for whatever stands first. Stopped trials come later: theirs is of fewer epochs."
    return Table(
        title, columns, rows, frozenset({0, 1}), note + (" The CSV has all." if len(story.trials) > most else "")
    )


def saved_table(story: SearchRecord, result: SearchResult) -> Table | None:
    """What early stopping saved."""
    saved, stopped = result.saved, sum(trial.state == "stopped" for trial in story.trials)
    if not saved.epochs:
        return None
    rows: list[Cells] = [
        ["Epochs", f"{saved.epochs:,}", f"{saved.all_epochs:,}", percent(1 - saved.epochs / saved.all_epochs)],
        ["Time of all trials", duration(saved.seconds), duration(saved.all_seconds),
         percent(1 - saved.seconds / saved.all_seconds) if saved.all_seconds else None],
    ]  # fmt: skip
    note = f"{stopped} of {len(story.trials)} trials were stopped. What they would have taken: the rest of their epochs, each at its own pace."
    failed = sum(trial.state == "failed" for trial in story.trials)
    note += f" Without the {failed} that failed." if failed else ""
    return Table("What early stopping saved", ("", "Taken", "Without stopping", "Saved"), rows, note=note)


def to_csv(story: SearchRecord) -> str:
    """One line a trial, in the order of their numbers; shares in [0, 1], empty if there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    fields = fields_of(story)
    writer.writerow(
        [
            "trial",
            "state",
            "repeat",
            "accuracy",
            "epochs",
            "loss",
            "folds",
            "seconds",
            *(f.name for f in fields),
            "error",
        ]
    )
    for trial in sorted(story.trials, key=lambda trial: trial.number):
        last = trial.curve[-1] if trial.curve else None
        loss = trial.losses[-1] if trial.losses and trial.losses[-1] == trial.losses[-1] else None
        values = [field.value(trial.values) for field in fields]
        folds = " ".join(f"{fold:.6g}" for fold in trial.folds)
        writer.writerow(
            [
                trial.number,
                trial.state,
                trial.repeat,
                last,
                len(trial.curve),
                loss,
                folds,
                trial.seconds,
                *values,
                trial.error,
            ]
        )
    return buffer.getvalue()


def _searched(field: Field) -> str:
    if field.axis.kind == "choice":
        return ", ".join(map(value_text, field.axis.choices))
    if field.axis.kind == "simplex":
        return "0 to 1, sum 1"
    ends = [value_text(float(end)) for end in (field.axis.low, field.axis.high) if end is not None]
    return f"{' to '.join(ends)}{' (log)' if field.axis.kind == 'log' else ''}"


def _right(one: Tested | None) -> str | None:
    if one is None:
        return None
    return f"{one.right:.0f} of {one.leaves}" if one.right.is_integer() else f"{one.right:.1f} of {one.leaves}"


def _interval(one: Tested | None) -> str | None:
    return f"{100 * one.accuracy.low:.1f} to {100 * one.accuracy.high:.1f}\u00a0%" if one else None


def _spread(one: Tested | None) -> str | None:
    if one is None:
        return None
    return f"({one.seeds})" if one.spread is None else f"{100 * one.spread:.1f} ({one.seeds})"


def _name(trial: TrialResult) -> str:
    return f"{trial.number} (paper's)" if trial.number == 0 or trial.repeat else str(trial.number)


def _state(trial: TrialResult, story: SearchRecord) -> str:
    if trial.number == story.best:
        return "best"
    return "repeat" if trial.repeat and trial.state == "complete" else trial.state


def _folds(trial: TrialResult) -> str | None:
    return " / ".join(f"{100 * fold:.0f}" for fold in trial.folds if fold == fold) or None
