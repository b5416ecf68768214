"""Ingest with Ray Data: real labels, real leaves, object storage, and failing tasks."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.factories import encoded, image_folder, put
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_images, read_index, read_manifest, read_shard
from ufgvc.data.images import decode
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.data.schemas import to_boxes

pytestmark = pytest.mark.usefixtures("ray_local")


def regions_of(dataset: Dataset) -> dict[str, Counter[str]]:
    """How many boxes of each region every photograph has; the shards' ids are checked on the way."""
    found = {}
    for shard in dataset.shards:
        table = read_shard(dataset, "regions/annotated", shard)
        assert table["image_id"].to_pylist() == read_images(dataset, shard)["image_id"].to_pylist()
        for row in table.to_pylist():
            found[row["image_id"]] = Counter(box.region for box in to_boxes(row["boxes"]) or [])
    return found


def stand_ins(archive: Path, root: Path) -> Path:
    """The released layout with the real label files and a small generated photograph for each, labels from 1."""
    annos: dict[str, list[str]] = {"train": [], "test": []}
    with zipfile.ZipFile(archive) as labels:
        for entry in labels.namelist():
            if entry.endswith(".txt"):
                stem = Path(entry).stem
                put(root / "labels" / f"{stem}.txt", labels.read(entry))
                put(root / "images" / f"{stem}.jpg", encoded(stem, height=64, width=64))
                annos[stem.rpartition("_")[2]].append(f"{stem}.jpg {stem.partition('_')[0]}")
    for split, lines in annos.items():
        put(root / "anno" / f"{split}.txt", "\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(("name", "cultivars", "rules"), [("cotton", 80, "one_class"), ("soy", 200, "two_classes")])
def test_all_released_label_files(shared_data: Path, tmp_path: Path, name: str, cultivars: int, rules: str) -> None:
    source = stand_ins(shared_data / "ufg-labels" / f"{name}.zip", tmp_path / name)
    dataset = ingest(str(source), str(tmp_path / "data"), settings=IngestSettings(shard_mb=1))
    assert len(dataset.shards) > (2 if name == "soy" else 1), "more than one shard a split is tried too"
    assert dataset.counts == {"train": 3 * cultivars, "test": 3 * cultivars}
    assert dataset.classes == tuple(str(k) for k in range(1, cultivars + 1))
    assert read_manifest(dataset, "regions/annotated").extra["rules"] == rules
    index = read_index(dataset)
    assert all(row["image_id"].startswith(f"{row['label'] + 1}_") for row in index.to_pylist())
    found = regions_of(dataset)
    assert len(found) == 6 * cultivars
    shapes = Counter((counts["vein"], counts["contour"]) for counts in found.values())
    # STATS.md: three boxes in every photograph; 15 of soy have two of class 0; 35 without one get their thinnest box.
    assert shapes == ({(1, 2): 480} if name == "cotton" else {(1, 2): 1185, (2, 1): 15})
    assert not (tmp_path / "data" / "rejected.csv").exists()


def test_real_leaves(shared_data: Path, tmp_path: Path) -> None:
    dataset = ingest(str(shared_data / "grape5"), str(tmp_path / "grape5"))
    assert dataset.name == "grape5"
    assert dataset.classes == ("AK", "ALA_IDRIS", "BUZGULU", "DIMNIT", "NAZLI")
    assert dataset.counts == {"train": 40, "test": 121}
    index = read_index(dataset)
    tested = Counter(row["cultivar"] for row in index.to_pylist() if row["split"] == "test")
    assert [tested[name] for name in dataset.classes] == [8, 14, 34, 38, 27]
    assert set(map(str, regions_of(dataset).values())) == {str(Counter(contour=2, vein=1))}
    assert index.nbytes / index.num_rows <= 200
    first = read_images(dataset, dataset.shards[0]).slice(0, 1).to_pylist()[0]
    assert decode(first["image"], first["orientation"]).shape == (640, 640, 3)
    assert ingest(str(shared_data / "grape5"), str(tmp_path / "grape5")).fingerprint == dataset.fingerprint


def test_from_a_bucket_into_a_bucket(s3: str, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source", each=3)
    put(source / "boxes" / "train" / "a" / "train0.txt", "0 0.5 0.5 0.1 0.8\n1 0.2 0.5 0.3 0.6\n")
    open_store(f"{s3}/photos").upload(source)
    local = ingest(str(source), str(tmp_path / "data"), boxes=str(source / "boxes"))
    for _ in range(2):
        remote = ingest(f"{s3}/photos", f"{s3}/data", boxes=f"{s3}/photos/boxes", name="leaves")
        assert remote.fingerprint == local.fingerprint
        assert regions_of(open_dataset(f"{s3}/data")) == regions_of(local)
        names = open_store(f"{s3}/data").list()
        assert len(names) == 1 + 2 * (2 + 1), "shards of the first time are gone after the second"


def test_a_bad_photograph_comes_back_from_the_task_as_one_message(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source")
    put(source / "train" / "a" / "bad.jpg", b"")
    with pytest.raises(UserError, match=r"train/a/bad.jpg: is empty \(zero bytes\)"):
        ingest(str(source), str(tmp_path / "data"))
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def ingest_again(source: str, data: str, *flags: str) -> tuple[int, str]:
    """The real command line, in this process and its Ray session: exit code and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(["ingest", "--source", source, "--data", data, "--name", "leaves", *flags])
    return code, printed.getvalue()


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_correction_is_noticed_and_nothing_else_is_done_again(place: str, s3: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    for name in ("1_1_train", "2_1_train", "1_2_test", "2_2_test", "1_3_train"):
        put(released / "images" / f"{name}.jpg")
    put(released / "anno" / "train.txt", "1_1_train.jpg 1\n2_1_train.jpg 2\n1_3_train.jpg 2\n")
    put(released / "anno" / "test.txt", "1_2_test.jpg 1\n2_2_test.jpg 2\n")
    put(released / "labels" / "1_1_train.txt", "0 0.5 0.5 0.06 0.8\n0 0.3 0.5 0.3 0.7\n")
    source, data = (str(released), str(tmp_path / "data")) if place == "local" else (f"{s3}/again", f"{s3}/again-data")
    store = open_store(source)
    if place == "bucket":
        store.upload(released)
    assert ingest_again(source, data)[0] == 0
    first = open_dataset(data).fingerprint
    code, text = ingest_again(source, data)
    assert code == 0
    assert "nothing in the source has changed since; --fresh reads it again" in text
    assert "nothing in the source" not in ingest_again(source, data, "--fresh")[1]
    store.write_text("anno/train.txt", store.read_text("anno/train.txt").replace("1_3_train.jpg 2", "1_3_train.jpg 1"))
    assert "nothing in the source" not in ingest_again(source, data)[1]
    second = open_dataset(data)
    assert second.fingerprint != first
    assert {row["image_id"]: row["label"] for row in read_index(second).to_pylist()}["1_3_train"] == 0
    store.write_text("labels/1_1_train.txt", "0 0.5 0.5 0.06 0.8\n1 0.3 0.5 0.3 0.7\n")
    ingest_again(source, data)
    assert regions_of(open_dataset(data))["1_1_train"] == Counter(vein=1, contour=1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_file_forms_of_source_and_boxes(kind: str, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source")
    paths = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg"))
    columns = {
        "path": paths,
        "cultivar": [path.split("/")[1] for path in paths],
        "split": [path.split("/")[0] for path in paths],
    }
    table = pa.table(columns)
    (pq.write_table if kind == "parquet" else pacsv.write_csv)(table, source / f"photos.{kind}")
    images = [{"id": k, "file_name": path, "width": 60, "height": 40} for k, path in enumerate(paths)]
    boxes = [{"image_id": k, "category_id": 1, "bbox": [10, 5, 4, 30]} for k in range(len(paths))]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "vein"}]}
    put(tmp_path / "instances.json", json.dumps(coco))
    code, text = ingest_again(
        str(source / f"photos.{kind}"), str(tmp_path / "data"), "--boxes", str(tmp_path / "instances.json")
    )
    assert code == 0, text
    dataset = open_dataset(str(tmp_path / "data"))
    assert dataset.counts == {"train": 4, "test": 4}
    assert set(map(str, regions_of(dataset).values())) == {str(Counter(vein=1))}
    (source / paths[0]).unlink()
    code, text = ingest_again(
        str(source / f"photos.{kind}"), str(tmp_path / "data"), "--boxes", str(tmp_path / "instances.json")
    )
    assert code == 2
    assert f"{paths[0]}: the manifest lists it, but it does not exist" in text


def test_storage_that_refuses_within_a_task_is_a_message_too(s3: str, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source")
    with pytest.raises(UserError, match="no such bucket"):
        ingest(str(source), "s3://a-bucket-that-is-not-there/data")
