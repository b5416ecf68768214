"""The search report: statistics by hand from the trials, and no number for what was not measured."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.unit.html_reader import Reader
from tests.unit.synthetic_searches import (
    BACKBONE,
    DUO,
    FUSION,
    VEIN,
    cells,
    equal_scores,
    synthetic_search,
    two_weights,
)
from ufgvc.core.text import format_duration
from ufgvc.evaluation.bootstrap import paired_bootstrap
from ufgvc.evaluation.search_parameters import importance
from ufgvc.evaluation.search_record import Dimension, FinalResult, SearchRecord
from ufgvc.evaluation.search_summary import SearchSummary, summarize
from ufgvc.reports import search_page
from ufgvc.reports.figures import Chart
from ufgvc.reports.search_figures import HEIGHT, simplex_chart
from ufgvc.reports.search_page import compose_search, describe_bias, describe_gain, summary_text
from ufgvc.reports.search_tables import search_tables, to_csv


def all_failed() -> SearchRecord:
    record = synthetic_search(4)
    failed = tuple(
        replace(trial, state="failed", curve=(), losses=(), folds=(), error="no GPU") for trial in record.trials
    )
    return replace(record, trials=failed, best=None, finals=())


def paper_is_best() -> SearchRecord:
    """The paper's setting scored highest; it alone was tested."""
    record = synthetic_search(12, dimensions=(FUSION, VEIN))
    first = replace(record.trials[0], curve=(*record.trials[0].curve[:-1], 0.75))
    return replace(record, trials=(first, *record.trials[1:]), best=0, finals=record.finals[:1])


RECORDS: dict[str, Callable[[], SearchRecord]] = {
    "whole": synthetic_search,
    "one": lambda: synthetic_search(1, repeats=0),
    "few": lambda: synthetic_search(4, dimensions=(FUSION, VEIN), repeats=1),
    "failed": all_failed,
    "none": lambda: replace(synthetic_search(1), trials=(), best=None, finals=()),
    "untested": lambda: synthetic_search(12, dimensions=(VEIN,), finals=()),
    "paper is best": paper_is_best,
    "choice": lambda: synthetic_search(16, dimensions=(BACKBONE,)),
    "two weights": two_weights,
    "equal scores": equal_scores,
    "no dimensions": lambda: replace(synthetic_search(3), dimensions=()),
}


@pytest.fixture(scope="module")
def record() -> SearchRecord:
    return synthetic_search()


@pytest.fixture(scope="module")
def summary(record: SearchRecord) -> SearchSummary:
    return summarize(record, 400)


