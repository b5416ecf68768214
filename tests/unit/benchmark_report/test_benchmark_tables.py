"""The tables of a benchmark: statistics by hand from the runs, and no number for what failed."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.benchmark_report.synthetic_benchmarks import DATASETS, RESAMPLES, both, method, record
from ufgvc.evaluation.benchmark_record import BenchmarkRecord
from ufgvc.evaluation.benchmark_summary import MethodSummary, summarize
from ufgvc.evaluation.bootstrap import holm, paired_bootstrap, pooled_cultivars, seed_mean
from ufgvc.evaluation.paper_results import PAPER
from ufgvc.reports import tables
from ufgvc.reports.benchmark_tables import METHODS, benchmark_table, benchmark_tables, to_csv


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
