"""The report of a benchmark: every figure by hand from the cells, nothing invented for what failed, a page that holds together."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.test_page import Reader
from ufgvc.evaluation.comparison import BenchmarkDataset, Cell, Comparison, Entry
from ufgvc.evaluation.stats import holm, paired_bootstrap, pooled_cultivars, seed_mean
from ufgvc.reports import benchmark_page, benchmark_rows, benchmark_tables, figures, tables
from ufgvc.reports.benchmark_controls import controls_in_words
from ufgvc.reports.benchmark_rows import measure

CULTIVARS = 10
DRAWS = (
    BenchmarkDataset("a", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
    BenchmarkDataset("b", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
)
RESAMPLES = 400


def first(k: int) -> np.ndarray:
    """The first k leaves right."""
    return np.arange(3 * CULTIVARS) < k


def entry(key: str, right: dict[tuple[str, int], int | str], **told) -> Entry:
    """right: {(draw, seed): leaves right, or the error}."""
    cells = [
        Cell(draw, seed, None, k, 5.0)
        if isinstance(k, str)
        else Cell(draw, seed, first(k), None, 60.0 * (seed + 1), 100.0, 0.01)
        for (draw, seed), k in right.items()
    ]
    defaults = {
        "label": key,
        "method": key,
        "backbone": "ResNet-50",
        "tables": frozenset({"II"}),
        "cells": tuple(cells),
    }
    return Entry(key=key, **{**defaults, **told})


def both(low: int, high: int) -> dict[tuple[str, int], int | str]:
    return {("a", 0): low, ("a", 1): high, ("b", 0): low, ("b", 1): high}


def comparison(*entries: Entry, **told) -> Comparison:
    return Comparison("A <benchmark>", "equal", DRAWS, entries, **told)


@pytest.fixture(scope="module")
def whole() -> Comparison:
    everywhere = frozenset({"II", "III"})
    guided = {"method": "mask_guided", "tables": frozenset({"III"})}
    return comparison(
        entry(
            "mask_guided",
            both(21, 24),
            label="mask_guided",
            paper=0.6208,
            tables=everywhere,
            regions=("vein", "contour"),
        ),
        entry(
            "ours",
            both(24, 27),
            label="region tokens",
            note="lambda | 0.5",
            parameters=1_250_000,
            gflops=0.25,
            inference_rate=1234.5,
        ),
        entry(
            "resnet50",
            both(12, 15),
            label="ResNet-50",
            paper=0.525,
            tables=everywhere,
            parameters=23_672_000,
            gflops=33.04,
        ),
        entry(
            "alexnet",
            {("a", 0): 6, ("a", 1): "OOM\nlong trace", ("b", 0): "OOM", ("b", 1): "OOM"},
            label="AlexNet",
            paper=0.2292,
        ),
        entry("dcl", {("a", 0): "no\n", ("b", 0): ""}, label="DCL", paper=0.5375),
        entry("contour", both(18, 18), **guided, regions=("contour",), paper=0.606),
        entry("vein", both(15, 18), **guided, regions=("vein",), paper=0.5833),
        entry("recipe", both(13, 14), label="ResNet-50, recipe of mask_guided", tables=frozenset({"controls"})),
        energy={"ResNet-50": (0.4, 0.2, 30), "nowhere": (float("nan"), float("nan"), 0)},
        facts={"Data": "made <up>"},
    )


@pytest.fixture(scope="module")
def rows(whole: Comparison) -> list[benchmark_rows.Row]:
    return benchmark_rows.measure(whole, RESAMPLES)


def cells_of(table: tables.Table | None, label: str) -> dict[str, str | None]:
    assert table is not None
    # The two p columns are told apart by their place.
    names = [name if name != "p" else f"p of {table.columns[place - 1]}" for place, name in enumerate(table.columns)]
    (row,) = [row for row in table.rows if row[0] == label]
    return dict(zip(names, row, strict=True))


def test_rows_stand_in_the_papers_order(whole: Comparison, rows: list[benchmark_rows.Row]) -> None:
    made = benchmark_tables.benchmark_tables(whole, rows)
    assert [row[0] for row in made["II"].rows] == ["AlexNet", "ResNet-50", "DCL", "mask_guided", "region tokens"]
    expected = ["ResNet-50", "ResNet-50 + vein", "ResNet-50 + contour", "ResNet-50 + vein + contour"]
    assert [row[0] for row in made["III"].rows] == expected
    assert [row[0] for row in made["controls"].rows] == ["ResNet-50, recipe of mask_guided"]
    assert benchmark_tables.benchmark_table(comparison(whole.entries[0]), "controls") is None


def test_every_order_of_the_paper_is_its_own() -> None:
    known = {method for method, _ in tables.PAPER["cotton80"]}
    assert known < set(benchmark_tables.METHODS)
    assert set(benchmark_tables.METHODS) - known == {"bcnn"}


def test_a_row_by_hand(whole: Comparison, rows: list[benchmark_rows.Row]) -> None:
    """Seeds with 21 and 24 of 30 in both draws: 45 of 60 leaves, whatever the number of seeds; sd of 0.7 and 0.8."""
    found = cells_of(benchmark_tables.benchmark_table(whole, "II", rows), "mask_guided")
    assert (found["Paper"], found["Right"], found["Accuracy"]) == ("62.08\u00a0%", "45 of 60", "75.0\u00a0%")
    assert found["Spread (seeds)"] == f"{100 * np.std([0.7, 0.8], ddof=1):.1f} (2)"
    assert (found["Training images/s"], found["Minutes a run"], found["Learning rate"]) == ("100", "1.5", "0.01")
    assert found["Parameters"] is found["GFLOPs"] is found["Test images/s"] is None
    gap = paired_bootstrap(
        *(seed_mean(whole.entry(key), DRAWS) for key in ("mask_guided", "resnet50")), pooled_cultivars(DRAWS), RESAMPLES
    )
    assert gap.value == pytest.approx(0.3)
    texts = [f"{100 * value:+.1f}".replace("-", "\u2212") for value in (gap.value, gap.low, gap.high)]
    assert found["Against ResNet-50, points"] == f"{texts[0]} ({texts[1]} to {texts[2]})"
    assert found["Against mask_guided, points"] is found["p of Against mask_guided, points"] is None
    other = cells_of(benchmark_tables.benchmark_table(whole, "II", rows), "region tokens")
    assert (other["Paper"], other["Parameters"], other["GFLOPs"], other["Test images/s"]) == (
        None,
        "1.2 M",
        "0.25",
        "1,234",
    )


def test_differences_are_those_of_the_pairs_and_holm_takes_every_row(
    whole: Comparison, rows: list[benchmark_rows.Row]
) -> None:
    for reference in whole.references:
        base = whole.entry(reference)
        assert base is not None
        family = {}
        for entry in whole.entries:
            draws = DRAWS[:1] if entry.key == "alexnet" else DRAWS
            mean, against = seed_mean(entry, draws), seed_mean(base, draws)
            if entry is not base and mean is not None and against is not None:
                family[entry.key] = paired_bootstrap(mean, against, pooled_cultivars(draws), RESAMPLES)
        assert set(family) == {row.entry.key for row in rows if reference in row.against}
        adjusted = dict(zip(family, holm([gap.p for gap in family.values()]), strict=True))
        for row in rows:
            if row.entry.key in family:
                found, expected = row.against[reference], family[row.entry.key]
                assert (found.value, found.low, found.high, found.p) == pytest.approx(
                    (expected.value, expected.low, expected.high, expected.p), abs=1e-9
                )
                assert row.corrected[reference] == pytest.approx(adjusted[row.entry.key])


def test_what_failed_is_told_and_what_is_not_there_stays_empty(
    whole: Comparison, rows: list[benchmark_rows.Row]
) -> None:
    table = benchmark_tables.benchmark_table(whole, "II", rows)
    assert table is not None
    missing = cells_of(table, "DCL")
    assert {name for name, cell in missing.items() if cell} == {"Method", "Backbone", "Paper"}
    assert "DCL: failed: no (a, seed 0); missing (b, seed 0)." in table.note
    partly = cells_of(table, "AlexNet")
    assert (partly["Right"], partly["Spread (seeds)"], partly["Minutes a run"]) == ("6 of 30", "(1)", "1.0")
    assert "AlexNet: only a; failed: OOM (a, seed 1; b, seed 0, 1)." in table.note
    assert "long trace" not in table.note


def test_a_difference_takes_the_draws_that_both_finished() -> None:
    made = comparison(
        entry("dcl", both(12, 12)), entry("resnet50", {("a", 0): 9, ("b", 0): "OOM"}), entry("bcnn", {("b", 0): 9})
    )
    rows = {row.entry.key: row for row in benchmark_rows.measure(made, 50)}
    assert rows["dcl"].against["resnet50"].value == pytest.approx(3 / 30)
    assert (rows["dcl"].leaves, rows["resnet50"].leaves) == (60, 30)
    assert rows["bcnn"].against == {}
    assert rows["dcl"].corrected["resnet50"] == rows["dcl"].against["resnet50"].p


def test_leaves_of_thirds_and_long_errors() -> None:
    many = entry("m", {("a", 0): 3, ("a", 1): 4, ("a", 2): 4, ("b", 0): 3, ("b", 1): 3, ("b", 2): "x" * 500})
    (row,) = benchmark_rows.measure(comparison(many), 50)
    assert row.right == pytest.approx(11 / 3 + 3)
    assert row.seeds == 3
    assert row.spread == pytest.approx(np.std([6 / 60, 7 / 60], ddof=1))
    assert len(row.notes[0]) < 130
    thirds = entry("t", {(draw, seed): k for draw in "ab" for seed, k in ((0, 1), (1, 2), (2, 3))})
    assert benchmark_rows.measure(comparison(thirds), 50)[0].right == 4


def test_csv_holds_raw_numbers_and_texts(whole: Comparison, rows: list[benchmark_rows.Row]) -> None:
    lines = {line["key"]: line for line in csv.DictReader(io.StringIO(benchmark_tables.to_csv(whole, rows)))}
    assert list(lines) == [entry.key for entry in whole.entries]
    one = lines["mask_guided"]
    assert float(one["accuracy"]) == 0.75
    assert float(one["against_resnet50"]) == pytest.approx(0.3)
    assert (one["right"], one["leaves"], one["right_text"], one["paper"]) == ("45.0", "60", "45 of 60", "0.6208")
    assert (one["tables"], one["regions"], one["runs"], one["runs_lost"]) == ("II III", "vein contour", "4", "0")
    assert (one["against_mask_guided"], one["parameters"]) == ("", "")
    assert {
        name for name in ("right", "leaves", "accuracy", "seeds", "minutes", "accuracy_text") if lines["dcl"][name]
    } == set()
    assert lines["dcl"]["runs_lost"] == "2"
    assert benchmark_tables.to_csv(comparison()) == ""


def test_markdown_survives_a_bar_in_a_text(whole: Comparison, rows: list[benchmark_rows.Row]) -> None:
    odd = replace(whole, entries=(replace(whole.entries[1], label="a | b"),))
    table = benchmark_tables.benchmark_table(odd, "II", benchmark_rows.measure(odd, 20))
    assert table is not None
    assert "a \\| b" in table.to_markdown()
    assert not any(name.startswith("Against") for name in table.columns)


def test_a_flagged_run_is_marked_as_selected_on_test() -> None:
    cells = (Cell("a", 0, first(9), selected_on_test=True), Cell("b", 0, first(9)))
    one = replace(entry("maskcov", {}), cells=cells, options="epochs 3")
    shown = comparison(one)
    (row,) = benchmark_rows.measure(shown, 20)
    assert row.notes == ("epochs 3", "selected on test")
    page = benchmark_page.compose_benchmark(shown, [row])
    assert any("Selected on test" in warning and "maskcov" in warning for warning in page.warnings)
    assert any("One seed" in warning for warning in page.warnings)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (
            27,
            9,
            ("60.0 points more of the test leaves rightly than", "more than the choice", "+9.6 on cotton80 (below"),
        ),
        (
            9,
            27,
            ("60.0 points less of the test leaves rightly than", "more than the choice", "+10.8 on soylocal200 (above"),
        ),
        (15, 15, ("as many leaves as", "shows no difference", "(above")),
        (18, 17, ("3.3 points more", "shows no difference", "(inside that interval)")),
    ],
)
def test_the_reading_follows_the_numbers(ours: int, theirs: int, expected: tuple[str, ...]) -> None:
    entries = (
        entry("mask_guided", {("a", 0): ours}, label="guided"),
        entry("resnet50", {("a", 0): theirs}, label="plain"),
    )
    made = Comparison("t", "equal", DRAWS[:1], entries)
    text = benchmark_tables.reading(made, benchmark_rows.measure(made, RESAMPLES))
    assert text.startswith("guided named")
    for part in expected:
        assert part in text, (part, text)


def test_by_itself_and_among_many_are_two_things() -> None:
    assert "more than the choice" in benchmark_tables._verdict(0.001, 0.01)
    assert "among so many" in benchmark_tables._verdict(0.01, 0.2)
    assert "no difference" in benchmark_tables._verdict(0.3, 1.0)


def test_without_runs_nothing_is_claimed(whole: Comparison) -> None:
    lost = entry("mask_guided", {("a", 0): "OOM"}, label="guided")
    plain = entry("resnet50", {("b", 0): 3}, label="plain")
    for made, reason in (
        (comparison(lost, plain), "No run of guided finished"),
        (comparison(plain), "No run of mask_guided finished"),
        (
            comparison(entry("mask_guided", {("a", 0): 3}, label="guided"), plain),
            "No test leaves were named by both guided and plain",
        ),
    ):
        rows = benchmark_rows.measure(made, 20)
        text = benchmark_tables.reading(made, rows)
        assert text == f"{reason}, so the gain was not measured."
        page = benchmark_page.compose_benchmark(made, rows)
        assert page.headline == "not measured"
        assert not any(isinstance(block, figures.Chart) for chapter in page.sections for block in chapter.blocks)
        assert page.to_html()


def test_points_have_a_sign() -> None:
    assert [benchmark_tables.points(value) for value in (0.0321, -0.0321, 0.0, -0.0001)] == [
        "+3.2",
        "\u22123.2",
        "+0.0",
        "+0.0",
    ]


def test_names_are_used_once_and_draws_are_known(whole: Comparison) -> None:
    with pytest.raises(ValueError, match="share a name"):
        comparison(whole.entries[0], whole.entries[0])
    with pytest.raises(ValueError, match="unknown draws"):
        comparison(entry("m", {("c", 0): 3}))


def test_the_page_holds_together(whole: Comparison, rows: list[benchmark_rows.Row]) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    cam = figures.Panels("cam", "Maps", "Maps of a leaf", ("leaf",), ("one",), ((picture,),), (("62 % inside",),))
    page = benchmark_page.compose_benchmark(replace(whole, cam=cam), rows, made="now")
    html = page.to_html()
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert (reader.faults, reader.open) == ([], [])
    assert page.headline == "+30.0 points"
    assert [number for number, _ in page.stats] == ["8", "25 of 30", "60", "10.0\u00a0%"]
    titles = [
        "Every method beside ResNet-50",
        "The methods",
        "What the masks add",
        "What else could explain a gain",
        "What they look at",
    ]
    assert [chapter.title for chapter in page.sections] == titles
    assert any("AlexNet, DCL" in warning for warning in page.warnings)
    assert "made &lt;up&gt;" in html
    assert "62 % inside" in html
    assert "the same for every method" in html
    assert html.count("bootstrap over cultivars") == 1
    energy = next(block for block in page.sections[-1].blocks if isinstance(block, tables.Table))
    assert energy.rows == [
        ["ResNet-50", "40.0\u00a0%", "20.0\u00a0%", "2.00", "30"],
        ["nowhere", None, None, None, "0"],
    ]


def test_the_chart_tells_every_difference_and_its_texts_do_not_touch(
    whole: Comparison, rows: list[benchmark_rows.Row]
) -> None:
    chart = benchmark_page.forest_chart(whole, rows)
    assert chart is not None
    for row in rows:
        shown = "resnet50" in row.against
        assert (
            (f"{row.entry.label} {benchmark_tables.points_with_interval(row.against['resnet50'])}" in chart.alt)
            if shown
            else True
        )
    svg = chart.to_svg()
    assert not any(colour in svg for colour in figures.COLOURS)
    (ax,) = chart.figure.axes
    chart.figure.canvas.draw()
    numbers = [text.get_window_extent() for text in ax.texts]
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(numbers) == len(labels) == sum("resnet50" in row.against for row in rows)
    for boxes in (numbers, labels):
        for one, other in itertools.pairwise(boxes):
            assert not one.overlaps(other)
    width = chart.figure.bbox.width
    assert all(box.x0 >= 0 and box.x1 <= width for box in (*numbers, *labels))
    assert max(box.x1 for box in labels) < ax.bbox.x0 < ax.bbox.x1 < min(box.x0 for box in numbers)
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    gains = [0.6208 - 0.525, 0.2292 - 0.525, 0.606 - 0.525, 0.5833 - 0.525]
    assert sorted(float(line.get_xdata()[0]) for line in diamonds) == pytest.approx(
        sorted(100 * gain for gain in gains)
    )


def test_controls_are_read_in_words():
    """Ten leaves of each of forty cultivars, so that a difference of twenty points is beyond chance."""
    labels = np.repeat(np.arange(40), 10)
    generator = np.random.default_rng(0)

    def entry(key: str, label: str, share: float) -> Entry:
        cells = tuple(Cell("draw", seed, generator.random(400) < share) for seed in range(3))
        return Entry(
            key=key, label=label, method="mask_guided", backbone="resnet18", tables=frozenset({"controls"}), cells=cells
        )

    def told(shuffled: float, centre: float | None = None) -> str:
        more = () if centre is None else (entry("mask_guided:centre", "a centre blob", centre),)
        entries = (
            entry("resnet50", "ResNet-50", 0.5),
            entry("mask_guided", "Proposed", 0.7),
            entry("mask_guided:shuffled", "masks of other leaves", shuffled),
            *more,
        )
        comparison = Comparison("t", "equal", (BenchmarkDataset("draw", labels, 40),), entries)
        return controls_in_words(comparison, measure(comparison, resamples=500))

    worse = told(0.4)
    assert "Worse: ResNet-50" in worse
    assert "masks of other leaves" in worse
    assert "the masks carry the gain" in worse
    better = told(0.9, centre=0.4)
    assert "Better: masks of other leaves" in better
    assert "the masks carry the gain" not in better
    assert "does not show that the masks carry anything" in better
    same = told(0.7)
    assert "Not told apart from it: masks of other leaves" in same
    assert "does not show that the masks carry anything" in same
