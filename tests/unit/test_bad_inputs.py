"""Every bad input gives one clear error that names the file and the remedy, or is left out and listed.

Tasks run in this process here.
"""

from __future__ import annotations

import csv
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from tests.factories import encoded, image_folder, pixels, put
from ufgvc.core.errors import UserError
from ufgvc.data import ingest as module
from ufgvc.data.dataset import Dataset, open_dataset, read_index, read_shard, to_boxes
from ufgvc.data.ingest import IngestSettings, ingest


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pack", lambda packer, jobs, ray: [packer(job) for job in jobs])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "source")


def refused(source: Path, *texts: str, **options: object) -> str:
    """Ingest stops with one UserError that contains the texts, and leaves nothing."""
    data = source.parent / "data"
    with pytest.raises(UserError) as caught:
        ingest(str(source), str(data), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    for text in (*texts, "->"):
        assert text in message
    assert not [path for path in data.rglob("*") if path.is_file()]
    return message


def skipped(source: Path, **options: object) -> tuple[Dataset, dict[str, str]]:
    """Ingest leaves the bad input out: the data set, and the rows of rejected.csv."""
    data = source.parent / "skipped"
    dataset = ingest(str(source), str(data), settings=IngestSettings(on_bad_image="skip"), **options)  # type: ignore[arg-type]
    rows = list(csv.DictReader(io.StringIO((data / "rejected.csv").read_text())))
    return dataset, {row["path"]: row["reason"] for row in rows}


def check_photograph(source: Path, name: str, data: bytes, reason: str) -> None:
    put(source / name, data)
    refused(source, name, reason, "--on-bad-image skip")
    dataset, rejected = skipped(source)
    assert list(rejected) == [name]
    assert reason in rejected[name]
    assert sum(dataset.counts.values()) == 8


def test_unreadable(source: Path) -> None:
    check_photograph(source, "train/a/bad.jpg", b"this is no photograph", "is not a photograph of a type that is read")


def test_another_kind_of_photograph(source: Path) -> None:
    check_photograph(
        source,
        "train/a/bad.cr2",
        b"II*\0\x10\0\0\0CR\x02\0",
        "is a raw photograph of a camera (CR2): export it as JPEG or PNG",
    )


def test_truncated(source: Path) -> None:
    photo = encoded(1)
    check_photograph(source, "test/b/cut.jpg", photo[: len(photo) // 2], "is truncated")


def test_zero_bytes(source: Path) -> None:
    check_photograph(source, "train/a/empty.png", b"", "is empty (zero bytes)")


def test_too_small(source: Path) -> None:
    check_photograph(source, "train/a/tiny.jpg", encoded(1, height=31, width=200), "too small: 200 x 31 pixels")


def test_decompression_bomb(source: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    check_photograph(source, "train/a/bomb.png", bomb, "decompression bomb")


def test_label_without_a_class(source: Path) -> None:
    put(source / "classes.txt", "a\nc\n")
    refused(source, "train/b/train0.jpg", "its label 'b' has no class")
    dataset, rejected = skipped(source)
    assert len(rejected) == 4
    assert dataset.classes == ("a", "c")


def test_numeric_label_without_a_class(tmp_path: Path) -> None:
    for name in ("1_1_train", "1_2_test", "3_1_train"):
        put(tmp_path / "s" / "images" / f"{name}.jpg")
    put(tmp_path / "s" / "anno" / "train.txt", "1_1_train.jpg 1\n3_1_train.jpg 7\n")
    put(tmp_path / "s" / "anno" / "test.txt", "1_2_test.jpg 1\n")
    put(tmp_path / "s" / "classes.txt", "a\nb\n")
    refused(tmp_path / "s", "images/3_1_train.jpg: its label 7 has no class")
    assert list(skipped(tmp_path / "s")[1]) == ["images/3_1_train.jpg"]


def test_anno_names_a_missing_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path / "s" / "images" / f"1_1_{split}.jpg")
        put(tmp_path / "s" / "images" / f"2_1_{split}.jpg")
        put(tmp_path / "s" / "anno" / f"{split}.txt", f"1_1_{split}.jpg 1\n2_1_{split}.jpg 2\n1_9_{split}.jpg 1\n")
    refused(tmp_path / "s", "images/1_9_train.jpg", "but it does not exist")
    assert set(skipped(tmp_path / "s")[1]) == {"images/1_9_train.jpg", "images/1_9_test.jpg"}


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


def test_names_never_leave_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg")
    for name in ("1.jpg", "2.jpg"):
        put(tmp_path / "s" / name)
    good = "1.jpg,../../x,train\n2.jpg,../../y,test\n"
    put(tmp_path / "s" / "manifest.csv", f"path,cultivar,split\n{good}../secret.jpg,a,train\n/etc/passwd,a,train\n")
    refused(tmp_path / "s", "../secret.jpg: lies outside the manifest's folder", "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    dataset, rejected = skipped(tmp_path / "s")
    assert set(rejected) == {"../secret.jpg", "/etc/passwd"}
    assert dataset.classes == ("../../x", "../../y")
    assert all(path.is_relative_to(tmp_path / "skipped") for path in set(tmp_path.rglob("*")) - before)


def test_a_name_that_is_no_name_for_a_folder(source: Path) -> None:
    refused(source, "'../x' cannot name a data set", name="../x")


def test_a_failed_ingest_leaves_what_was_there(source: Path) -> None:
    data = source.parent / "data"
    before = ingest(str(source), str(data))
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    put(source / "train" / "a" / "bad.jpg", b"bad")
    with pytest.raises(UserError):
        ingest(str(source), str(data))
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == files
    assert open_dataset(str(data)) == before


def test_many_bad_inputs_are_one_message(source: Path) -> None:
    for k in range(9):
        put(source / "train" / "a" / f"bad{k}.jpg", b"bad")
    message = refused(source, "train/a/bad0.jpg", "and 4 more")
    assert message.count("is not a photograph of a type") == 5


def test_fixing_the_input_removes_the_list(source: Path) -> None:
    put(source / "train" / "a" / "bad.jpg", b"bad")
    skipped(source)
    (source / "train" / "a" / "bad.jpg").unlink()
    ingest(str(source), str(source.parent / "skipped"))
    assert not (source.parent / "skipped" / "rejected.csv").exists()


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
