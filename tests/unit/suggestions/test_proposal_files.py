"""Proposed boxes in the forms of annotation tools: `ingest` reads back what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.factories import encoded
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import open_store
from ufgvc.core.types import Box
from ufgvc.data.images import decode
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.boxes import read_boxes
from ufgvc.regions.proposal_files import Proposal, to_label_studio, write_proposals

PROPOSALS = (
    Proposal("AK/leaf 1", 60, 40, (Box("vein", 28.5, 4, 31.5, 36, 0.9), Box("contour", 5, 6, 27, 35, 0.5))),
    Proposal("BU/leaf 2", 40, 60, (Box("contour", 1, 2, 20.2, 50, 0.4),)),
    Proposal("BU/none", 60, 40, ()),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one photograph that EXIF turns, one that it does not, and one without proposals."""
    folder = tmp_path_factory.mktemp("suggested")
    rows = [
        {"image_id": each.image_id, "image": encoded(number, height=40, width=60), "orientation": turn}
        for number, (each, turn) in enumerate(zip(PROPOSALS, (1, 6, 1), strict=True))
    ]
    write_proposals(open_store(str(folder)), rows, PROPOSALS, PAPER_REGIONS)
    return folder


@pytest.mark.parametrize("form", ["yolo", "voc", "coco.json"])
def test_the_boxes_are_read_back(folder: Path, form: str) -> None:
    found = read_boxes(str(folder / form))
    rules = choose_rules(set(found.labels()), "auto")
    entries = dict(found.entries)
    assert len(entries) == 3
    for proposal in PROPOSALS[:2]:
        (annotation,) = (value for name, value in entries.items() if Path(name).stem == Path(proposal.image_id).name)
        boxes = to_regions(annotation, proposal.width, proposal.height, rules)
        assert len(boxes) == len(proposal.boxes)
        for box, wanted in zip(boxes, proposal.boxes, strict=True):
            assert box.region == wanted.region
            corners = (wanted.x0, wanted.y0, wanted.x1, wanted.y1)
            assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners, abs=0.06)


def test_photographs_are_written_upright(folder: Path) -> None:
    for proposal in PROPOSALS:
        pixels = decode((folder / "images" / proposal.file).read_bytes())
        assert pixels.shape[:2] == (proposal.height, proposal.width)


def test_label_studio_gets_percent_and_scores() -> None:
    task = to_label_studio(PROPOSALS[:1])[0]
    assert task["data"]["image"].endswith("?d=images/AK/leaf 1.jpg")
    vein = task["predictions"][0]["result"][0]
    assert vein["value"]["rectanglelabels"] == ["vein"]
    assert [vein["value"][name] for name in ("x", "y", "width", "height")] == pytest.approx([47.5, 10, 5, 80])
    assert vein["score"] == 0.9


def test_files_of_an_earlier_call_are_gone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = [{"image_id": each.image_id, "image": encoded(0), "orientation": 1} for each in PROPOSALS]
    write_proposals(store, rows, PROPOSALS, PAPER_REGIONS)
    write_proposals(store, rows[:1], PROPOSALS[:1], PAPER_REGIONS)
    assert {path.stem for path in tmp_path.rglob("*") if path.is_file()} == {
        *("leaf 1", "classes", "coco", "label-studio"),
    }
    assert np.asarray(decode((tmp_path / "images" / "AK" / "leaf 1.jpg").read_bytes())).shape == (40, 60, 3)
