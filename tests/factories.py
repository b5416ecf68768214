"""Small images, image folders and ingested data sets for tests."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from ufgvc.core.storage import open_store
from ufgvc.data.dataset import ShardWriter, open_dataset, shard_name, write_dataset
from ufgvc.synthetic import veins

THREE = ("amber", "birch", "cedar")
_COLOURS = ((200, 60, 40), (40, 180, 60), (50, 70, 210))


def pixels(seed: int | str, height: int = 40, width: int = 60) -> np.ndarray:
    """(height, width, 3) uint8."""
    key = zlib.crc32(str(seed).encode())
    return np.random.default_rng(key).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(seed: int | str = 0, kind: str = "JPEG", height: int = 40, width: int = 60, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(buffer, kind, **options)
    return buffer.getvalue()


def put(path: Path, data: bytes | str | None = None) -> Path:
    """Writes a file with its folders; without data a photograph of its own, drawn from its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encoded(str(path), "PNG" if path.suffix == ".png" else "JPEG") if data is None else data
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def image_folder(root: Path, classes: tuple[str, ...] = ("a", "b"), each: int = 2) -> Path:
    """<split>/<class>/<k>.jpg"""
    for split in ("train", "test"):
        for name in classes:
            for k in range(each):
                put(root / split / name / f"{split}{k}.jpg")
    return root


def coloured(label: int, seed: int, side: int = 48, kind: str = "PNG") -> bytes:
    """An encoded (side, side) image: noise about the colour of its label, 0 to 2."""
    rng = np.random.default_rng([label, seed])
    values = np.clip(np.array(_COLOURS[label]) + rng.normal(0, 25, (side, side, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def ingested(
    uri: str,
    name: str,
    classes: Sequence[str],
    shards: Sequence[tuple[str, Sequence[tuple[int, bytes]]]],
    side: int,
    prefix: str = "",
    plants: Sequence[str] = (),
) -> str:
    """Writes a data set as `ingest` does and returns its fingerprint.

    shards: a split and the (label, encoded image) of each row.  side: of every image, in pixels.
    prefix: of the rows' hashes; another one gives another fingerprint.  plants: that of each label; none: not known.
    """
    store = open_store(uri)
    writer = ShardWriter(store, "images", "", "images")
    parts, tables = [], []
    rows_of: dict[str, int] = {}
    shards_of: dict[str, int] = {}
    for split, rows in shards:
        first, number = rows_of.get(split, 0), shards_of.get(split, 0)
        rows_of[split], shards_of[split] = first + len(rows), number + 1
        places, labels = range(first, first + len(rows)), [label for label, _ in rows]
        table = pa.table(
            {
                "image_id": [f"{split}-{place}" for place in places],
                "image": [image for _, image in rows],
                "orientation": [1] * len(rows),
                "height": [side] * len(rows),
                "width": [side] * len(rows),
                "label": labels,
                "cultivar": [classes[label] for label in labels],
                "split": [split] * len(rows),
                "group": pa.array([plants[label] if plants else None for label in labels], pa.string()),
                "sha256": [f"{prefix}{split}{place}" for place in places],
            }
        )
        parts.append(writer.write(shard_name(split, number), split, table))
        tables.append(table.drop_columns("group"))
    writer.commit(parts)
    write_dataset(store, name, tuple(classes), pa.concat_tables(tables), parts, "made by a test")
    return open_dataset(uri).fingerprint


def three_cultivars(uri: str, classes: Sequence[str] = THREE) -> str:
    """A data set "tiny" of 3 training and 9 test images (two shards) of 48 px; test image i is `coloured(i % 3, i +
    100)`.
    """
    shards = [
        ("train", [(i % 3, coloured(i % 3, i)) for i in range(3)]),
        ("test", [(i % 3, coloured(i % 3, i + 100)) for i in range(5)]),
        ("test", [(i % 3, coloured(i % 3, i + 100)) for i in range(5, 9)]),
    ]
    return ingested(uri, "tiny", classes, shards, 48)


def polygon_mask(outline: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: inside of a polygon of (column, row) points."""
    image = Image.new("1", (size, size))
    ImageDraw.Draw(image).polygon([tuple(p) for p in outline.tolist()], fill=1)
    return np.array(image)


def only_main_veins(patch: pytest.MonkeyPatch) -> None:
    """Synthetic leaves get no veins but their main ones, which is most of the work: boxes, pose and light depend on no
    others.
    """
    patch.setattr(veins, "_secondaries", lambda *args: [])
    patch.setattr(veins, "_fan", lambda *args: [])
