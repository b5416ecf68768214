"""The report page of a search: the gain of the best setting on the test leaves, and the selection bias of its score."""

from __future__ import annotations

import textwrap
from collections import Counter

from ufgvc.core.text import format_duration, plural
from ufgvc.evaluation.search_parameters import MIN_TRIALS, Importance, importance
from ufgvc.evaluation.search_record import SearchRecord
from ufgvc.evaluation.search_summary import SearchSummary, summarize
from ufgvc.evaluation.selection_bias import SeedVariance, SelectionBias
from ufgvc.reports.page import Block, Page, Section
from ufgvc.reports.search_figures import importance_chart, parallel_chart, progress_chart, simplex_chart
from ufgvc.reports.search_tables import correct, search_tables
from ufgvc.reports.tables import interval, p_text, percent, points

SIGNIFICANT = 0.05
SIMPLEX_TEXT = (
    "Each point is a complete trial. The nearer to a corner, the larger that weight (grid lines: steps of 0.2); the "
    "darker, the higher the score."
)


def compose_search(record: SearchRecord, footer: str = "", summary: SearchSummary | None = None) -> Page:
    """The whole page.  summary: of `summarize`, where it is already computed."""
    summary = summarize(record) if summary is None else summary
    tables = search_tables(record, summary)
    weights = [simplex_chart(dimension, record) for dimension in record.dimensions]
    searched = bool(record.dimensions and record.trials)
    found = importance(record) if searched else None
    sections = [
        _section("The paper's setting and the best one", describe_best(record, summary), tables.get("scores"),
                 tables.get("settings")),
        _section("Selection bias", describe_bias(summary), progress_chart(record, summary), tables.get("bias")),
        _section("The weights", SIMPLEX_TEXT, *weights),
        _section("All parameters", "Each line is a complete trial; the darker, the higher the score.",
                 parallel_chart(record)),
        Section("Importance of the parameters", describe_importance(found, record),
                [importance_chart(found)] if found else []) if searched else None,
        _section("The trials", describe_trials(record, summary), tables.get("trials")),
        _section("Early stopping", "", tables.get("savings")),
    ]  # fmt: skip
    headline, explanation = _headline(record, summary)
    facts = {name[:1].upper() + name[1:]: text for name, text in record.facts.items()}
    return Page(
        eyebrow=f"ufgvc search on {record.dataset}",
        title=f"{record.method}: search over {plural(len(record.trials), 'trial')}",
        headline=headline,
        explanation=explanation,
        stats=_stats(record, summary),
        sections=[section for section in sections if section],
        facts={**_facts(record), **facts},
        warnings=_warnings(record, summary),
        footer=footer,
    )


def _section(title: str, text: str, *blocks: Block | None) -> Section | None:
    present = [block for block in blocks if block]
    return Section(title, text, present) if present else None


def _headline(record: SearchRecord, summary: SearchSummary) -> tuple[str, str]:
    """(big number, explanation): the gain on the test leaves, never the score that the best was selected by."""
    if summary.gain:
        return f"{points(summary.gain.value)} points", describe_gain(summary)
    if summary.best is None:
        return "not measured", describe_best(record, summary)
    text = f"{describe_best(record, summary)} {describe_gain(summary)}"
    return ("no gain" if summary.paper_is_best else "not tested"), text


def summary_text(record: SearchRecord, summary: SearchSummary) -> str:
    """A few lines for the terminal: the trials, the best one, its selection bias and its gain on the test leaves."""
    lines = [
        describe_trials(record, summary),
        describe_best(record, summary),
        describe_bias(summary),
        describe_gain(summary),
    ]
    return "\n".join(line for line in lines if line)


def describe_trials(record: SearchRecord, summary: SearchSummary) -> str:
    """How many trials and epochs ran."""
    repeats = sum(trial.repeat for trial in record.trials)
    again = f"; {repeats} repeat the paper's setting with another seed" if repeats else ""
    saved = summary.savings
    epochs = f"; {saved.epochs:,} of {saved.all_epochs:,} epochs trained" if saved.epochs else ""
    return f"{plural(len(record.trials), 'trial')} ({_states(record)}{again}){epochs}."


def describe_best(record: SearchRecord, summary: SearchSummary) -> str:
    """The highest score in cross-validation, and that its selection biased it."""
    best, bias = summary.best, summary.selection_bias
    if best is None or best.score is None:
        return f"No trial completed{_first_error(record)}, so no setting was selected."
    score = f"{correct(best, record)} training leaves correct ({percent(best.score)})"
    if summary.paper_is_best:
        return f"No setting scored higher in cross-validation than the paper's own: {score}."
    gain = f", {points(bias.gain)} points over the paper's setting ({_paper_mean(bias.seeds)})" if bias else ""
    text = f"Highest cross-validated accuracy: trial {best.number}, {score}{gain}."
    count = bias.settings if bias else len(record.candidates)
    return f"{text} It is the maximum of {count} scores, so it is biased upwards." if count > 1 else text


def describe_bias(summary: SearchSummary) -> str:
    """The expected gain of the best of as many equal settings; "" without a best trial."""
    bias = summary.selection_bias
    if bias is None:
        none = "The paper's setting did not complete, so the gain over it and its selection bias are unknown."
        return none if summary.best else ""
    if bias.settings < 2:
        return "Only one setting completed, so there is no selection bias."
    expected = (
        f"the best of {bias.settings} equally good settings is expected to gain {points(bias.expected)} points"
        f"{_expected_range(bias)} over the paper's setting by selection alone"
    )
    if summary.paper_is_best:
        return f"Selection bias: {expected}."
    observed = f"The observed gain of {points(bias.gain)} points (p {p_text(bias.p)})"
    conclusion = "exceeds the selection bias" if bias.p < SIGNIFICANT else "can be explained by selection bias"
    return f"Selection bias: {expected}. {observed} {conclusion}."


