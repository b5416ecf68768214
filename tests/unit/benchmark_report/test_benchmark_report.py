"""The page of a benchmark: sentences that follow the numbers, warnings, the chart, and nothing claimed without runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.unit.benchmark_report.synthetic_benchmarks import DATASETS, RESAMPLES, method, record
from tests.unit.html_reader import Reader
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult
from ufgvc.evaluation.benchmark_summary import MethodSummary, summarize
from ufgvc.reports import figures, tables
from ufgvc.reports.benchmark_page import compose_benchmark, difference_chart
from ufgvc.reports.benchmark_text import describe_controls, describe_significance, summary_text


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
