"""What a search says, in sentences made from its figures."""

from __future__ import annotations

import textwrap
from collections import Counter

from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.search_result import SearchResult, measure
from ufgvc.evaluation.selection_bias import SeedVariance, SelectionBias
from ufgvc.reports.benchmark_tables import points
from ufgvc.reports.tables import p_text, percent

LIKELY = 0.05


def reading(story: SearchRecord, result: SearchResult | None = None) -> str:
    """A few lines for the terminal: what ran, what scored highest, how much of that is luck, and what the test leaves say."""
    result = measure(story) if result is None else result
    lines = [ran_in_words(story, result), best_in_words(story, result), luck_in_words(result), gain_in_words(result)]
    return "\n".join(line for line in lines if line)


def ran_in_words(story: SearchRecord, result: SearchResult) -> str:
    saved = result.saved
    epochs = f"; {saved.epochs:,} of {saved.all_epochs:,} epochs trained" if saved.epochs else ""
    repeats = sum(trial.repeat for trial in story.trials)
    again = f"; {repeats} of them with the paper's setting again, to measure luck" if repeats else ""
    return f"{_counted(len(story.trials), 'trial')} ({states_in_words(story)}{again}){epochs}."


def states_in_words(story: SearchRecord) -> str:
    """ "22 complete, 7 stopped early, 1 failed"."""
    words = {"complete": "complete", "stopped": "stopped early", "failed": "failed"}
    counts: Counter[str] = Counter(trial.state for trial in story.trials)
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state]) or "none ran"


def best_in_words(story: SearchRecord, result: SearchResult) -> str:
    """The highest score in cross-validation, and why it is not to be believed as it stands."""
    if result.best is None or result.best.score is None:
        return f"No trial completed{_first_error(story)}, so nothing was chosen."
    score = f"{k_of_n(result.best, story)} training leaves ({percent(result.best.score)}), each held out once"
    if result.kept:
        return f"No setting scored higher in cross-validation than the paper's own: {score}."
    beside = (
        f", {points(result.selection_bias.gain)} points against the paper's setting ({_paper_mean(result.selection_bias.noise)})"
        if result.selection_bias
        else ""
    )
    told = f"Highest in cross-validation: trial {result.best.number}, {score}{beside}."
    chosen = (
        result.selection_bias.settings
        if result.selection_bias
        else sum(trial.score is not None and not trial.repeat for trial in story.trials)
    )
    return f"{told} It was chosen as the highest of {chosen}, so that score is too high." if chosen > 1 else told


def luck_in_words(result: SearchResult) -> str:
    """How far as many equal settings would have come; empty where nothing was chosen among others."""
    found = result.selection_bias
    if found is None:
        return (
            ""
            if result.best is None
            else "The paper's setting did not complete, so the gain over it, and its luck, were not measured."
        )
    if found.settings < 2:
        return "Only one setting completed: nothing was chosen, so luck had no part."
    expected = f"{points(found.expected)} points{_expected_range(found)}"
    if result.kept:
        return f"By luck alone the best of {found.settings} equally good settings would have been expected to gain {expected}."
    verdict = "luck alone does not explain it." if found.p < LIKELY else "luck alone can explain all of it."
    return (
        f"If all {found.settings} settings were equally good, the best would still be expected to gain {expected} by luck; it gained "
        f"{points(found.gain)}. Equal settings gain as much in {_in_a_hundred(found.p)} such searches: {verdict}"
    )


def noise_in_words(noise: SeedVariance) -> str:
    """Where the standard deviation of equal settings comes from."""
    if noise.measured:
        return f"of the score over {noise.trainings} trainings of the paper's setting with different seeds"
    why = "they scored alike" if noise.trainings > 1 else "the paper's setting was not repeated"
    return f"not measured ({why}), but that of a count of right leaves if each leaf errs by itself"


def gain_in_words(result: SearchResult) -> str:
    """The difference on the test leaves, and whether it shows anything."""
    if result.gain is None:
        if result.kept and result.paper_tested:
            found = result.paper_tested.accuracy
            sure = f"95\u00a0% interval {100 * found.low:.1f} to {100 * found.high:.1f}\u00a0%"
            return f"The paper's setting, trained on all training leaves, named {percent(found.value)} of the test leaves rightly ({sure})."
        if result.best is None:
            return ""
        return "The two settings were not both tested, so whether the gain holds on other leaves is not known."
    gap = result.gain
    amount = round(100 * gap.value, 1)
    than = (
        f"{abs(amount):.1f} points {'more' if amount > 0 else 'fewer'} of the test leaves rightly than"
        if amount
        else "as many test leaves as"
    )
    sure = f"95\u00a0% interval {points(gap.low)} to {points(gap.high)}; p {p_text(gap.p)}"
    verdict = "That is more than the choice of test leaves explains." if gap.p < LIKELY else "That shows no difference."
    return f"The search never saw the test leaves. The best setting named {than} the paper's ({sure}). {verdict}"


def k_of_n(trial: TrialResult, story: SearchRecord) -> str:
    return f"{trial.curve[-1] * story.leaves:.0f} of {story.leaves}"


def lost_in_words(story: SearchRecord) -> str | None:
    """Which trials failed, and why the first one did."""
    lost = [str(trial.number) for trial in story.trials if trial.state == "failed"]
    return f"Trials that failed: {', '.join(lost)}{_first_error(story)}." if lost else None


def duration(seconds: float) -> str:
    """ "50 s", "12 min", "3.4 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _first_error(story: SearchRecord, most: int = 120) -> str:
    error = next((line for trial in story.trials for line in (trial.error or "").strip().splitlines()[:1]), "").rstrip(
        "."
    )
    return f" (the first: {textwrap.shorten(error, most, placeholder=' ...')})" if error else ""


def _expected_range(found: SelectionBias) -> str:
    """Few trainings measure a deviation poorly; whoever reads the luck must see how poorly."""
    span = found.noise.sd_interval()
    if span is None:
        return ""
    low, high = (found.expected * end / found.noise.sd for end in span)
    return f" (95\u00a0% interval {points(low)} to {points(high)})"


def _in_a_hundred(p: float) -> str:
    if p < 0.01:
        return "fewer than 1 of 100"
    return "more than 99 of 100" if p > 0.99 else f"about {100 * p:.0f} of 100"


def _paper_mean(noise: SeedVariance) -> str:
    return f"{percent(noise.mean)}{f', mean of {noise.trainings} trainings' if noise.trainings > 1 else ''}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
