"""Exact masks without Ray: copying one shard, and errors for bad sources."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data import dataset as module
from ufgvc.data.dataset import ShardWriter, read_shard
from ufgvc.data.mask_png import decode_mask, encode_mask
from ufgvc.data.schemas import IMAGES_SCHEMA
from ufgvc.regions.exact_masks import copy_shard, exact_masks, open_masks
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import MaskSettings
from ufgvc.synthetic import SynthSettings, generate_leaf, synthesize

SETTINGS = SynthSettings(cultivars=2, train_per_cultivar=2, test_per_cultivar=1, size=64)
NAMES = {
    "train": ["2_1_train", "1_3_train", "1_1_train", "2_3_train"],
    "test": ["2_2_test", "1_2_test"],
}  # no order that a listing has
REGIONS = ("vein", "contour")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("made") / "leaves", SETTINGS, seed=1)


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "source"))


def stored(target: Path, source: Path, names: dict[str, list[str]] = NAMES) -> module.Dataset:
    """The data set that `ingest` would make of the source, in two shards."""
    store = open_store(target)
    writer, tables, shards = ShardWriter(store, "images", "", "images"), [], []
    for split, ids in names.items():
        files = [(source / "images" / f"{Path(name).name}.jpg").read_bytes() for name in ids]
        n = len(ids)
        known = {
            "image_id": ids,
            "image": files,
            "orientation": [1] * n,
            "height": [64] * n,
            "width": [64] * n,
            "split": [split] * n,
        }
        known |= {"label": [0] * n, "cultivar": ["c"] * n, "group": [None] * n}
        known["sha256"] = [hashlib.sha256(file).hexdigest() for file in files]
        tables.append(pa.table(known, schema=IMAGES_SCHEMA))
        shards.append(writer.write(f"{split}-00000", split, tables[-1]))
    return module.write_dataset(store, "leaves", ["c"], pa.concat_tables(tables), shards, str(source))


def copied(dataset: module.Dataset, source: Path) -> list[dict[str, bytes]]:
    """The rows of masks/exact, shard after shard."""
    folder, writer = (
        open_masks(str(source), REGIONS),
        ShardWriter(dataset.store, "masks/exact", dataset.fingerprint, "masks"),
    )
    writer.commit([copy_shard(dataset, folder, writer, shard) for shard in dataset.shards])
    return [row for shard in dataset.shards for row in read_shard(dataset, "masks/exact", shard).to_pylist()]


def test_the_masks_are_the_rendered_ones_in_the_order_of_the_images(source: Path, tmp_path: Path) -> None:
    rows = copied(stored(tmp_path / "data", source), source)
    assert [row["image_id"] for row in rows] == [*NAMES["train"], *NAMES["test"]]
    for row in rows:
        cultivar, k = map(int, row["image_id"].split("_")[:2])
        picture = generate_leaf(SETTINGS, 1, cultivar, k).picture
        assert np.array_equal(decode_mask(row["vein"]), picture.vein)
        assert np.array_equal(decode_mask(row["contour"]), picture.contour)
        assert picture.vein.any()
        assert not np.array_equal(picture.vein, picture.contour)


def test_the_same_mask_gives_the_same_bytes_whoever_saved_it(source: Path, tmp_path: Path) -> None:
    dataset = stored(tmp_path / "data", source)
    before = copied(dataset, source)
    file = source / "masks/vein/1_1_train.png"
    pixels = decode_mask(file.read_bytes())
    Image.fromarray(pixels).save(file, "PNG", optimize=True, compress_level=9, dpi=(72, 72))
    assert file.read_bytes() != encode_mask(pixels)
    assert copied(dataset, source) == before


def test_masks_without_their_photographs_do(source: Path, tmp_path: Path) -> None:
    dataset = stored(tmp_path / "data", source)
    shutil.rmtree(source / "images")
    assert len(copied(dataset, source)) == 6


def _smaller(path: Path) -> None:
    path.write_bytes(encode_mask(np.ones((64, 63), bool)))


def _grey(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 1, np.uint8)).save(path)


def _jpeg(path: Path) -> None:
    Image.new("L", (64, 64)).save(path, "JPEG")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [
    (_smaller, "has 63 x 64 pixels, its photograph 64 x 64"),
    (_grey, "is not a 1-bit PNG"),
    (_jpeg, "is not a 1-bit PNG"),
]
DAMAGE += [(_cut, "truncated"), (_empty, "zero bytes")]


@pytest.mark.parametrize(("damage", "says"), DAMAGE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_mask_is_named(damage, says: str, source: Path, tmp_path: Path) -> None:
    dataset, file = stored(tmp_path / "data", source), source / "masks/contour/1_2_test.png"
    damage(file)
    with pytest.raises(UserError, match=says) as caught:
        copied(dataset, source)
    assert caught.value.where == str(file)
    assert caught.value.fix


def test_the_masks_of_another_seed_are_refused_although_all_names_fit(source: Path, tmp_path: Path) -> None:
    other = synthesize(tmp_path / "other", SETTINGS, seed=2)
    with pytest.raises(UserError, match="is not the photograph that the data set has") as caught:
        copied(stored(tmp_path / "data", source), other)
    assert caught.value.where == str(other / "images/2_1_train.jpg")


@pytest.mark.parametrize(
    ("gone", "more"), [(["vein/2_3_train"], ""), (["contour/1_1_train", "vein/2_3_train"], ", and 1 more")]
)
def test_a_missing_mask_is_named(gone: list[str], more: str, source: Path, tmp_path: Path) -> None:
    dataset = stored(tmp_path / "data", source)
    for name in gone:
        (source / f"masks/{name}.png").unlink()
    with pytest.raises(UserError) as caught:
        exact_masks(dataset, str(source))
    assert caught.value.what == f"this mask is missing{more}"
    assert caught.value.where == str(source / f"masks/{gone[0]}.png")


def test_an_image_id_that_is_no_stem_of_the_source_is_an_error(source: Path, tmp_path: Path) -> None:
    dataset = stored(tmp_path / "data", source, {"train": ["1_1_train", "train/1/1_3_train"], "test": ["1_2_test"]})
    with pytest.raises(UserError, match="this mask is missing") as caught:
        exact_masks(dataset, str(source))
    assert caught.value.where == str(source / "masks/vein/train/1/1_3_train.png")
    assert "image id" in str(caught.value)


def test_a_source_without_masks_is_an_error(source: Path, tmp_path: Path) -> None:
    dataset = stored(tmp_path / "data", source)
    with pytest.raises(UserError, match="give the folder with the photographs and their masks as --source"):
        mask(dataset.store.uri, MaskSettings(mask_kind="exact"))
    with pytest.raises(UserError, match="is a file"):
        exact_masks(dataset, str(source / "classes.txt"))
    with pytest.raises(UserError, match="there is no such file or folder"):
        exact_masks(dataset, str(tmp_path / "nowhere"))
    for region in REGIONS:
        shutil.rmtree(source / "masks" / region)
    with pytest.raises(UserError, match="holds no masks") as caught:  # masks/leaves.csv is still there
        exact_masks(dataset, str(source))
    assert "masks/contour/<image id>.png" in str(caught.value)


def test_the_key_changes_with_the_files(source: Path) -> None:
    before = open_masks(str(source), REGIONS).key
    assert open_masks(str(source), REGIONS).key == before
    (source / "masks/vein/1_1_train.png").write_bytes(encode_mask(np.zeros((64, 64), bool)))
    assert open_masks(str(source), REGIONS).key != before
