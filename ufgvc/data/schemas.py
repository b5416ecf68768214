"""The columns of the tables on storage: images, regions (their boxes) and masks; docs/data-format.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from ufgvc.core.types import Box

_BOX = pa.struct([("region", pa.string()), *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "score"))])
IMAGES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),  # the encoded file without its metadata
        ("orientation", pa.int8()),  # EXIF 1-8
        ("height", pa.int32()),  # pixels of the upright photograph
        ("width", pa.int32()),
        ("label", pa.int32()),
        ("cultivar", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # the plant; null if unknown
        ("sha256", pa.string()),  # of the original file
    ]
)
REGIONS_SCHEMA = pa.schema([("image_id", pa.string()), ("boxes", pa.list_(_BOX))])
INDEX_COLUMNS = [name for name in IMAGES_SCHEMA.names if name != "image"]


def masks_schema(regions: Sequence[str]) -> pa.Schema:
    """The columns of masks: image_id, and a 1-bit PNG for each region (null: not found).  regions: of the data set."""
    return pa.schema([("image_id", pa.string()), *((region, pa.binary()) for region in regions)])


def schema_of(name: str, regions: Sequence[str]) -> pa.Schema:
    """The schema that a manifest names: images, regions or masks.  regions: of the data set."""
    return masks_schema(regions) if name == "masks" else {"images": IMAGES_SCHEMA, "regions": REGIONS_SCHEMA}[name]


def to_boxes(value: list[dict[str, Any]] | None) -> list[Box] | None:
    """A value of the column `boxes` as Box objects. None: not annotated; []: annotated, without boxes."""
    return None if value is None else [Box(**box) for box in value]


def from_boxes(boxes: Sequence[Box] | None) -> list[dict[str, Any]] | None:
    """The inverse of `to_boxes`."""
    return None if boxes is None else [asdict(box) for box in boxes]
