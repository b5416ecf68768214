"""Boxes that do not fit their photographs: one error that names the file and the remedy, or left out and listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.factories import encoded, put
from tests.unit.bad_inputs.outcomes import refused, skipped
from ufgvc.data.dataset import open_dataset, read_shard
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.data.schemas import to_boxes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.9 0.5 0.4 0.2", "lies outside the photograph of 60 x 40 pixels"),
        ("0 0.5 0.5 0 0.2", "has no area"),
        ("0 0.5 0.5 -0.1 0.2", "cannot be read"),
        ("0 nan 0.5 0.1 0.2", "cannot be read|not numbers"),
        ("0 0.5 0.5", "cannot be read"),
    ],
)
def test_bad_boxes(source: Path, line: str, reason: str) -> None:
    boxes = source.parent / "boxes"
    put(boxes / "train" / "a" / "train0.txt", f"{line}\n")
    put(boxes / "train" / "a" / "train1.txt", "0 0.5 0.5 0.1 0.5\n1 0.2 0.5 0.1 0.5\n")
    message = refused(source, "train0.txt", boxes=str(boxes))
    assert any(text in message for text in reason.split("|"))
    dataset, rejected = skipped(source, boxes=str(boxes))
    assert any(path.endswith("train0.txt") for path in rejected)
    table = read_shard(dataset, "regions/annotated", "train-00000")
    found = {row["image_id"]: to_boxes(row["boxes"]) for row in table.to_pylist()}
    assert found["train/a/train0"] is None, "the photograph stays, without boxes"
    assert [box.region for box in found["train/a/train1"] or []] == ["vein", "contour"]


def test_boxes_drawn_on_another_size(source: Path) -> None:
    xml = "<annotation><filename>x</filename><size><width>600</width><height>400</height></size></annotation>"
    put(source.parent / "boxes" / "train" / "a" / "train0.xml", xml)
    refused(
        source,
        "train0.xml",
        "drawn on 600 x 400 pixels, the photograph has 60 x 40",
        boxes=str(source.parent / "boxes"),
    )


def test_boxes_of_no_photograph(source: Path) -> None:
    put(source.parent / "boxes" / "other.txt", "0 0.5 0.5 0.1 0.5\n")
    refused(source, "none of the boxes belongs to a photograph", "other.txt", boxes=str(source.parent / "boxes"))
    put(source.parent / "boxes" / "train" / "a" / "train0.txt", "0 0.5 0.5 0.1 0.5\n")
    assert "belong to no photograph" in skipped(source, boxes=str(source.parent / "boxes"))[1]["other.txt"]


def test_boxes_of_an_unknown_class(source: Path) -> None:
    put(source.parent / "boxes" / "classes.txt", "leaf\n")
    put(source.parent / "boxes" / "train" / "a" / "train0.txt", "0 0.5 0.5 0.1 0.5\n")
    refused(
        source,
        "the boxes' class 'leaf' (named in classes.txt) is not a region",
        "vein and contour",
        boxes=str(source.parent / "boxes"),
    )


@pytest.mark.parametrize(("setting", "corners"), [("auto", (16, 6, 24, 54)), ("stored", (4, 24, 36, 36))])
def test_boxes_of_a_photograph_that_exif_turns(
    source: Path, caplog: pytest.LogCaptureFixture, setting: str, corners: tuple[int, ...]
) -> None:
    """60 x 40 stored pixels, 40 x 60 upright; a tall thin box on the upright photograph is a wide flat one on the
    stored pixels.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    put(source / "train" / "a" / "train0.jpg", encoded("turned", exif=exif.tobytes()))
    put(source.parent / "boxes" / "train" / "a" / "train0.txt", "0 0.5 0.5 0.2 0.8\n")
    settings = IngestSettings(box_orientation=setting)  # type: ignore[arg-type]
    ingest(str(source), str(source.parent / "data"), boxes=str(source.parent / "boxes"), settings=settings)
    rows = read_shard(open_dataset(str(source.parent / "data")), "regions/annotated", "train-00000").to_pylist()
    box = next(to_boxes(row["boxes"]) for row in rows if row["image_id"] == "train/a/train0")[0]  # type: ignore[index]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners)
    said = "1 of 1 photographs with boxes are rotated by EXIF (for example train/a/train0.jpg)" in caplog.text
    assert said == (setting == "auto")
