"""The tables of a search, and all of its trials as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ufgvc.core.text import format_duration
from ufgvc.evaluation.search_parameters import Parameter, parameters, value_text
from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.search_summary import SearchSummary
from ufgvc.reports.tables import Cells, Table, count_of, interval, p_text, percent, points, spread_text

SHOWN = 12  # trials on the page; the CSV has all


def search_tables(record: SearchRecord, summary: SearchSummary) -> dict[str, Table]:
    """`scores`, `settings`, `bias`, `trials`, `savings`: those that have rows."""
    made = {
        "scores": scores_table(record, summary),
        "settings": settings_table(record, summary),
        "bias": bias_table(summary),
        "trials": trials_table(record),
        "savings": savings_table(record, summary),
    }
    return {name: table for name, table in made.items() if table}


def scores_table(record: SearchRecord, summary: SearchSummary) -> Table | None:
    """The paper's setting and the best one, on the test leaves and in cross-validation."""
    settings = _compared(record, summary)
    tests = [summary.paper_test, summary.best_test][: len(settings)]
    if not any(tests) and all(trial.score is None for trial in settings):
        return None
    rows: list[Cells] = []
    if any(tests):
        rows = [
            ["Test, correct", *(count_of(one.right, one.leaves) if one else None for one in tests)],
            ["Test, accuracy", *(percent(one.accuracy.value) if one else None for one in tests)],
            ["95 % interval", *(interval(one.accuracy) if one else None for one in tests)],
            ["Spread (seeds)", *(spread_text(one.spread, one.seeds) if one else None for one in tests)],
        ]
    if summary.gain:
        rows += [
            ["Paired difference, points", None, points(summary.gain.value)],
            ["95 % interval", None, f"{points(summary.gain.low)} to {points(summary.gain.high)}"],
            ["p", None, p_text(summary.gain.p)],
        ]
    rows += [
        ["Cross-validation, correct", *(None if one.score is None else correct(one, record) for one in settings)],
        ["Cross-validation, accuracy", *(percent(one.score) for one in settings)],
    ]
    bias = summary.selection_bias
    if bias and bias.seeds.trainings > 1:
        mean = [percent(bias.seeds.mean), *([None] * (len(settings) - 1))]
        rows.append([f"Mean of {bias.seeds.trainings} trainings", *mean])
    note = f"Cross-validation: {record.folds} folds; each training leaf is held out once."
    if len(settings) > 1:
        note += " It selected the best setting, so the score of the best is biased upwards."
    if any(tests):
        note += (
            " Test: trained on all training leaves; mean over the seeds; interval and p by a bootstrap over cultivars "
            "and their leaves; spread: standard deviation over the seeds in points (number of seeds)."
        )
    title = "The paper's setting and the best one" if len(settings) > 1 else "The paper's setting"
    return Table(title, ("", *_headings(settings)), rows, note=note)


def settings_table(record: SearchRecord, summary: SearchSummary) -> Table | None:
    """The values of both settings, and the search space."""
    settings, searched = _compared(record, summary), parameters(record)
    if not settings or not searched:
        return None
    rows: list[Cells] = [
        [one.label, *(one.text(trial.values) for trial in settings), _range(one), one.name] for one in searched
    ]
    columns = ("", *_headings(settings), "Search space", "Configuration key")
    return Table("The values", columns, rows, frozenset({0, len(columns) - 1}))


def bias_table(summary: SearchSummary) -> Table | None:
    """The numbers behind the selection bias; None with fewer than two candidates."""
    bias = summary.selection_bias
    if bias is None or bias.settings < 2:
        return None
    seeds, span, count = bias.seeds, bias.seeds.sd_interval(), str(bias.seeds.trainings)
    rows: list[Cells] = [
        ["Mean score of the paper's setting", percent(seeds.mean), count],
        ["Standard deviation over seeds, points", f"{100 * seeds.sd:.1f}", count if seeds.measured else None],
    ]
    if span:
        rows.append(["Its 95 % interval, points", f"{100 * span[0]:.1f} to {100 * span[1]:.1f}", count])
    rows += [
        ["Expected gain of the best of equal settings, points", points(bias.expected), str(bias.settings)],
        ["Gain of the best, points", points(bias.gain), str(bias.settings)],
        ["p: equal settings gain as much", p_text(bias.p), str(bias.settings)],
    ]
    if seeds.measured:
        source = f"of {seeds.trainings} trainings of the paper's setting with different seeds"
    else:
        why = "the trainings scored the same" if seeds.trainings > 1 else "the paper's setting was not repeated"
        source = f"not measured ({why}); binomial instead, as if each leaf were classified independently"
    note = (
        f"Standard deviation: {source}. p allows for the uncertainty of mean and standard deviation (Dunnett). "
        "Approximate: scores are taken as normal, and only complete trials are counted."
    )
    return Table("Selection bias", ("In cross-validation", "Value", "Trials"), rows, note=note)