def describe_gain(summary: SearchSummary) -> str:
    """The paired difference on the test leaves, and whether it is significant."""
    gap = summary.gain
    if gap is None:
        if summary.paper_is_best and summary.paper_test:
            found = summary.paper_test.accuracy
            return (
                "The paper's setting, trained on all training leaves, has a test accuracy of "
                f"{percent(found.value)} (95\u00a0% interval {interval(found)})."
            )
        return "The two settings were not both tested, so the gain on new leaves is unknown." if summary.best else ""
    amount = round(100 * gap.value, 1)
    than = f"{abs(amount):.1f} points {'more' if amount > 0 else 'less'} accurate than" if amount else "as accurate as"
    sure = f"95\u00a0% interval {points(gap.low)} to {points(gap.high)}; p {p_text(gap.p)}"
    conclusion = "significant" if gap.p < SIGNIFICANT else "not significant"
    return (
        f"On the test leaves, which the search never used, the best setting is {than} the paper's ({sure}). "
        f"The paired difference is {conclusion}."
    )


def describe_importance(found: Importance | None, record: SearchRecord) -> str:
    """Which parameters are significant, and the limits of that test."""
    if found is None:
        if len(record.candidates) < MIN_TRIALS:
            return f"Too few trials: {len(record.candidates)} of at least {MIN_TRIALS} are complete."
        return "All complete trials scored the same."
    significant = ", ".join(found.significant)
    text = (
        f"Significant: {significant}."
        if significant
        else f"No parameter is significant, not even {next(iter(found.ratios))} with the longest bar."
    )
    text += (
        f" Importance (PED-ANOVA): how much the best {found.top} trials differ from all trials in a parameter; the "
        "threshold is the 95th percentile of the largest importance after permuting the scores."
    )
    if any(len(dimension.parts) > 2 for dimension in record.dimensions):
        text += " Weights that sum to 1 depend on each other, so their importances cannot be separated."
    return text + " The test is approximate where the sampler chose later trials by earlier scores."


def _states(record: SearchRecord) -> str:
    names = {"complete": "complete", "stopped": "stopped early", "failed": "failed"}
    counts: Counter[str] = Counter(trial.state for trial in record.trials)
    return ", ".join(f"{counts[state]} {name}" for state, name in names.items() if counts[state]) or "none ran"


def _first_error(record: SearchRecord, length: int = 120) -> str:
    errors = [line for trial in record.trials for line in (trial.error or "").strip().splitlines()[:1]]
    return f" (first error: {textwrap.shorten(errors[0].rstrip('.'), length, placeholder=' ...')})" if errors else ""


def _expected_range(bias: SelectionBias) -> str:
    span = bias.seeds.sd_interval()
    if span is None:
        return ""
    low, high = (bias.expected * end / bias.seeds.sd for end in span)
    return f" (95\u00a0% interval {points(low)} to {points(high)})"


def _paper_mean(seeds: SeedVariance) -> str:
    return f"{percent(seeds.mean)}{f', mean of {seeds.trainings} trainings' if seeds.trainings > 1 else ''}"


def _stats(record: SearchRecord, summary: SearchSummary) -> list[tuple[str, str]]:
    bias, saved = summary.selection_bias, summary.savings
    stats = [(plural(len(record.trials), "trial"), _states(record))]
    if bias and bias.settings > 1:
        stats.append((f"{points(bias.gain)} points", f"in cross-validation, as the best of {bias.settings}"))
        stats.append((f"{points(bias.expected)} points", "expected from selection bias alone"))
    if saved.epochs < saved.all_epochs:
        stats.append((percent(1 - saved.epochs / saved.all_epochs) or "", "of the epochs saved by early stopping"))
    return [*stats, (format_duration(record.wall), "from the first trial to the last")]


def _facts(record: SearchRecord) -> dict[str, str]:
    facts = {
        "Score of a trial": f"accuracy in {record.folds}-fold cross-validation over {record.leaves} training leaves, "
        f"after {record.epochs} epochs",
        "Searched": ", ".join(dimension.name for dimension in record.dimensions) or "nothing",
    }
    if record.finals:
        seeds = " and ".join(str(count) for count in sorted({len(final.right) for final in record.finals}))
        cultivars = len(set(record.labels.tolist()))
        facts["Test"] = (
            f"{len(record.labels)} leaves of {cultivars} cultivars, used once, after the search; seeds: {seeds}"
        )
    return facts


def _warnings(record: SearchRecord, summary: SearchSummary) -> list[str]:
    found, bias = [], summary.selection_bias
    if bias and bias.settings > 1 and not summary.paper_is_best:
        found.append(
            f"The cross-validated accuracy of the best setting is the maximum of {bias.settings}, so it is too high. "
            "Only the test leaves show its gain."
        )
    if bias and bias.settings > 1 and not bias.seeds.measured:
        found.append("The variance over seeds was not measured; the selection bias is a rough estimate.")
    if summary.best and not record.finals:
        found.append("No setting was evaluated on the test leaves.")
    if record.finals and min(len(final.right) for final in record.finals) < 2:
        found.append("One seed on the test leaves: the variance over seeds was not measured there.")
    failed = [str(trial.number) for trial in record.trials if trial.state == "failed"]
    if failed:
        found.append(f"Failed trials: {', '.join(failed)}{_first_error(record)}.")
    return found
