"""The benchmark report: statistics by hand from the runs, and no number for what failed."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.test_page import Reader
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult
from ufgvc.evaluation.benchmark_summary import MethodSummary, summarize
from ufgvc.evaluation.bootstrap import holm, paired_bootstrap, pooled_cultivars, seed_mean
from ufgvc.evaluation.paper_results import PAPER
from ufgvc.reports import figures, tables
from ufgvc.reports.benchmark_page import compose_benchmark, difference_chart
from ufgvc.reports.benchmark_tables import METHODS, benchmark_table, benchmark_tables, to_csv
from ufgvc.reports.benchmark_text import describe_controls, describe_significance, summary_text

CULTIVARS = 10
DATASETS = (
    BenchmarkDataset("a", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
    BenchmarkDataset("b", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
)
RESAMPLES = 400


def first(k: int) -> np.ndarray:
    """The first k leaves correct."""
    return np.arange(3 * CULTIVARS) < k


def method(key: str, right: dict[tuple[str, int], int | str], **changes) -> MethodResult:
    """right: {(dataset, seed): correct leaves, or the error}."""
    runs = [
        RunResult(dataset, seed, None, k, 5.0)
        if isinstance(k, str)
        else RunResult(dataset, seed, first(k), None, 60.0 * (seed + 1), 100.0, (0.01,))
        for (dataset, seed), k in right.items()
    ]
    defaults = {
        "label": key,
        "method": key,
        "backbone": "ResNet-50",
        "tables": frozenset({"II"}),
        "runs": tuple(runs),
    }
    return MethodResult(key=key, **{**defaults, **changes})


def both(low: int, high: int) -> dict[tuple[str, int], int | str]:
    return {("a", 0): low, ("a", 1): high, ("b", 0): low, ("b", 1): high}


def record(*methods: MethodResult, **changes) -> BenchmarkRecord:
    return BenchmarkRecord("A <benchmark>", "equal", DATASETS, methods, **changes)


@pytest.fixture(scope="module")
def whole() -> BenchmarkRecord:
    everywhere = frozenset({"II", "III"})
    guided = {"method": "mask_guided", "tables": frozenset({"III"})}
    return record(
        method(
            "mask_guided",
            both(21, 24),
            label="mask_guided",
            paper=0.6208,
            tables=everywhere,
            regions=("vein", "contour"),
        ),
        method(
            "ours",
            both(24, 27),
            label="region tokens",
            note="lambda | 0.5",
            parameters=1_250_000,
            gflops=0.25,
        ),
        method(
            "resnet50",
            both(12, 15),
            label="ResNet-50",
            paper=0.525,
            tables=everywhere,
            parameters=23_672_000,
            gflops=33.04,
        ),
        method(
            "alexnet",
            {("a", 0): 6, ("a", 1): "OOM\nlong trace", ("b", 0): "OOM", ("b", 1): "OOM"},
            label="AlexNet",
            paper=0.2292,
        ),
        method("dcl", {("a", 0): "no\n", ("b", 0): ""}, label="DCL", paper=0.5375),
        method("contour", both(18, 18), **guided, regions=("contour",), paper=0.606),
        method("vein", both(15, 18), **guided, regions=("vein",), paper=0.5833),
        method("recipe", both(13, 14), label="ResNet-50, recipe of mask_guided", tables=frozenset({"controls"})),
        energy={"ResNet-50": (0.4, 0.2, 30), "nowhere": (float("nan"), float("nan"), 0)},
        facts={"Data": "made <up>"},
    )


@pytest.fixture(scope="module")
def rows(whole: BenchmarkRecord) -> list[MethodSummary]:
    return summarize(whole, RESAMPLES)


def cells_of(table: tables.Table | None, label: str) -> dict[str, str | None]:
    assert table is not None
    # The p columns differ by their place.
    names = [name if name != "p" else f"p of {table.columns[place - 1]}" for place, name in enumerate(table.columns)]
    (row,) = [row for row in table.rows if row[0] == label]
    return dict(zip(names, row, strict=True))


def test_rows_stand_in_the_papers_order(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    made = benchmark_tables(whole, rows)
    assert [row[0] for row in made["II"].rows] == ["AlexNet", "ResNet-50", "DCL", "mask_guided", "region tokens"]
    expected = ["ResNet-50", "ResNet-50 + vein", "ResNet-50 + contour", "ResNet-50 + vein + contour"]
    assert [row[0] for row in made["III"].rows] == expected
    assert [row[0] for row in made["controls"].rows] == ["ResNet-50, recipe of mask_guided"]
    assert benchmark_table(whole, "controls", rows[:1]) is None


def test_the_order_has_every_method_of_the_paper() -> None:
    known = {method for method, _ in PAPER["cotton80"]}
    assert known < set(METHODS)
    assert set(METHODS) - known == {"bcnn"}


def test_a_row_by_hand(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    """Two seeds with 21 and 24 of 30 on both data sets: 45 of 60 leaves, and the sd of 0.7 and 0.8."""
    found = cells_of(benchmark_table(whole, "II", rows), "mask_guided")
    assert (found["Paper"], found["Correct"], found["Accuracy"]) == ("62.08\u00a0%", "45 of 60", "75.0\u00a0%")
    assert found["Spread (seeds)"] == f"{100 * np.std([0.7, 0.8], ddof=1):.1f} (2)"
    assert (found["Training images/s"], found["Minutes per run"], found["Learning rate"]) == ("100", "1.5", "0.01")
    assert found["Parameters"] is found["GFLOPs"] is None
    gap = paired_bootstrap(
        *(seed_mean(whole.find(key), DATASETS) for key in ("mask_guided", "resnet50")),
        pooled_cultivars(DATASETS),
        RESAMPLES,
    )
    assert gap.value == pytest.approx(0.3)
    texts = [f"{100 * value:+.1f}".replace("-", "\u2212") for value in (gap.value, gap.low, gap.high)]
    assert found["Against ResNet-50, points"] == f"{texts[0]} ({texts[1]} to {texts[2]})"
    assert found["Against mask_guided, points"] is found["p of Against mask_guided, points"] is None
    other = cells_of(benchmark_table(whole, "II", rows), "region tokens")
    assert (other["Paper"], other["Parameters"], other["GFLOPs"]) == (
        None,
        "1.2 M",
        "0.25",
    )


def test_differences_are_those_of_the_pairs_and_holm_takes_every_row(
    whole: BenchmarkRecord, rows: list[MethodSummary]
) -> None:
    for reference in whole.references:
        base = whole.find(reference)
        assert base is not None
        family = {}
        for one in whole.methods:
            datasets = DATASETS[:1] if one.key == "alexnet" else DATASETS
            mean, against = seed_mean(one, datasets), seed_mean(base, datasets)
            if one is not base and mean is not None and against is not None:
                family[one.key] = paired_bootstrap(mean, against, pooled_cultivars(datasets), RESAMPLES)
        assert set(family) == {row.result.key for row in rows if reference in row.differences}
        adjusted = dict(zip(family, holm([gap.p for gap in family.values()]), strict=True))
        for row in rows:
            if row.result.key in family:
                found, expected = row.differences[reference], family[row.result.key]
                assert (found.value, found.low, found.high, found.p) == pytest.approx(
                    (expected.value, expected.low, expected.high, expected.p), abs=1e-9
                )
                assert row.corrected[reference] == pytest.approx(adjusted[row.result.key])


def test_failed_runs_are_noted_and_missing_numbers_are_empty(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    table = benchmark_table(whole, "II", rows)
    assert table is not None
    missing = cells_of(table, "DCL")
    assert {name for name, cell in missing.items() if cell} == {"Method", "Backbone", "Paper"}
    assert "DCL: failed: no (a, seed 0); missing (b, seed 0)." in table.note
    partly = cells_of(table, "AlexNet")
    assert (partly["Correct"], partly["Spread (seeds)"], partly["Minutes per run"]) == ("6 of 30", "(1)", "1.0")
    assert "AlexNet: only a; failed: OOM (a, seed 1; b, seed 0, 1)." in table.note
    assert "long trace" not in table.note


def test_a_difference_is_over_the_data_sets_that_both_finished() -> None:
    made = record(
        method("dcl", both(12, 12)), method("resnet50", {("a", 0): 9, ("b", 0): "OOM"}), method("bcnn", {("b", 0): 9})
    )
    rows = {row.result.key: row for row in summarize(made, 50)}
    assert rows["dcl"].differences["resnet50"].value == pytest.approx(3 / 30)
    assert (rows["dcl"].leaves, rows["resnet50"].leaves) == (60, 30)
    assert rows["bcnn"].differences == {}
    assert rows["dcl"].corrected["resnet50"] == rows["dcl"].differences["resnet50"].p


def test_leaves_of_thirds_and_long_errors() -> None:
    many = method("m", {("a", 0): 3, ("a", 1): 4, ("a", 2): 4, ("b", 0): 3, ("b", 1): 3, ("b", 2): "x" * 500})
    (row,) = summarize(record(many), 50)
    assert row.right == pytest.approx(11 / 3 + 3)
    assert row.seeds == 3
    assert row.spread == pytest.approx(np.std([6 / 60, 7 / 60], ddof=1))
    assert len(row.notes[0]) < 130
    thirds = method("t", {(dataset, seed): k for dataset in "ab" for seed, k in ((0, 1), (1, 2), (2, 3))})
    assert summarize(record(thirds), 50)[0].right == 4


def test_csv_holds_raw_numbers_and_texts(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    lines = {line["key"]: line for line in csv.DictReader(io.StringIO(to_csv([(whole, rows)])))}
    assert list(lines) == [one.key for one in whole.methods]
    one = lines["mask_guided"]
    assert float(one["accuracy"]) == 0.75
    assert float(one["against_resnet50"]) == pytest.approx(0.3)
    assert (one["correct"], one["leaves"], one["correct_text"], one["paper"]) == ("45.0", "60", "45 of 60", "0.6208")
    assert (one["tables"], one["regions"], one["runs"], one["runs_failed"]) == ("II III", "vein contour", "4", "0")
    assert (one["against_mask_guided"], one["parameters"]) == ("", "")
    assert {
        name for name in ("correct", "leaves", "accuracy", "seeds", "minutes", "accuracy_text") if lines["dcl"][name]
    } == set()
    assert lines["dcl"]["runs_failed"] == "2"
    assert to_csv([(whole, [])]) == ""


def test_markdown_survives_a_bar_in_a_text(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    odd = replace(whole, methods=(replace(whole.methods[1], label="a | b"),))
    table = benchmark_table(odd, "II", summarize(odd, 20))
    assert table is not None
    assert "a \\| b" in table.to_markdown()
    assert not any(name.startswith("Against") for name in table.columns)


def test_one_seed_each_is_a_warning() -> None:
    one = record(method("maskcov", {("a", 0): 9, ("b", 0): 9}, options="epochs 3"))
    (row,) = summarize(one, 20)
    assert row.notes == ("epochs 3",)
    assert any("One seed" in warning for warning in compose_benchmark([(one, [row])]).warnings)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (
            27,
            9,
            ("60.0 points more accurate than", "difference is significant.", "+9.6 on cotton80 (below"),
        ),
        (
            9,
            27,
            ("60.0 points less accurate than", "difference is significant.", "+10.8 on soylocal200 (above"),
        ),
        (15, 15, ("as accurate as", "not significant", "(above")),
        (18, 17, ("3.3 points more", "not significant", "(inside that interval)")),
    ],
)
def test_the_sentences_follow_the_numbers(ours: int, theirs: int, expected: tuple[str, ...]) -> None:
    entries = (
        method("mask_guided", {("a", 0): ours}, label="guided"),
        method("resnet50", {("a", 0): theirs}, label="plain"),
    )
    made = BenchmarkRecord("t", "equal", DATASETS[:1], entries)
    text = summary_text(made, summarize(made, RESAMPLES))
    assert text.startswith("guided is")
    for part in expected:
        assert part in text, (part, text)


def test_significance_before_and_after_the_correction() -> None:
    assert "is significant." in describe_significance(0.001, 0.01)
    assert "by itself, but not" in describe_significance(0.01, 0.2)
    assert "not significant" in describe_significance(0.3, 1.0)


def test_without_runs_nothing_is_claimed(whole: BenchmarkRecord) -> None:
    lost = method("mask_guided", {("a", 0): "OOM"}, label="guided")
    plain = method("resnet50", {("b", 0): 3}, label="plain")
    for made, reason in (
        (record(lost, plain), "No run of guided finished"),
        (record(plain), "No run of mask_guided finished"),
        (
            record(method("mask_guided", {("a", 0): 3}, label="guided"), plain),
            "guided and plain finished on different data sets",
        ),
    ):
        rows = summarize(made, 20)
        text = summary_text(made, rows)
        assert text == f"{reason}, so the gain was not measured."
        page = compose_benchmark([(made, rows)])
        assert page.headline == "not measured"
        assert not any(isinstance(block, figures.Chart) for section in page.sections for block in section.blocks)
        assert page.to_html()


def test_points_have_a_sign() -> None:
    assert [tables.points(value) for value in (0.0321, -0.0321, 0.0, -0.0001)] == [
        "+3.2",
        "\u22123.2",
        "+0.0",
        "+0.0",
    ]


def test_names_are_unique_and_data_sets_known(whole: BenchmarkRecord) -> None:
    with pytest.raises(ValueError, match="share a name"):
        record(whole.methods[0], whole.methods[0])
    with pytest.raises(ValueError, match="unknown data sets"):
        record(method("m", {("c", 0): 3}))


def test_the_page_is_complete(whole: BenchmarkRecord, rows: list[MethodSummary]) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    cam = figures.Panels("cam", "Maps", "Maps of a leaf", ("leaf",), ("one",), ((picture,),), (("62 % inside",),))
    page = compose_benchmark([(whole, rows)], cam, footer="now")
    html = page.to_html()
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert (reader.faults, reader.open) == ([], [])
    assert page.headline == "+30.0 points"
    assert [number for number, _ in page.stats] == ["8", "25 of 30", "60", "10.0\u00a0%"]
    titles = [
        "Every method compared with ResNet-50",
        "The methods",
        "The effect of the masks",
        "Controls",
        "Class activation maps",
    ]
    assert [section.title for section in page.sections] == titles
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


def test_the_chart_has_every_difference_and_its_texts_do_not_overlap(
    whole: BenchmarkRecord, rows: list[MethodSummary]
) -> None:
    chart = difference_chart(whole, rows)
    assert chart is not None
    for row in rows:
        shown = "resnet50" in row.differences
        assert (
            (f"{row.result.label} {tables.points_with_interval(row.differences['resnet50'])}" in chart.alt)
            if shown
            else True
        )
    svg = chart.to_svg()
    assert not any(colour in svg for colour in figures.COLOURS)
    (ax,) = chart.figure.axes
    chart.figure.canvas.draw()
    numbers = [text.get_window_extent() for text in ax.texts]
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(numbers) == len(labels) == sum("resnet50" in row.differences for row in rows)
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


def test_the_sentences_on_controls_follow_the_numbers() -> None:
    """Ten leaves of each of forty cultivars, so that a difference of twenty points is significant."""
    labels = np.repeat(np.arange(40), 10)
    generator = np.random.default_rng(0)

    def method(key: str, label: str, share: float) -> MethodResult:
        runs = tuple(RunResult("d", seed, generator.random(400) < share) for seed in range(3))
        return MethodResult(
            key=key, label=label, method="mask_guided", backbone="resnet18", tables=frozenset({"controls"}), runs=runs
        )

    def text(shuffled: float, centre: float | None = None) -> str:
        more = () if centre is None else (method("mask_guided:centre", "a centre blob", centre),)
        methods = (
            method("resnet50", "ResNet-50", 0.5),
            method("mask_guided", "Proposed", 0.7),
            method("mask_guided:shuffled", "masks of other leaves", shuffled),
            *more,
        )
        made = BenchmarkRecord("t", "equal", (BenchmarkDataset("d", labels, 40),), methods)
        return describe_controls(made, summarize(made, resamples=500))

    worse = text(0.4)
    assert "Worse: ResNet-50" in worse
    assert "masks of other leaves" in worse
    assert "the masks explain the gain" in worse
    better = text(0.9, centre=0.4)
    assert "Better: masks of other leaves" in better
    assert "the masks explain the gain" not in better
    assert "does not show that the masks matter" in better
    same = text(0.7)
    assert "Not significantly different: masks of other leaves" in same
    assert "does not show that the masks matter" in same
