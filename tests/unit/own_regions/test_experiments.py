"""Search, benchmark and reports with regions of the user's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.unit.benchmark_report.synthetic_benchmarks import both, method, record
from tests.unit.own_regions.leaves import CORNERS, OWN, ingested
from tests.unit.own_regions.test_data import masks_of
from tests.unit.test_cam import model
from ufgvc.cli import parse
from ufgvc.commands import COMMANDS
from ufgvc.commands.pipeline import run
from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.types import Box
from ufgvc.evaluation.benchmark_summary import summarize
from ufgvc.evaluation.search_parameters import short_labels
from ufgvc.experiments.entries import make_entry
from ufgvc.experiments.method_table import list_groups, list_variants, select_variants
from ufgvc.experiments.results import read_leaves
from ufgvc.experiments.search_space import apply_values, decode_params, encode_values, paper_values, read_space
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.methods import build, options_class
from ufgvc.regions.detector_report import draw_detections, format_table
from ufgvc.reports.benchmark_page import compose_benchmark
from ufgvc.reports.benchmark_tables import benchmark_tables
from ufgvc.reports.benchmark_text import describe_paper
from ufgvc.reports.evaluation_page import REGIONS_TEXT
from ufgvc.reports.photographs import energy_panels, region_panels
from ufgvc.tracking.context import Context
from ufgvc.training.regions import use_regions
from ufgvc.training.settings import TrainSettings

TRAIN = TrainSettings(epochs=20, resize=96, crop=80, batch_size=8)
EIGHT = tuple("abcdefgh")
# A region may be called like a row of the benchmark.
LIKE_ROWS = ("none", "exact", "luminance", "centre", "all", "gain", "regions", "shuffled")


def test_the_default_search_is_over_the_weights_of_all_regions() -> None:
    options = use_regions("mask_guided", {"backbone": "resnet18", "regions": None}, OWN)
    axes = read_space({}, "mask_guided", options, TRAIN)
    assert [axis.name for axis in axes] == [
        "options.fusion",
        *(f"options.loss_weights.regions.{region}" for region in OWN),
    ]
    assert axes[0].parts == ("base", "regions.midrib", "regions.margin", "regions.base")
    values = paper_values(axes, "mask_guided", options, TRAIN)
    assert values["options.fusion"] == pytest.approx({"base": 0.3, **{f"regions.{region}": 0.7 / 3 for region in OWN}})
    again = decode_params(axes[:1], encode_values(axes[:1], values) or {})
    assert again["options.fusion"] == pytest.approx(values["options.fusion"])


def test_values_of_a_search_reach_the_network() -> None:
    options = use_regions("mask_guided", {"backbone": "squeezenet1_1"}, OWN)
    values = {
        "options.fusion": {"base": 0.1, "regions.midrib": 0.2, "regions.margin": 0.3, "regions.base": 0.4},
        "options.loss_weights.regions.base": 5.0,
    }
    applied, _ = apply_values("mask_guided", options, TRAIN, values)
    made = build("mask_guided", 3, **applied)
    assert made.net.base == pytest.approx(0.1)
    assert made.net.fusion == pytest.approx({"midrib": 0.2, "margin": 0.3, "base": 0.4})
    assert made.loss_weights == {"classification": 1.0, "midrib": 0.1, "margin": 0.1, "base": 5.0}


def test_weights_of_one_name_have_different_labels() -> None:
    names = ["options.fusion.base", "options.fusion.regions.base", "options.loss_weights.regions.base"]
    assert len(set(short_labels(names))) == 3


@pytest.mark.parametrize("regions", [PAPER_REGIONS, OWN, ("base",), LIKE_ROWS])
def test_a_benchmark_has_a_row_for_every_region(regions: tuple[str, ...]) -> None:
    rows = list_variants(regions)
    alone = [row for row in rows.values() if row.options.get("regions") and len(row.options["regions"]) == 1]
    guided = [row.options["regions"][0] for row in alone if row.method == "mask_guided"]
    assert guided == (list(regions) if len(regions) > 1 else []), "with one region the method itself is that row"
    assert set(list_groups(regions)["controls"]) <= set(rows)
    assert {"mask_guided:none", "mask_guided:centre", "mask_guided:gain", "linear_probe:regions"} <= set(rows)
    assert rows["mask_guided:centre"].options == {"control": {"guide": "centre"}}
    for row in rows.values():
        options = use_regions(row.method, row.options, regions)
        chosen = options_class(row.method).model_validate(options)
        assert set(getattr(chosen, "regions", ()) or ()) <= set(regions), row.key
    assert ("mask_guided:structure" in rows) == (regions == PAPER_REGIONS), "that kind is made for the paper's regions"


def test_controls_without_fusion_and_without_losses() -> None:
    rows, settings = list_variants(OWN), BenchmarkSettings(backbones=("resnet50=squeezenet1_1",), crop=64, resize=72)
    (_, plain) = select_variants(["mask_guided:no_fusion"], OWN)
    entry = make_entry(plain, 3, settings, OWN)
    assert entry.method.regions == OWN
    assert entry.method.options["fusion"]["base"] == 1.0
    assert set(entry.method.options["fusion"]["regions"].values()) == {0.0}
    weights = make_entry(rows["mask_guided:no_loss"], 3, settings, OWN).method.loss_weights
    assert weights == {"classification": 1.0, **dict.fromkeys(OWN, 0.0)}
    assert make_entry(rows["mask_guided:margin"], 3, settings, OWN).method.regions == ("margin",)


def test_the_report_of_a_benchmark_names_them() -> None:
    guided = {"method": "mask_guided", "tables": frozenset({"II", "III"})}
    rows = [
        method("mask_guided", both(21, 24), regions=OWN, **guided),
        method("mask_guided:base", both(20, 24), regions=("base",), **guided),
        method("mask_guided:midrib", both(19, 24), regions=("midrib",), **guided),
        method("resnet50", both(12, 15)),
    ]
    whole = record(*rows, regions=OWN, energy={"mask_guided": (0.4, 0.2, 30)})
    summaries = summarize(whole, 200)
    assert [row[0] for row in benchmark_tables(whole, summaries)["III"].rows] == [
        "ResNet-50 + midrib",
        "ResNet-50 + base",
        "ResNet-50 + midrib + margin + base",
    ]
    page = compose_benchmark([(whole, summaries)]).to_html()
    assert "inside midrib, margin and base" in page
    assert "contour" not in page
    assert describe_paper(whole, summaries) == "", "the paper has no such figures"


def test_panels_show_any_regions() -> None:
    images = [np.full((64, 96, 3), 200, np.uint8)] * 2
    masks = [np.zeros((64, 96), bool)] * 2
    panels = energy_panels(images, masks, {"model": model(32, 32)}, ["one", "two"], OWN)
    assert panels is not None
    assert panels.columns == ("leaf", "midrib, margin and base", "model")
    assert panels.marks[0][2] == "no midrib, margin or base in view"
    assert "vein" not in panels.alt + REGIONS_TEXT


def test_panels_of_a_data_set_have_a_column_for_each_region(tmp_path: Path) -> None:
    dataset = ingested(tmp_path)
    masks_of(dataset)
    scored = SimpleNamespace(label=np.array([0, 0, 0, 1, 1, 1]))
    panels = region_panels(dataset, scored, ("a", "b"), "box", 2, 0)  # type: ignore[arg-type]
    assert panels is not None
    assert (panels.title, panels.columns) == ("Leaf, midrib, margin and base", ("leaf", *OWN))
    assert panels.alt == "Midrib, margin and base of 2 test leaves"
    assert panels.to_png().startswith(b"\x89PNG")
    _, masks = read_leaves(dataset, "box", [0, 1])
    assert [int(mask.sum()) for mask in masks] == [36 * 56 + 2 * 20] * 2, "the margin, and what of the base is outside"


def test_the_detectors_report_has_columns_and_colours_for_all_regions() -> None:
    metrics = {
        "map50": 0.5, "map50_by_region": {"midrib": 0.5, "margin": None, "base": 0.25}, "num_complete": 1,
        "num_evaluated": 2, "num_trained": 4, "evaluated_on": "leaves",
    }  # fmt: skip
    lines = format_table("own", metrics).splitlines()
    assert lines[0] == "| data | annotated | mAP@0.5 | midrib | margin | base | every region | evaluated on |"
    assert lines[2].startswith("| own | 4 | 0.500 | 0.500 |  | 0.250 | 1/2 (50.0%) |")
    assert {line.count("|") for line in lines} == {9}
    image = np.full((40, 60, 3), 120, np.uint8)
    boxes = [Box(region, *CORNERS["midrib"]) for region in EIGHT]
    assert draw_detections([("leaf", image, boxes)], EIGHT).startswith(b"\x89PNG")


def test_a_pipeline_refuses_regions_before_anything_runs(tmp_path: Path) -> None:
    places = ["--source", str(tmp_path), "--data", str(tmp_path / "data"), "--tracking.uri", "off"]
    common = [*places, "--method", "mask_guided", "--ingest.regions", *OWN, "--train.init", "none"]

    def refused(*flags: str) -> str:
        with pytest.raises(UserError) as caught:
            run(parse(COMMANDS.get("pipeline"), [*common, *flags]), Context())
        return str(caught.value)

    assert "mask_guided asks for vein" in refused("--options.regions", "vein", "base")
    assert "defined for vein and contour" in refused("--mask-kind", "structure")
    assert not list(tmp_path.iterdir())