def trials_table(record: SearchRecord, limit: int = SHOWN) -> Table | None:
    """The first `limit` trials, best first; None without trials."""
    searched = parameters(record)
    rows: list[Cells] = [
        [
            _name(trial), _state(trial, record), correct(trial, record) if trial.curve else None,
            percent(trial.curve[-1]) if trial.curve else None, f"{len(trial.curve)} of {record.epochs}",
            " / ".join(f"{100 * fold:.0f}" for fold in trial.folds if fold == fold) or None,
            *(one.text(trial.values) for one in searched), format_duration(trial.seconds),
        ]
        for trial in record.ranked()[:limit]
    ]  # fmt: skip
    if not rows:
        return None
    columns = ("Trial", "State", "Correct", "Accuracy", "Epochs", "Folds", *(one.label for one in searched), "Time")
    more = len(record.trials) > limit
    title = f"The first {limit} of {len(record.trials)} trials" if more else "The trials"
    note = "By cross-validated accuracy. Stopped trials come last: their accuracy is that of fewer epochs."
    return Table(title, columns, rows, frozenset({0, 1}), note + (" trials.csv has all." if more else ""))


def savings_table(record: SearchRecord, summary: SearchSummary) -> Table | None:
    """Epochs and time saved by early stopping; None if no trial ran."""
    saved = summary.savings
    if not saved.epochs:
        return None
    time = percent(1 - saved.seconds / saved.all_seconds) if saved.all_seconds else None
    rows: list[Cells] = [
        ["Epochs", f"{saved.epochs:,}", f"{saved.all_epochs:,}", percent(1 - saved.epochs / saved.all_epochs)],
        ["Time of all trials", format_duration(saved.seconds), format_duration(saved.all_seconds), time],
    ]
    stopped, failed = (sum(trial.state == state for trial in record.trials) for state in ("stopped", "failed"))
    note = f"{stopped} of {len(record.trials)} trials were stopped early. Without stopping: each at its own speed."
    note += f" Excluding the {failed} that failed." if failed else ""
    return Table("Savings by early stopping", ("", "Used", "Without stopping", "Saved"), rows, note=note)


def to_csv(record: SearchRecord) -> str:
    """One line for each trial, by number; accuracies in [0, 1], empty cells for what is missing."""
    buffer = io.StringIO()
    searched = parameters(record)
    head = ["trial", "state", "repeat", "accuracy", "epochs", "loss", "folds", "seconds"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, *(one.name for one in searched), "error"])
    for trial in sorted(record.trials, key=lambda trial: trial.number):
        accuracy = trial.curve[-1] if trial.curve else None
        loss = trial.losses[-1] if trial.losses and trial.losses[-1] == trial.losses[-1] else None
        folds = " ".join(f"{fold:.6g}" for fold in trial.folds)
        cells = [trial.number, trial.state, trial.repeat, accuracy, len(trial.curve), loss, folds, trial.seconds]
        writer.writerow([*cells, *(one.value(trial.values) for one in searched), trial.error])
    return buffer.getvalue()


def correct(trial: TrialResult, record: SearchRecord) -> str:
    """The number of correct training leaves in cross-validation: "160 of 240"."""
    return f"{trial.curve[-1] * record.leaves:.0f} of {record.leaves}"


def _compared(record: SearchRecord, summary: SearchSummary) -> list[TrialResult]:
    """The paper's trial, and the best where that is another."""
    if not record.paper:
        return []
    return [record.paper, summary.best] if summary.best and not summary.paper_is_best else [record.paper]


def _headings(settings: Sequence[TrialResult]) -> list[str]:
    return ["Paper's", *(f"Best (trial {trial.number})" for trial in settings[1:])]


def _range(one: Parameter) -> str:
    dimension = one.dimension
    if dimension.kind == "choice":
        return ", ".join(map(value_text, dimension.choices))
    if dimension.kind == "simplex":
        return "0 to 1, sum 1"
    ends = [value_text(float(end)) for end in (dimension.low, dimension.high) if end is not None]
    return f"{' to '.join(ends)}{' (log)' if dimension.kind == 'log' else ''}"


def _name(trial: TrialResult) -> str:
    return f"{trial.number} (paper's)" if trial.number == 0 or trial.repeat else str(trial.number)


def _state(trial: TrialResult, record: SearchRecord) -> str:
    if trial.number == record.best:
        return "best"
    return "repeat" if trial.repeat and trial.state == "complete" else trial.state
