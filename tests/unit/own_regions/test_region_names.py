"""Names of regions: which are allowed, and the messages for others, in the settings, in boxes and in methods."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.unit.own_regions.leaves import OWN, ingested, photographs, write_coco
from ufgvc.cli import parse
from ufgvc.commands import COMMANDS
from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS, check_region_name, is_region_name, join_names
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.data.readers.box_classes import choose_rules
from ufgvc.training.regions import check_regions, use_regions


@pytest.mark.parametrize("name", ["vein", "base", "a", "leaf_tip_2", "x" * 30, "centre", "training", "none", "bitsy"])
def test_names(name: str) -> None:
    assert check_region_name(name) == name
    assert is_region_name(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Midrib", "such as midrib"),
        ("leaf base", "such as leaf_base"),
        ("leaf-base", "such as leaf_base"),
        ("2nd", "a letter first"),
        ("_x", "such as x"),
        ("x" * 31, "at most 30"),
        ("", "a letter first"),
        ("nervure médiane", "such as nervure_m_diane"),
        ("Image", "a letter first"),  # and image is no example
        ("image", "has this name"),
        ("image_id", "has this name"),
        ("classification", "has this name"),
        ("tokens", "has this name"),
        ("has_vein", "has this name"),
        ("vein_bits", "has this name"),
    ],
)
def test_other_names_are_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="cannot name a region") as caught:
        check_region_name(name)
    assert hint in str(caught.value)
    assert "such as image" not in str(caught.value)
    assert not is_region_name(name)


@pytest.mark.parametrize(
    ("regions", "what"),
    [((), "0 regions"), (tuple("abcdefghi"), "9 regions"), (("tip", "tip"), "tip is named twice"), (("a b",), "a_b")],
)
def test_lists_of_names_that_are_refused(regions: tuple[str, ...], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        IngestSettings(regions=regions)


def test_the_setting_is_given_by_flag_and_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("ingest: {regions: [midrib, margin, base]}\n")
    places = ["--source", "photographs", "--data", "data"]
    flags = ["--regions", "tip", "stalk"]
    assert parse(COMMANDS.get("ingest"), places).regions == PAPER_REGIONS
    assert parse(COMMANDS.get("ingest"), [*places, *flags]).regions == ("tip", "stalk")
    assert parse(COMMANDS.get("ingest"), [*places, "--config", str(file)]).regions == OWN
    assert parse(COMMANDS.get("ingest"), [*places, "--config", str(file), *flags]).regions == ("tip", "stalk")
    assert parse(COMMANDS.get("pipeline"), [*places, "--config", str(file)]).ingest.regions == OWN
    assert parse(COMMANDS.get("train"), ["--data", "d", "--options.regions", *OWN]).options.regions == OWN
    assert parse(COMMANDS.get("train"), ["--data", "d", "--options.regions"]).options.regions == ()
    assert parse(COMMANDS.get("train"), ["--data", "d"]).options.regions is None
    file.write_text("ingest: {regions: [midrib, Margin]}\n")
    with pytest.raises(UserError, match=r"'Margin' cannot name a region.* such as margin"):
        parse(COMMANDS.get("ingest"), [*places, "--config", str(file)])
    with pytest.raises(UserError, match="--regions image: 'image' cannot name a region"):
        parse(COMMANDS.get("ingest"), [*places, "--regions", "image"])


def test_the_default_leaves_no_trace_in_the_key_of_a_data_set() -> None:
    assert "regions" not in IngestSettings().model_dump()
    assert IngestSettings(regions=OWN).model_dump()["regions"] == OWN


def test_classes_that_are_no_regions_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class 'Base' is not a region") as caught:
        ingested(tmp_path, regions=("midrib", "margin"))
    assert "name the classes midrib and margin" in str(caught.value)
    assert "--regions base margin midrib" in str(caught.value), "what makes these classes regions"
    with pytest.raises(UserError, match="not a region") as caught:
        choose_rules({"leaf base"}, "auto", None, OWN)
    assert "--regions" not in str(caught.value), "no region can have that name"


def test_numbers_have_a_meaning_for_vein_and_contour_only(tmp_path: Path) -> None:
    assert choose_rules({"0", "1"}, "auto") == "two_classes"
    with pytest.raises(UserError, match="class 0, which has no name") as caught:
        choose_rules({"0", "1"}, "auto", None, OWN)
    assert "midrib, margin and base" in str(caught.value)
    with pytest.raises(UserError, match="tells vein and contour apart, and the regions are midrib, margin and base"):
        ingested(tmp_path, box_rules="two_classes")


def test_a_region_without_boxes_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photographs(tmp_path / "source")
    boxes = write_coco(tmp_path / "source", tmp_path / "boxes.json", without=("margin",))
    ingest(str(tmp_path / "source"), str(tmp_path / "data"), boxes=boxes, settings=IngestSettings(regions=OWN))
    assert "boxes: none of margin" in caplog.text


def test_regions_of_a_method_that_the_data_set_does_not_have() -> None:
    check_regions("mask_guided", ("base",), OWN)
    with pytest.raises(UserError, match="mask_guided asks for vein and tip") as caught:
        check_regions("mask_guided", ("vein", "base", "tip"), OWN)
    assert "--options.regions midrib margin base" in str(caught.value)
    with pytest.raises(UserError, match="there is a weight of midri, the regions of the data set are midrib"):
        use_regions("mask_guided", {"fusion": {"regions": {"midri": 0.4}}}, OWN)


def test_a_method_uses_all_regions_of_the_data_set_unless_some_are_named() -> None:
    assert use_regions("mask_guided", {}, OWN) == {"regions": list(OWN)}
    assert use_regions("region_tokens", {"regions": None}, OWN) == {"regions": list(OWN)}
    assert use_regions("mask_guided", {"regions": []}, OWN) == {"regions": []}
    assert use_regions("mask_guided", {"regions": ["base"]}, OWN) == {"regions": ["base"]}
    assert use_regions("linear_probe", {}, OWN) == {}, "its default is none"
    assert use_regions("resnet50", {"backbone": "resnet18"}, OWN) == {"backbone": "resnet18"}


def test_names_in_a_sentence() -> None:
    assert [join_names(OWN[:n]) for n in (1, 2, 3)] == ["midrib", "midrib and margin", "midrib, margin and base"]
