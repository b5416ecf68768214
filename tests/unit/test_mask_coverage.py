"""Coverage of masks, and where it is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_card import FACTS, info, metrics
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.model_card import model_card
from ufgvc.evaluation.provenance import facts, warnings
from ufgvc.methods import build
from ufgvc.models.model import LoadedModel
from ufgvc.regions.mask_results import MaskCompleteness


def shard(split: str, **found: int) -> dict[str, Any]:
    names = {"both": "vein+contour", "vein": "vein", "contour": "contour", "none": ""}
    return {"masks": json.dumps({"split": split}), "found": json.dumps({names[name]: n for name, n in found.items()})}


ROWS = [shard("train", both=3, vein=2), shard("train", vein=4, none=1), shard("test", both=6)]


@pytest.mark.parametrize(
    ("rows", "regions", "train", "complete"),
    [
        (ROWS, ("vein", "contour"), 3, 9),
        (ROWS, ("vein",), 9, 15),  # the detector knows veins only, so an image with its vein is complete
        (ROWS, (), 3, 9),  # both are annotated
        ([shard("train", vein=9, none=1)], (), 9, 9),  # veins only are annotated
        ([shard("train", none=10)], (), 0, 0),
    ],
)
def test_an_image_with_every_possible_region_is_complete(rows: Any, regions: Any, train: int, complete: int) -> None:
    assert MaskCompleteness.from_rows(rows, regions, 0.5) == MaskCompleteness(train, 10, complete, 0.5)


def test_the_required_share() -> None:
    MaskCompleteness(5, 10, 5).check(0.5, "here", "do that")
    MaskCompleteness(0, 10, 0).check(0, "here", "do that")
    with pytest.raises(UserError, match=r"every region on 4 of 10 training leaves \(40.0%\), less than"):
        MaskCompleteness(4, 10, 4).check(0.5, "here", "do that")


class Described:
    uri = "here"

    def read_json(self, name: str) -> dict[str, str]:
        return {"source": "leaves"}


@pytest.mark.parametrize(("leaves", "warned"), [(4, True), (9, False)])
def test_the_report_and_the_card_show_it(leaves: int, warned: bool) -> None:
    method = build("mask_guided", 2, init="none", backbone="squeezenet1_1")
    about = {"mask_kind": "box", "masks_found": {"leaves": leaves, "of": 10}, "fingerprints": {"data": "f"}}
    model = LoadedModel(method, ("a", "b"), {"resize": 40, "size": 32}, about)
    dataset = Dataset(Described(), "vineyard", ("a", "b"), "f", (), {"train": 10, "test": 4})  # type: ignore[arg-type]
    found = facts(dataset, model, "model", {})
    assert found["Masks"] == f"box; every region on {leaves} of 10 training leaves"
    found_warnings = warnings(dataset, {"this model": model}, {})
    assert [text.startswith(f"this model: only {leaves} of 10 training leaves") for text in found_warnings] == [
        True
    ] * warned
    card = model_card(info(), {**metrics(), "warnings": found_warnings}, {**FACTS, **found}).to_markdown("m", "1")
    assert f"- Masks: box; every region on {leaves} of 10 training leaves" in card
    assert (f"- only {leaves} of 10 training leaves" in card) == warned
