"""The report of a search: figures by hand from the trials, nothing invented for what is missing, luck beside every gain."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.unit import search_stories as made
from tests.unit.search_stories import BACKBONE, FUSION, PAPER, VEIN, made_up
from tests.unit.test_page import Reader
from ufgvc.evaluation import search_importance
from ufgvc.evaluation.search_record import Dimension, FinalRow, SearchRecord, TrialResult
from ufgvc.evaluation.search_result import SearchResult, leading, measure, ranked
from ufgvc.evaluation.stats import paired_bootstrap
from ufgvc.reports import search_figures, search_page
from ufgvc.reports.figures import Chart
from ufgvc.reports.search_fields import fields_of, free_fields, short_labels
from ufgvc.reports.search_page import compose_search
from ufgvc.reports.search_simplex import HEIGHT, projected, simplex_chart, simplex_in_words
from ufgvc.reports.search_tables import search_tables, to_csv
from ufgvc.reports.search_text import duration, gain_in_words, luck_in_words, reading
from ufgvc.reports.tables import Table

DUO = Dimension("options.fusion", "simplex", parts=("base", "vein"))


def cells(table: Table) -> dict[str | None, list[str | None]]:
    return {row[0]: row[1:] for row in table.rows}


def all_failed() -> SearchRecord:
    story = made_up(4)
    lost = tuple(
        replace(trial, state="failed", curve=(), losses=(), folds=(), error="no GPU") for trial in story.trials
    )
    return replace(story, trials=lost, best=None, finals=())


def kept() -> SearchRecord:
    """The paper's setting won; it alone was tested."""
    story = made_up(12, axes=(FUSION, VEIN))
    first = replace(story.trials[0], curve=(*story.trials[0].curve[:-1], 0.75))
    return replace(story, trials=(first, *story.trials[1:]), best=0, finals=story.finals[:1])


def two_weights() -> SearchRecord:
    story = made_up(20, axes=(FUSION,))

    def halves(trial: TrialResult) -> TrialResult:
        base, vein = trial.values[FUSION.name]["base"], trial.values[FUSION.name]["vein"]
        return replace(trial, values={DUO.name: {"base": base / (base + vein), "vein": vein / (base + vein)}})

    return replace(story, axes=(DUO,), trials=tuple(map(halves, story.trials)), finals=())


def alike() -> SearchRecord:
    """Equal scores, of equal settings but for one choice."""
    curve = tuple([0.5] * made.EPOCHS)
    rows = [
        TrialResult(i, {BACKBONE.name: "resnet50"}, "complete", curve, tuple([float("nan")] * 20), (0.5,) * 3)
        for i in range(12)
    ]
    return replace(made_up(12), axes=(BACKBONE,), trials=tuple(rows), best=0, finals=())


STORIES: dict[str, Callable[[], SearchRecord]] = {
    "whole": made_up,
    "one": lambda: made_up(1, repeats=0),
    "few": lambda: made_up(4, axes=(FUSION, VEIN), repeats=1),
    "failed": all_failed,
    "none": lambda: replace(made_up(1), trials=(), best=None, finals=()),
    "untested": lambda: made_up(12, axes=(VEIN,), finals=()),
    "kept": kept,
    "choice": lambda: made_up(16, axes=(BACKBONE,)),
    "two weights": two_weights,
    "alike": alike,
    "no axes": lambda: replace(made_up(3), axes=()),
}


@pytest.fixture(scope="module")
def whole() -> SearchRecord:
    return made_up()


@pytest.fixture(scope="module")
def result(whole: SearchRecord) -> SearchResult:
    return measure(whole, 400)


@pytest.fixture(autouse=True, scope="module")
def few_shuffles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search_page, "importance", partial(search_importance.importance, shuffles=10))
        yield


