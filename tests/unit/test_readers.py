"""The three layouts, label order, splits, and boxes of three formats."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.factories import image_folder, put
from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.data.packing import plan_shards
from ufgvc.data.readers import list_source
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.box_files import Annotation, RawBox
from ufgvc.data.readers.boxes import BoxFiles, match_boxes, read_boxes
from ufgvc.data.readers.file_table import FileTable
from ufgvc.data.readers.listing import Listing
from ufgvc.data.readers.photos import Photos
from ufgvc.data.splits import assign_splits


def released(root: Path, first_label: int, cultivars: tuple[int, ...] = (1, 2, 10), prefix: str = "") -> Path:
    for split, k in (("train", 1), ("test", 2)):
        lines = []
        for number, cultivar in enumerate(cultivars):
            name = f"{cultivar}_{k}_{split}.png"
            put(root / "images" / name)
            lines.append(f"{name} {number + first_label}")
        put(root / "anno" / f"{prefix}{split}.txt", "\n".join(lines) + "\n")
    return root


def labels(listing: Listing) -> dict[str, tuple[int, str, str | None]]:
    return {photo.image_id: (photo.label, photo.cultivar, photo.split) for photo in listing.photos}


@pytest.mark.parametrize("first_label", [0, 1])
@pytest.mark.parametrize("prefix", ["", "ct_"])
def test_released_labels_start_at_0_or_1(tmp_path: Path, first_label: int, prefix: str) -> None:
    listing = list_source(str(released(tmp_path, first_label, prefix=prefix)))
    assert listing.classes == ("1", "2", "10")
    assert labels(listing)["10_1_train"] == (2, "10", "train")
    assert labels(listing)["1_2_test"] == (0, "1", "test")


@pytest.mark.parametrize("first_label", [0, 1])
def test_classes_txt_names_the_labels(tmp_path: Path, first_label: int) -> None:
    put(released(tmp_path, first_label) / "classes.txt", "Upland\nPima\nTree\n")
    listing = list_source(str(tmp_path))
    assert labels(listing)["2_1_train"] == (1, "Pima", "train")


def test_names_decide_where_the_first_label_does_not_occur(tmp_path: Path) -> None:
    put(tmp_path / "images" / "2_1_train.png")
    put(tmp_path / "anno" / "train.txt", "2_1_train.png 1\n")
    put(tmp_path / "classes.txt", "first\nsecond\nthird\n")
    assert labels(list_source(str(tmp_path))) == {"2_1_train": (1, "second", "train")}
    assert labels(list_source(str(tmp_path), label_base=1)) == {"2_1_train": (0, "first", "train")}


def test_released_without_anno_is_read_by_its_names(tmp_path: Path) -> None:
    for name in ("Red_1_train", "Red_2_test", "blue_1_train"):
        put(tmp_path / "images" / f"{name}.jpg")
    listing = list_source(str(tmp_path))
    assert labels(listing)["Red_2_test"][1:] == ("Red", "test")
    assert len(listing.photos) == 3


def test_a_photograph_that_no_anno_names_is_told(tmp_path: Path) -> None:
    put(released(tmp_path, 1) / "images" / "stray.png")
    assert [bad.path for bad in list_source(str(tmp_path)).left_out] == ["images/stray.png"]


def test_image_folder_with_splits_in_natural_order(tmp_path: Path) -> None:
    listing = list_source(str(image_folder(tmp_path, ("v10", "v2", "v1"))))
    assert listing.classes == ("v1", "v2", "v10")
    assert labels(listing)["train/v10/train0"] == (2, "v10", "train")


def test_image_folder_without_splits(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/deep/2.jpg", "b/1.jpg", "b/1.png", "b/.hidden.jpg", "b/notes.txt"):
        put(tmp_path / name, None if name.endswith("g") else "text")
    listing = list_source(str(tmp_path))
    assert {name: found[1:] for name, found in labels(listing).items()} == {
        "a/1": ("a", None),
        "a/deep/2": ("a", None),
        "b/1.jpg": ("b", None),  # two photographs that differ only by their ending keep it
        "b/1.png": ("b", None),
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifest_by_cultivar(tmp_path: Path, kind: str) -> None:
    rows = {
        "path": ["x/1.jpg", "./x/2.jpg"],
        "cultivar": ["v10", "v2"],
        "split": ["train", "TEST"],
        "group": ["p1", None],
    }
    for path in rows["path"]:
        put(tmp_path / str(path))
    if kind == "csv":
        put(tmp_path / "leaves.csv", "path,cultivar,split,group\nx/1.jpg,v10,train,p1\n./x/2.jpg,v2,TEST,\n")
    else:
        pq.write_table(pa.table(rows), tmp_path / "leaves.parquet")
    for source in (tmp_path, tmp_path / f"leaves.{kind}"):
        listing = list_source(str(source), "auto" if source.suffix else "manifest")
        assert listing.classes == ("v2", "v10")
        assert labels(listing) == {"x/1": (1, "v10", "train"), "x/2": (0, "v2", "test")}
        assert [photo.group for photo in listing.photos] == ["p1", None]


def test_manifest_by_label_with_names(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        put(tmp_path / name)
    put(tmp_path / "manifest.csv", "path,label,cultivar\n1.jpg,1,Zebra\n2.jpg,2,Apple\n")
    listing = list_source(str(tmp_path))
    assert listing.classes == ("Zebra", "Apple"), "numeric labels keep their order"
    put(tmp_path / "manifest.csv", "path,label,cultivar\n1.jpg,1,Zebra\n2.jpg,1,Apple\n")
    with pytest.raises(UserError, match="label 1 stands for Apple and Zebra"):
        list_source(str(tmp_path))


def test_an_unknown_layout_lists_what_is_known(tmp_path: Path) -> None:
    put(tmp_path / "readme.txt", "nothing here")
    with pytest.raises(UserError, match="no photographs in a known layout") as caught:
        list_source(str(tmp_path))
    assert "<class>/<file>" in str(caught.value)


def photos(groups: bool) -> Photos:
    files = FileTable.of({f"{label}/{k}.jpg": 1 for label in range(4) for k in range(12)})
    rows = [
        (files.row(f"{label}/{k}.jpg"), label, None, f"{label}-{k // 3}" if groups else None)
        for label in range(4)
        for k in range(12)
    ]
    return Photos(files, list("0123"), lambda path: path.removesuffix(".jpg"), rows)


@pytest.mark.parametrize("groups", [False, True])
def test_a_split_is_stratified_and_keeps_plants_together(groups: bool) -> None:
    cut = photos(groups)
    assign_splits(cut, 0.5, seed=0)
    assert Counter((photo.label, photo.split) for photo in cut) == {
        (label, split): 6 for label in range(4) for split in ("train", "test")
    }
    if groups:
        assert len({(photo.group, photo.split) for photo in cut}) == len({photo.group for photo in cut})


def test_a_split_follows_the_seed_only() -> None:
    one, same, other = photos(False), photos(False)[::-1], photos(False)
    for cut, seed in ((one, 0), (same, 0), (other, 1)):
        assign_splits(cut, 0.25, seed)
    chosen = [{photo.path for photo in cut if photo.split == "test"} for cut in (one, same, other)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 12


def test_a_small_share_still_leaves_one_photograph_on_each_side() -> None:
    for share in (0.01, 0.99):
        cut = photos(True)[:6]
        assign_splits(cut, share, seed=0)
        assert {photo.split for photo in cut} == {"train", "test"}


def test_shards_hold_one_split_and_mix_cultivars() -> None:
    cut = photos(False)
    assign_splits(cut, 0.5, seed=0)
    jobs = list(plan_shards(cut, {}, shard_bytes=8))
    assert [job.name for job in jobs] == [
        "train-00000",
        "train-00001",
        "train-00002",
        "test-00000",
        "test-00001",
        "test-00002",
    ]
    assert all(photo.split == job.split for job in jobs for photo in job.photos)
    assert all(len({photo.label for photo in job.photos}) > 2 for job in jobs)


COCO = {
    "categories": [{"id": 3, "name": "vein"}, {"id": 7, "name": "contour"}],
    "images": [{"id": 11, "file_name": "a/1.jpg", "width": 100, "height": 50}],
    "annotations": [
        {"id": 1, "image_id": 11, "category_id": 3, "bbox": [45, 5, 10, 40]},
        {"id": 2, "image_id": 11, "category_id": 7, "bbox": [5, 10, 30, 30]},
    ],
}
VOC = """<annotation><filename>1.jpg</filename><size><width>100</width><height>50</height><depth>3</depth></size>
<object><name>vein</name><bndbox><xmin>45</xmin><ymin>5</ymin><xmax>55</xmax><ymax>45</ymax></bndbox></object>
<object><name>contour</name><bndbox><xmin>5</xmin><ymin>10</ymin><xmax>35</xmax><ymax>40</ymax></bndbox></object></annotation>"""
YOLO = {"1.txt": "0 0.5 0.5 0.1 0.8\n1 0.2 0.5 0.3 0.6\n\n", "classes.txt": "vein\ncontour\n"}


@pytest.mark.parametrize("kind", ["coco", "coco folder", "voc", "yolo", "yolo numbers"])
def test_every_format_gives_the_same_boxes(tmp_path: Path, kind: str) -> None:
    if kind.startswith("coco"):
        put(tmp_path / "boxes.json", json.dumps(COCO))
    elif kind == "voc":
        put(tmp_path / "a" / "1.xml", VOC)
    else:
        for name, text in YOLO.items():
            if kind == "yolo" or name != "classes.txt":
                put(tmp_path / name, text)
    found = read_boxes(str(tmp_path / "boxes.json" if kind == "coco" else tmp_path))
    photos = match_boxes(found, ["train/a/1.jpg", "train/a/2.jpg"])
    matched = photos.by_path
    assert list(matched) == ["train/a/1.jpg"]
    assert photos.left_out == photos.rejected == []
    rules = choose_rules(set(found.labels()), "auto")
    assert rules == ("two_classes" if kind == "yolo numbers" else "named")
    boxes = to_regions(matched["train/a/1.jpg"], 100, 50, rules)
    assert [box.region for box in boxes] == ["vein", "contour"]
    for box, corners in zip(boxes, [(45, 5, 55, 45), (5, 10, 35, 40)], strict=True):
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners)


THIN, WIDE, WIDER = (0.45, 0.1, 0.55, 0.9), (0.1, 0.2, 0.4, 0.8), (0.6, 0.2, 0.95, 0.8)


@pytest.mark.parametrize(
    ("classes", "setting", "regions"),
    [
        ("000", "auto", "contour vein contour"),  # cotton: one class
        ("16 16 16", "one_class", "contour vein contour"),  # cotton: the file with an unknown number
        ("101", "auto", "contour vein contour"),  # soy
        ("111", "two_classes", "contour vein contour"),  # soy: the midrib's number is missing
        ("001", "auto", "vein vein contour"),  # soy: two veins
        ("9 1 1", "auto", "vein contour contour"),  # soy: an unknown number is read as 0
        ("1 1", "auto", "contour contour"),  # two boxes: no vein is made up
        ("contour VEIN contour", "auto", "contour vein contour"),
    ],
)
def test_what_the_numbers_mean(classes: str, setting: str, regions: str) -> None:
    names = classes.split() if " " in classes else list(classes)
    raw = tuple(RawBox(name, *box) for name, box in zip(names, (WIDE, THIN, WIDER), strict=False))
    annotation = Annotation("f.txt", raw, relative=True)
    rules = choose_rules(set(names), setting)  # type: ignore[arg-type]
    assert [box.region for box in to_regions(annotation, 200, 100, rules)] == regions.split()


def test_boxes_are_clipped_by_a_rounding_error_only() -> None:
    box = to_regions(Annotation("f", (RawBox("vein", -0.5, 0, 100.9, 20),), (100, 50)), 100, 50, "named")
    assert box == [Box("vein", 0, 0, 100, 20)]


def test_ambiguous_names_are_not_guessed() -> None:
    matched = match_boxes(BoxFiles("here", [("1", Annotation("1.txt", ()))]), ["a/1.jpg", "b/1.jpg"])
    assert matched.by_path == {}
    assert "2 photographs have this name" in matched.left_out[0].reason
