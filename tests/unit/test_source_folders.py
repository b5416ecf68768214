"""Sources as people have them: one folder too many, folders and tables that only lie there, detection exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import image_folder, put
from tests.unit.source_listings import refused
from ufgvc.data.readers import list_source


def test_one_folder_too_many(tmp_path: Path) -> None:
    image_folder(tmp_path / "leaves")
    refused(tmp_path, "one folder too many: leaves/ contains test/, train/", f"give --source {tmp_path}/leaves")


def test_one_folder_too_many_below_the_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            put(tmp_path / split / "leaves" / name / "1.jpg")
    refused(tmp_path, "one folder too many: leaves/ contains a/, b/")


@pytest.mark.parametrize("other", ["docs", "unlabeled", "results"])
def test_a_folder_beside_train_and_test(tmp_path: Path, other: str) -> None:
    put(image_folder(tmp_path) / other / "figure.png")
    message = refused(tmp_path, "has test/, train/", f"{other}/ (1 photographs)")
    assert "--split" not in message, "the old advice made cultivars of train and test"


def test_longer_names_of_splits(tmp_path: Path) -> None:
    image_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "training_set")
    (tmp_path / "test").rename(tmp_path / "Test Set")
    assert {photo.split for photo in list_source(str(tmp_path)).photos} == {"train", "test"}


@pytest.mark.parametrize("layout", ["{split}/images/{k}.jpg", "images/{split}/{k}.jpg"])
def test_the_layout_of_a_detection_export(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        for k in range(2):
            name = layout.format(split=split, k=k)
            put(tmp_path / name)
            put(tmp_path / name.replace("images", "labels").replace(".jpg", ".txt"), "0 .5 .5 .1 .1\n")
    refused(tmp_path, "is laid out for detection", "path, cultivar, split")


def test_a_single_cultivar(tmp_path: Path) -> None:
    image_folder(tmp_path, ("only",))
    refused(tmp_path, "one cultivar only, 'only'")


def test_a_list_of_regions_is_no_list_of_cultivars(tmp_path: Path) -> None:
    put(image_folder(tmp_path) / "classes.txt", "contour\nvein\n")
    assert list_source(str(tmp_path)).classes == ("a", "b")


def test_system_folders_are_no_cultivars(tmp_path: Path) -> None:
    image_folder(tmp_path)
    for name in (
        "@eaDir/a/x.jpg",
        "#recycle/old.jpg",
        "$RECYCLE.BIN/S-1/x.jpg",
        "lost+found/x.jpg",
        "train/a/@eaDir/x.jpg",
    ):
        put(tmp_path / name)
    listing = list_source(str(tmp_path))
    assert listing.classes == ("a", "b")
    assert len(listing.photos) == 8


@pytest.mark.parametrize("name", ["measurements.csv", "metadata.csv", "empty.csv", "predictions.csv"])
def test_a_table_that_only_lies_there(tmp_path: Path, name: str) -> None:
    text = {
        "measurements.csv": "plant,height_cm\n1,20\n",
        "metadata.csv": "file_name,text\ntrain/a/train0.jpg,a leaf\n",
        "empty.csv": "",
        "predictions.csv": "path,cultivar,probability,top1_cultivar,top1_probability\ntrain/a/train0.jpg,a,0.9,a,0.9\n",
    }[name]
    put(image_folder(tmp_path) / name, text)
    assert len(list_source(str(tmp_path)).photos) == 8
    if text:
        refused(tmp_path / name, "and has", "--reader folder")


def test_photographs_that_a_table_does_not_name_are_listed(tmp_path: Path) -> None:
    put(
        image_folder(tmp_path) / "photos.csv",
        "path,cultivar,split\ntrain/a/train0.jpg,a,train\ntest/b/test0.jpg,b,test\n",
    )
    listing = list_source(str(tmp_path))
    assert len(listing.photos) == 2
    assert {bad.reason for bad in listing.left_out} == {"the source does not list it"}
    assert len(listing.left_out) == 6


@pytest.mark.parametrize("name", ["photos.zip", "leaf.jpg", "labels.txt"])
def test_one_file_that_is_no_table(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "x")
    refused(tmp_path / name, "is one file", "unpack an archive")


def test_masks_and_labels_of_a_released_folder_are_not_reported(tmp_path: Path) -> None:
    for name in ("1_1_train", "2_1_train", "1_2_test"):
        put(tmp_path / "images" / f"{name}.jpg")
        put(tmp_path / "masks" / "vein" / f"{name}.png")
        put(tmp_path / "labels" / f"{name}.txt", "0 .5 .5 .1 .1\n")
    put(tmp_path / "notes.txt", "x")
    listing = list_source(str(tmp_path))
    assert listing.left_out == []
    assert listing.unused == ["notes.txt"]