@pytest.mark.parametrize("name", STORIES)
def test_every_story_makes_a_page(name: str) -> None:
    story = STORIES[name]()
    found = measure(story, 200)
    html = compose_search(story, "made", found).to_html()
    reader = Reader()
    reader.feed(html)
    assert not reader.faults
    assert not reader.open
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    written = [
        html,
        reading(story, found),
        to_csv(story),
        *(table.to_markdown() for table in search_tables(story, found).values()),
    ]
    assert not [text for text in written if re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>", "", text))]
    charts = [attributes for tag, attributes in reader.tags if tag == "figure"]
    assert all(len(attributes.get("aria-label") or "") > 40 for attributes in charts)


def test_two_hundred_trials() -> None:
    story = made_up(200)
    page = compose_search(story, "", measure(story, 100))
    assert len(page.to_html()) < 600_000
    assert "203 trials" in page.title
    assert len(list(csv.DictReader(io.StringIO(to_csv(story))))) == 203


def test_the_big_number_is_of_the_test_leaves(whole: SearchRecord, result: SearchResult) -> None:
    """Whoever reads the page must not take the score that the best was chosen by for what it gains."""
    page = compose_search(whole, "", result)
    means = [final.right.mean(axis=0) for final in whole.finals]
    gap = paired_bootstrap(means[1], means[0], whole.labels, 400)
    assert result.gain == gap
    assert page.headline == f"{100 * gap.value:+.1f} points".replace("-", "\u2212")
    assert "never saw the test leaves" in page.explanation
    assert any("too high" in warning for warning in page.warnings)
    assert "too high" in reading(whole, result)
    assert (
        "in cross-validation, as the highest of" in dict(page.stats)[f"{100 * result.selection_bias.gain:+.1f} points"]
    )


@pytest.mark.parametrize(
    ("name", "figure"), [("untested", "not tested"), ("failed", "not measured"), ("kept", "no gain")]
)
def test_no_number_where_nothing_was_measured(name: str, figure: str) -> None:
    page = compose_search(STORIES[name](), "")
    assert page.headline == figure
    assert ("Nothing was tested." in page.warnings) == (name == "untested")
    assert any("no GPU" in warning for warning in page.warnings) == (name == "failed")


def test_scores_by_hand(whole: SearchRecord, result: SearchResult) -> None:
    table = search_tables(whole, result)["scores"]
    best = whole.trials[whole.best]
    assert table.columns == ("", "Paper's", f"Best (trial {whole.best})")
    found = cells(table)
    right = [final.right.sum() / 3 for final in whole.finals]
    assert found["Test, right"] == [f"{k:.0f} of 240" if float(k).is_integer() else f"{k:.1f} of 240" for k in right]
    spread = [100 * np.std(final.right.mean(axis=1), ddof=1) for final in whole.finals]
    assert found["Spread (seeds)"] == [f"{one:.1f} (3)" for one in spread]
    assert found["Cross-validation, right"] == [
        f"{240 * trial.curve[-1]:.0f} of 240" for trial in (whole.trials[0], best)
    ]
    again = [trial.curve[-1] for trial in whole.trials if trial.repeat or trial.number == 0]
    assert found["Mean of 4 trainings"] == [f"{100 * np.mean(again):.1f}\u00a0%", None]


def test_values_by_hand(whole: SearchRecord, result: SearchResult) -> None:
    found = cells(search_tables(whole, result)["settings"])
    vein = whole.trials[whole.best].values[FUSION.name]["vein"]
    assert found["fusion vein"] == ["0.5", f"{vein:.3g}", "0 to 1, sum 1", "options.fusion.vein"]
    assert found["loss weights vein"][2] == "0.001 to 10 (log)"
    assert found["backbone"][2] == "resnet50, resnet18"


def test_trials_are_ranked_and_the_csv_has_all(whole: SearchRecord) -> None:
    order = ranked(whole)
    assert order[0].number == whole.best
    groups = [2 if t.state == "stopped" else 3 if t.state == "failed" else int(t.repeat) for t in order]
    assert groups == sorted(groups)
    scores = [trial.curve[-1] for trial, group in zip(order, groups, strict=True) if group == 0]
    assert scores == sorted(scores, reverse=True)
    rows = list(csv.DictReader(io.StringIO(to_csv(whole))))
    assert [int(row["trial"]) for row in rows] == list(range(33))
    one = whole.trials[2]
    assert float(rows[2]["options.fusion.contour"]) == one.values[FUSION.name]["contour"]
    assert float(rows[2]["accuracy"]) == one.curve[-1]
    assert rows[7]["state"] == "failed"
    assert rows[7]["accuracy"] == ""
    assert rows[7]["error"].startswith("CUDA out of memory.")


def test_of_equal_scores_the_chosen_one_stands_first(whole: SearchRecord) -> None:
    """The search breaks ties by the loss, which the report does not repeat."""
    story = replace(alike(), best=5)
    assert ranked(story)[0].number == 5


def test_what_stopping_saved_by_hand(whole: SearchRecord, result: SearchResult) -> None:
    ran = [trial for trial in whole.trials if trial.state != "failed"]
    stopped = sum(trial.state == "stopped" for trial in ran)
    assert stopped
    assert result.saved.all_epochs - result.saved.epochs == 15 * stopped
    assert result.saved.all_seconds == pytest.approx(30.0 * 20 * len(ran))
    assert f"{stopped} of 33 trials were stopped" in search_tables(whole, result)["saved"].note


def test_the_words_follow_the_figures(whole: SearchRecord, result: SearchResult) -> None:
    luck = result.selection_bias
    sure, unsure = (
        replace(result, selection_bias=replace(luck, p=0.004)),
        replace(result, selection_bias=replace(luck, p=0.4)),
    )
    assert "fewer than 1 of 100" in luck_in_words(sure)
    assert "does not explain it" in luck_in_words(sure)
    assert "about 40 of 100" in luck_in_words(unsure)
    assert "can explain all of it" in luck_in_words(unsure)
    gap = result.gain
    better = replace(result, gain=replace(gap, value=0.04, low=0.01, high=0.07, p=0.01))
    assert "4.0 points more" in gain_in_words(better)
    assert "more than the choice" in gain_in_words(better)
    same = replace(result, gain=replace(gap, value=-0.01, low=-0.04, high=0.02, p=0.5))
    assert "1.0 points fewer" in gain_in_words(same)
    assert "shows no difference" in gain_in_words(same)
    assert [duration(s) for s in (9, 700, 7200)] == ["9 s", "12 min", "2.0 h"]


def test_without_repeats_the_page_says_that_luck_is_a_guess() -> None:
    story = made_up(12, repeats=0)
    assert any("guess" in warning for warning in compose_search(story, "").warnings)
    assert "not repeated" in search_tables(story)["luck"].note


def test_a_best_that_alone_was_tested_is_not_taken_for_the_papers(whole: SearchRecord) -> None:
    found = measure(replace(whole, finals=whole.finals[1:]), 100)
    assert found.paper_tested is None
    assert found.best_tested is not None
    assert found.gain is None


def test_leaves_that_do_not_match_are_refused(whole: SearchRecord) -> None:
    with pytest.raises(ValueError, match="not the same leaves"):
        measure(replace(whole, labels=whole.labels[1:]))


def test_the_triangle_keeps_distances() -> None:
    parts = FUSION.parts
    corners = projected([{part: float(part == corner) for part in parts} for corner in parts], parts)
    assert corners == pytest.approx(np.array([[0, 0], [1, 0], [0.5, HEIGHT]]))
    sides = [np.linalg.norm(corners[i] - corners[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert sides == pytest.approx([1, 1, 1])
    (middle,) = projected([dict.fromkeys(parts, 5.0)], parts)
    assert middle == pytest.approx(corners.mean(axis=0))


def test_weights_are_a_triangle_a_line_or_nothing(whole: SearchRecord) -> None:
    chart = simplex_chart(FUSION, whole)
    assert isinstance(chart, Chart)
    assert chart.name == "search-options-fusion"
    assert "only contour" in chart.to_svg()
    story = two_weights()
    line = simplex_chart(DUO, story)
    assert line
    assert "weight of base (the rest is vein)" in line.to_svg()
    four = Dimension("options.fusion", "simplex", parts=("base", "vein", "contour", "tip"))
    assert simplex_chart(four, whole) is None
    assert simplex_chart(VEIN, whole) is None


def test_the_weights_reading_finds_what_was_put_in() -> None:
    story = made_up(60, effect=1.0)
    assert "more vein" in simplex_in_words(FUSION, story)
    random = np.random.default_rng(3)
    flat = [
        replace(t, curve=(*t.curve[:-1], float(random.choice(t.curve[-5:])))) if t.curve else t
        for t in made_up(40, effect=0.0).trials
    ]
    assert "beyond chance" in simplex_in_words(FUSION, replace(story, trials=tuple(flat)))


def test_importance_beside_chance() -> None:
    """A strong field passes the line and one that does nothing does not; in a search without any effect none does."""
    strong = search_importance.importance(made_up(60, effect=1.5), 40)
    assert strong
    assert "fusion vein" in strong.beyond_chance
    assert not {"loss weights vein", "optimizer lr", "recipe crop", "backbone"} & set(strong.beyond_chance)
    assert search_figures.importance_in_words(strong).startswith("Beyond chance")
    flat = search_importance.importance(made_up(60, effect=0.0), 40)
    assert flat
    assert not flat.beyond_chance
    assert "does not show which field matters" in search_figures.importance_in_words(flat)


def test_few_or_equal_trials_say_nothing_of_importance() -> None:
    few = made_up(8)
    assert search_importance.importance(few) is None
    assert leading(few) == []
    assert search_figures.importance_in_words(None, few).startswith("Too few trials to say")
    same = alike()
    assert search_importance.importance(same) is None
    assert "scored alike" in search_figures.importance_in_words(None, same)


def test_optuna_speaks_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    search_importance.importance(made_up(20), 2)
    assert optuna.logging.get_verbosity() == before
    assert "study" not in capfd.readouterr().err


def test_fields_stand_where_their_axis_puts_them(whole: SearchRecord) -> None:
    fields = {field.name: field for field in fields_of(whole)}
    vein = fields[VEIN.name]
    assert [vein.place({VEIN.name: value}) for value in (0.001, 0.1, 10.0, 0.0)] == pytest.approx([0, 0.5, 1, 0])
    assert fields["recipe.crop"].place({"recipe.crop": 0.75}) == pytest.approx(0.5)
    assert [fields[BACKBONE.name].place({BACKBONE.name: name}) for name in BACKBONE.choices] == [0, 1]
    assert fields["options.fusion.vein"].place(PAPER) == 0.5
    assert [field.label for field in free_fields(two_weights())] == ["fusion base"]


def test_a_papers_value_outside_the_axis_widens_it() -> None:
    narrow, choice = replace(VEIN, low=0.5), replace(BACKBONE, choices=("resnet18",))
    story = made_up(3, axes=(VEIN, BACKBONE))
    story = replace(story, axes=(narrow, choice))
    vein, backbone = fields_of(story)
    assert vein.low <= 0.1
    assert 0 <= vein.place(PAPER) <= 1
    assert backbone.choices == ("resnet18", "resnet50")
    assert backbone.place(PAPER) == 1
    assert cells(search_tables(story)["settings"])["backbone"][-2] == "resnet18"


def test_labels_are_as_short_as_they_can_be() -> None:
    names = ["options.fusion.vein", "optimizer.lr", "init", "a.b.c", "d.b.c"]
    assert short_labels(names) == ["fusion vein", "optimizer lr", "init", "a b c", "d b c"]


def test_a_final_of_one_seed_has_no_spread(whole: SearchRecord) -> None:
    finals = tuple(FinalRow(final.label, final.values, final.right[:1]) for final in whole.finals)
    story = replace(whole, finals=finals)
    assert cells(search_tables(story)["scores"])["Spread (seeds)"] == ["(1)", "(1)"]
    assert any("One seed" in warning for warning in compose_search(story, "").warnings)