@pytest.fixture(autouse=True, scope="module")
def few_permutations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search_page, "importance", partial(importance, permutations=10))
        yield


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_makes_a_page(name: str) -> None:
    record = RECORDS[name]()
    summary = summarize(record, 200)
    html = compose_search(record, "footer", summary).to_html()
    reader = Reader()
    reader.feed(html)
    assert not reader.faults
    assert not reader.open
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    tables = [table.to_markdown() for table in search_tables(record, summary).values()]
    written = [html, summary_text(record, summary), to_csv(record), *tables]
    assert not [text for text in written if re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>", "", text))]
    charts = [attributes for tag, attributes in reader.tags if tag == "figure"]
    assert all(len(attributes.get("aria-label") or "") > 40 for attributes in charts)


def test_two_hundred_trials() -> None:
    record = synthetic_search(200)
    page = compose_search(record, "", summarize(record, 100))
    assert len(page.to_html()) < 600_000
    assert "203 trials" in page.title
    assert len(list(csv.DictReader(io.StringIO(to_csv(record))))) == 203


def test_the_headline_is_the_gain_on_the_test_leaves(record: SearchRecord, summary: SearchSummary) -> None:
    """Never the gain in cross-validation, which selection has biased."""
    page = compose_search(record, "", summary)
    means = [final.right.mean(axis=0) for final in record.finals]
    gap = paired_bootstrap(means[1], means[0], record.labels, 400)
    assert summary.gain == gap
    assert page.headline == f"{100 * gap.value:+.1f} points".replace("-", "\u2212")
    assert "test leaves, which the search never used" in page.explanation
    assert any("too high" in warning for warning in page.warnings)
    assert "biased upwards" in summary_text(record, summary)
    assert "in cross-validation, as the best of" in dict(page.stats)[f"{100 * summary.selection_bias.gain:+.1f} points"]


@pytest.mark.parametrize(
    ("name", "headline"), [("untested", "not tested"), ("failed", "not measured"), ("paper is best", "no gain")]
)
def test_no_number_where_nothing_was_measured(name: str, headline: str) -> None:
    page = compose_search(RECORDS[name](), "")
    assert page.headline == headline
    assert ("No setting was evaluated on the test leaves." in page.warnings) == (name == "untested")
    assert any("no GPU" in warning for warning in page.warnings) == (name == "failed")


def test_scores_by_hand(record: SearchRecord, summary: SearchSummary) -> None:
    table = search_tables(record, summary)["scores"]
    best = record.trials[record.best]
    assert table.columns == ("", "Paper's", f"Best (trial {record.best})")
    found = cells(table)
    right = [final.right.sum() / 3 for final in record.finals]
    assert found["Test, correct"] == [f"{k:.0f} of 240" if float(k).is_integer() else f"{k:.1f} of 240" for k in right]
    spread = [100 * np.std(final.right.mean(axis=1), ddof=1) for final in record.finals]
    assert found["Spread (seeds)"] == [f"{one:.1f} (3)" for one in spread]
    correct = [f"{240 * trial.curve[-1]:.0f} of 240" for trial in (record.trials[0], best)]
    assert found["Cross-validation, correct"] == correct
    repeats = [trial.curve[-1] for trial in record.trials if trial.repeat or trial.number == 0]
    assert found["Mean of 4 trainings"] == [f"{100 * np.mean(repeats):.1f}\u00a0%", None]


def test_values_by_hand(record: SearchRecord, summary: SearchSummary) -> None:
    found = cells(search_tables(record, summary)["settings"])
    vein = record.trials[record.best].values[FUSION.name]["vein"]
    assert found["fusion vein"] == ["0.5", f"{vein:.3g}", "0 to 1, sum 1", "options.fusion.vein"]
    assert found["loss weights vein"][2] == "0.001 to 10 (log)"
    assert found["backbone"][2] == "resnet50, resnet18"


def test_trials_are_ranked_and_the_csv_has_all(record: SearchRecord) -> None:
    order = record.ranked()
    assert order[0].number == record.best
    groups = [2 if t.state == "stopped" else 3 if t.state == "failed" else int(t.repeat) for t in order]
    assert groups == sorted(groups)
    scores = [trial.curve[-1] for trial, group in zip(order, groups, strict=True) if group == 0]
    assert scores == sorted(scores, reverse=True)
    rows = list(csv.DictReader(io.StringIO(to_csv(record))))
    assert [int(row["trial"]) for row in rows] == list(range(33))
    one = record.trials[2]
    assert float(rows[2]["options.fusion.contour"]) == one.values[FUSION.name]["contour"]
    assert float(rows[2]["accuracy"]) == one.curve[-1]
    assert rows[7]["state"] == "failed"
    assert rows[7]["accuracy"] == ""
    assert rows[7]["error"].startswith("CUDA out of memory.")


def test_of_equal_scores_the_selected_one_ranks_first() -> None:
    """The search breaks ties by the loss; the report follows its selection."""
    assert replace(equal_scores(), best=5).ranked()[0].number == 5


def test_savings_by_hand(record: SearchRecord, summary: SearchSummary) -> None:
    ran = [trial for trial in record.trials if trial.state != "failed"]
    stopped = sum(trial.state == "stopped" for trial in ran)
    assert stopped
    assert summary.savings.all_epochs - summary.savings.epochs == 15 * stopped
    assert summary.savings.all_seconds == pytest.approx(30.0 * 20 * len(ran))
    assert f"{stopped} of 33 trials were stopped early" in search_tables(record, summary)["savings"].note


def test_the_sentences_follow_the_numbers(summary: SearchSummary) -> None:
    bias = summary.selection_bias
    significant = replace(summary, selection_bias=replace(bias, p=0.004))
    assert "(p 0.004) exceeds the selection bias" in describe_bias(significant)
    chance = replace(summary, selection_bias=replace(bias, p=0.4))
    assert "(p 0.400) can be explained by selection bias" in describe_bias(chance)
    gap = summary.gain
    better = replace(summary, gain=replace(gap, value=0.04, low=0.01, high=0.07, p=0.01))
    assert "4.0 points more accurate" in describe_gain(better)
    assert "difference is significant" in describe_gain(better)
    same = replace(summary, gain=replace(gap, value=-0.01, low=-0.04, high=0.02, p=0.5))
    assert "1.0 points less accurate" in describe_gain(same)
    assert "not significant" in describe_gain(same)
    assert [format_duration(seconds) for seconds in (9, 700, 7200)] == ["9 s", "12 min", "2.0 h"]


def test_without_repeats_the_selection_bias_is_a_rough_estimate() -> None:
    record = synthetic_search(12, repeats=0)
    assert any("rough estimate" in warning for warning in compose_search(record, "").warnings)
    assert "not repeated" in search_tables(record, summarize(record, 100))["bias"].note


def test_a_single_final_result_of_the_best_is_not_taken_for_the_papers(record: SearchRecord) -> None:
    found = summarize(replace(record, finals=record.finals[1:]), 100)
    assert found.paper_test is None
    assert found.best_test is not None
    assert found.gain is None


def test_another_number_of_leaves_is_an_error(record: SearchRecord) -> None:
    with pytest.raises(ValueError, match="not the same leaves"):
        summarize(replace(record, labels=record.labels[1:]))


def test_the_triangle_places_weights_by_their_shares(record: SearchRecord) -> None:
    corners = dict(zip(FUSION.parts, ((0, 0), (1, 0), (0.5, HEIGHT)), strict=True))
    chart = simplex_chart(FUSION, record)
    assert isinstance(chart, Chart)
    assert chart.name == "search-options-fusion"
    assert "only contour" in chart.to_svg()
    (ax,) = chart.figure.axes
    (best,) = [line for line in ax.lines if line.get_label() == f"best (trial {record.best})"]
    weights = record.trials[record.best].values[FUSION.name]
    expected = np.sum([weights[part] * np.array(corner) for part, corner in corners.items()], axis=0)
    assert best.get_xydata()[0] == pytest.approx(expected)
    four = Dimension("options.fusion", "simplex", parts=("base", "vein", "contour", "tip"))
    assert [simplex_chart(one, record) for one in (DUO, four, VEIN)] == [None] * 3


def test_one_seed_has_no_spread(record: SearchRecord) -> None:
    finals = tuple(FinalResult(final.label, final.values, final.right[:1]) for final in record.finals)
    one_seed = replace(record, finals=finals)
    summary = summarize(one_seed, 100)
    assert cells(search_tables(one_seed, summary)["scores"])["Spread (seeds)"] == ["(1)", "(1)"]
    assert any("One seed" in warning for warning in compose_search(one_seed, "", summary).warnings)
