"""A search on one page: what the best setting gains on leaves that the search never saw, and how much of its score was luck."""

from __future__ import annotations

from ufgvc.evaluation.search_importance import importance
from ufgvc.evaluation.search_record import SearchRecord
from ufgvc.evaluation.search_result import SearchResult, measure
from ufgvc.reports.benchmark_tables import points
from ufgvc.reports.page import Page, Section
from ufgvc.reports.search_figures import (
    importance_chart,
    importance_in_words,
    parallel_chart,
    parallel_in_words,
    progress_chart,
    progress_in_words,
)
from ufgvc.reports.search_simplex import simplex_chart, simplex_in_words
from ufgvc.reports.search_tables import search_tables
from ufgvc.reports.search_text import (
    best_in_words,
    duration,
    gain_in_words,
    lost_in_words,
    luck_in_words,
    ran_in_words,
    states_in_words,
)
from ufgvc.reports.tables import Table, percent


def compose_search(story: SearchRecord, made: str = "", result: SearchResult | None = None) -> Page:
    """The whole page.  made: the footer.  result: of `measure`, if it is there already."""
    result = measure(story) if result is None else result
    tables = search_tables(story, result)
    chapters = [
        _of(
            "The best setting beside the paper's",
            best_in_words(story, result),
            tables.get("scores"),
            tables.get("settings"),
        ),
        _luck(story, result, tables.get("luck")),
        *_weights(story),
        _fields(story),
        _importance(story),
        _of("The trials", ran_in_words(story, result), tables.get("trials")),
        _of("What early stopping saved", "", tables.get("saved")),
    ]
    figure, explanation = _head(story, result)
    return Page(
        eyebrow=f"ufgvc search on {story.dataset}",
        title=f"{story.method}: what a search of {_counted(story)} found",
        headline=figure,
        explanation=explanation,
        stats=_tiles(story, result),
        sections=[chapter for chapter in chapters if chapter],
        facts={**_facts(story), **{name[:1].upper() + name[1:]: text for name, text in story.facts.items()}},
        warnings=_warnings(story, result),
        footer=made,
    )


def _head(story: SearchRecord, result: SearchResult) -> tuple[str, str]:
    """The one big number is that of the test leaves, never the score that the best was chosen by."""
    if result.gain:
        return f"{points(result.gain.value)} points", gain_in_words(result)
    if result.best is None:
        return "not measured", best_in_words(story, result)
    told = f"{best_in_words(story, result)} {gain_in_words(result)}"
    return ("no gain" if result.kept else "not tested"), told


def _of(title: str, text: str, *tables: Table | None) -> Section | None:
    blocks = [table for table in tables if table]
    return Section(title, text, blocks) if blocks else None


def _luck(story: SearchRecord, result: SearchResult, table: Table | None) -> Section | None:
    chart = progress_chart(story, result)
    blocks = [block for block in (chart, table) if block]
    text = f"{luck_in_words(result)} {progress_in_words(story, result)}".strip()
    return Section("How much of it is luck", text, blocks) if blocks else None


def _weights(story: SearchRecord) -> list[Section]:
    charts = [(axis, simplex_chart(axis, story)) for axis in story.axes]
    return [
        Section(
            f"The weights: {axis.name}", f"{WEIGHTS_TEXT[len(axis.parts)]} {simplex_in_words(axis, story)}", [chart]
        )
        for axis, chart in charts
        if chart
    ]


WEIGHTS_TEXT = {
    2: "Each point is a trial.",
    3: "Each point is a trial: the nearer to a corner, the more weight on what the corner is named after; the fuller its colour, the "
    "higher it scored.",
}


def _fields(story: SearchRecord) -> Section | None:
    chart = parallel_chart(story)
    text = "Each line is a trial, the stronger the higher it scored."
    return Section("All settings together", f"{text} {parallel_in_words(story)}", [chart]) if chart else None


def _importance(story: SearchRecord) -> Section | None:
    if not story.axes or not story.trials:
        return None
    found = importance(story)
    text = importance_in_words(found, story)
    if found and _joint(story):
        text += " Weights that sum to 1 move together, so their bars do not tell which of them it is."
    if found:
        text += " Where later trials were chosen by the scores of earlier ones, this is a rough test."
    return Section("Which setting matters", text, [importance_chart(found)] if found else [])


def _joint(story: SearchRecord) -> bool:
    return any(len(axis.parts) > 2 for axis in story.axes)


def _counted(story: SearchRecord) -> str:
    return f"{len(story.trials)} trial{'' if len(story.trials) == 1 else 's'}"


def _tiles(story: SearchRecord, result: SearchResult) -> list[tuple[str, str]]:
    luck, saved = result.selection_bias, result.saved
    tiles = [(_counted(story), states_in_words(story))]
    if luck and luck.settings > 1:
        tiles.append((f"{points(luck.gain)} points", f"in cross-validation, as the highest of {luck.settings}"))
        tiles.append((f"{points(luck.expected)} points", "to be expected by luck alone"))
    if saved.epochs < saved.all_epochs:
        tiles.append((percent(1 - saved.epochs / saved.all_epochs) or "", "of the epochs saved by stopping early"))
    return [*tiles, (duration(story.wall), "from the first trial to the last")]


def _facts(story: SearchRecord) -> dict[str, str]:
    facts = {
        "Score of a trial": f"{story.folds}-fold cross-validation over {story.leaves} training leaves, after {story.epochs} epochs",
        "Searched": ", ".join(axis.name for axis in story.axes) or "nothing",
    }
    if story.finals:
        seeds = " and ".join(str(number) for number in sorted({len(final.right) for final in story.finals}))
        facts["Test"] = (
            f"{len(story.labels)} leaves of {len(set(story.labels.tolist()))} cultivars, once, after the search; seeds: {seeds}"
        )
    return facts


def _warnings(story: SearchRecord, result: SearchResult) -> list[str]:
    """What a reader must know before believing any of it."""
    found = []
    if result.selection_bias and result.selection_bias.settings > 1 and not result.kept:
        found.append(
            f"The cross-validated score of the best is the highest of {result.selection_bias.settings}, so too high. "
            "Only the test leaves tell what it gains."
        )
    if result.selection_bias and result.selection_bias.settings > 1 and not result.selection_bias.noise.measured:
        found.append("How far two trainings of the same setting differ was not measured; the luck rests on a guess.")
    if result.best and not story.finals:
        found.append("Nothing was tested.")
    if story.finals and min(len(final.right) for final in story.finals) < 2:
        found.append(
            "One seed each on the test leaves: how far two trainings of the same setting differ there was not measured."
        )
    lost = lost_in_words(story)
    return [*found, *([lost] if lost else [])]
