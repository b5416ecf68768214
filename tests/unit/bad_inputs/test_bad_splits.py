"""Photographs, copies and groups in both splits or of two cultivars, and splits that are empty or missing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.factories import pixels, put
from tests.unit.bad_inputs.outcomes import refused, skipped
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import read_index, read_shard
from ufgvc.data.ingest import IngestSettings, ingest


def test_the_same_photograph_in_train_and_test(source: Path) -> None:
    put(source / "train" / "a" / "copy.jpg", (source / "test" / "a" / "test0.jpg").read_bytes())
    refused(source, "train/a/copy.jpg: is the same photograph as test/a/test0.jpg, which is in test")
    dataset, rejected = skipped(source)
    assert list(rejected) == ["train/a/copy.jpg"]
    assert dataset.counts == {"train": 4, "test": 4}
    ids = read_index(dataset)["image_id"].to_pylist()
    assert "test/a/test0" in ids
    assert "train/a/copy" not in ids
    regions = read_shard(dataset, "regions/annotated", "train-00000")
    assert regions["image_id"].to_pylist() == read_index(dataset, "train")["image_id"].to_pylist()


def test_the_same_file_named_in_train_and_test(tmp_path: Path) -> None:
    for name in ("1_1_train", "1_2_test", "2_1_train"):
        put(tmp_path / "s" / "images" / f"{name}.jpg")
    put(tmp_path / "s" / "anno" / "train.txt", "1_1_train.jpg 1\n1_2_test.jpg 1\n2_1_train.jpg 2\n")
    put(tmp_path / "s" / "anno" / "test.txt", "1_2_test.jpg 1\n")
    refused(tmp_path / "s", "images/1_2_test.jpg: is listed in test and train")
    assert skipped(tmp_path / "s")[0].counts == {"train": 2, "test": 1}


def test_twice_within_one_split_is_a_warning_only(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(source / "train" / "a" / "copy.jpg", (source / "train" / "a" / "train0.jpg").read_bytes())
    dataset = ingest(str(source), str(source.parent / "data"))
    assert dataset.counts == {"train": 5, "test": 4}
    assert "the same photograph 2 times within one split" in caplog.text


def two_copies(first: Path, second: Path) -> None:
    """One picture (noise would not survive it) saved twice, the second time coarser and smaller."""
    picture = Image.fromarray(pixels(str(first), 6, 8)).resize((240, 180), Image.Resampling.BICUBIC)
    for path, one, quality in ((first, picture, 95), (second, picture.resize((180, 135)), 60)):
        buffer = io.BytesIO()
        one.save(buffer, "JPEG", quality=quality)
        put(path, buffer.getvalue())


def test_a_copy_that_was_saved_again_in_train_and_test(source: Path) -> None:
    two_copies(source / "test" / "a" / "test0.jpg", source / "train" / "a" / "copy.jpg")
    message = refused(
        source, "train/a/copy.jpg: shows the same picture as test/a/test0.jpg, which is in test", "--on-bad-image skip"
    )
    assert "--on-duplicate keep-train" in message
    dataset, rejected = skipped(source)
    assert list(rejected) == ["train/a/copy.jpg"]
    assert dataset.counts == {"train": 4, "test": 4}


def test_one_picture_under_two_cultivars(source: Path) -> None:
    two_copies(source / "train" / "a" / "train0.jpg", source / "train" / "b" / "copy.jpg")
    put(source / "test" / "b" / "same.jpg", (source / "test" / "a" / "test1.jpg").read_bytes())
    refused(
        source,
        "test/b/same.jpg: is the same photograph as test/a/test1.jpg, which is of 'a' and not of 'b'",
        "train/b/copy.jpg: shows the same picture as train/a/train0.jpg, which is of 'a' and not of 'b'",
        "train/a/train0.jpg: shows the same picture as train/b/copy.jpg, which is of 'b' and not of 'a'",
    )
    dataset, rejected = skipped(source)
    assert set(rejected) == {"train/a/train0.jpg", "train/b/copy.jpg", "test/a/test1.jpg", "test/b/same.jpg"}
    assert dataset.counts == {"train": 3, "test": 3}


def test_duplicates_can_cost_the_test_copy_or_nothing(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    two_copies(source / "test" / "a" / "test0.jpg", source / "train" / "a" / "copy.jpg")
    data = source.parent / "kept"
    dataset = ingest(str(source), str(data), settings=IngestSettings(on_duplicate="keep-train"))
    assert dataset.counts == {"train": 5, "test": 3}
    assert (
        'test/a/test0.jpg,"shows the same picture as train/a/copy.jpg, which is in train"'
        in (data / "rejected.csv").read_text()
    )
    dataset = ingest(str(source), str(data), settings=IngestSettings(on_duplicate="warn"))
    assert dataset.counts == {"train": 5, "test": 4}
    assert not (data / "rejected.csv").exists()
    assert "the same photograph 2 times in train and test: test/a/test0.jpg, train/a/copy.jpg" in caplog.text


def test_the_same_group_in_train_and_test(source: Path) -> None:
    rows = [
        "train/a/train0.jpg,a,train,p1",
        "test/a/test0.jpg,a,test,p1",
        "train/b/train0.jpg,b,train,p2",
        "test/b/test0.jpg,b,test,p3",
    ]
    put(source / "manifest.csv", "\n".join(["path,cultivar,split,group", *rows]) + "\n")
    refused(source, "train/a/train0.jpg: its group 'p1' is in train and in test")
    dataset, rejected = skipped(source)
    assert "its group 'p1'" in rejected.pop("train/a/train0.jpg")
    assert set(rejected.values()) == {"the source does not list it"}
    assert len(rejected) == 4
    assert dataset.counts == {"train": 1, "test": 2}


def test_group_pattern_finds_the_plant(source: Path) -> None:
    refused(source, "its group '0' is in train and in test", settings=IngestSettings(group_pattern=r"(\d)\.jpg"))


def test_an_empty_split(source: Path) -> None:
    for path in (source / "test").rglob("*.jpg"):
        path.unlink()
    refused(source, "the test split is empty")


def test_a_split_that_is_empty_because_all_of_it_is_bad(source: Path) -> None:
    for path in (source / "test").rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="the test split is empty"):
        skipped(source)


def test_no_split_at_all(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        put(tmp_path / "s" / name)
    refused(tmp_path / "s", "does not say which photographs are for training", "--split")
    assert ingest(str(tmp_path / "s"), str(tmp_path / "d"), split=0.5).counts == {"train": 2, "test": 2}
    refused(tmp_path / "s", "is not a share between 0 and 1", split=2)
