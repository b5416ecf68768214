"""Files of tools whose formats are not read, and places without boxes: refused with what to do instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.factories import put
from tests.unit.box_annotations import voc
from ufgvc.core.errors import UserError
from ufgvc.data.readers.boxes import read_boxes


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"shapes": [], "imagePath": "x.jpg"}, "labelme"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
        ({"a.jpg12": {"filename": "a.jpg", "regions": []}}, "VIA"),
        ([{"id": 1, "data": {"image": "x"}, "annotations": []}], "Label Studio's own JSON"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}], "COCO results"),
        ([{"image": "x.jpg", "annotations": []}], "CreateML"),
        ({"size": {}, "objects": []}, "Supervisely"),
    ],
)
def test_files_of_other_tools_are_called_by_their_names(tmp_path: Path, document: Any, name: str) -> None:
    put(tmp_path / "x.json", json.dumps(document))
    for place in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(UserError, match=name) as caught:
            read_boxes(str(place))
        assert "export" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "place", "what"),
    [
        ({"a.jpg": None}, "", "contains no YOLO .txt, COCO .json or Pascal VOC .xml"),
        ({"one.txt": "0 .5 .5 .1 .1"}, "one.txt", "is one file, but not COCO .json"),
        (
            {"a.txt": "0 .5 .5 .1 .1", "b.xml": voc()},
            "",
            "contains boxes of several formats (YOLO .txt, Pascal VOC .xml)",
        ),
        ({"a.json": "{"}, "", "is not JSON"),
        ({"a.json": "{}"}, "a.json", "is JSON, but not COCO"),
        ({"a.txt": "hello world"}, "", "contains no boxes that can be read; a.txt"),
        ({"a.txt": ""}, "missing.json", "there is no such file"),
        ({"a.txt": ""}, "missing", "there is no such file or folder"),
    ],
)
def test_places_without_boxes(tmp_path: Path, files: dict[str, str | None], place: str, what: str) -> None:
    for name, text in files.items():
        put(tmp_path / name, text)
    with pytest.raises(UserError) as caught:
        read_boxes(str(tmp_path / place))
    assert what in str(caught.value)
    assert "->" in str(caught.value)
