"""The leaves that a report shows: drawn with a seed, not picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.storage import read_parquet_rows
from ufgvc.data.dataset import Dataset, Manifest, read_manifest
from ufgvc.data.images import decode, decode_mask
from ufgvc.evaluation.cam import activation_maps, overlay, pixels
from ufgvc.evaluation.score import Scored
from ufgvc.models.model import LoadedModel
from ufgvc.reports.figures import Panels


def draw(labels: NDArray[np.int64], leaves: int, seed: int) -> list[int]:
    """Rows of `leaves` leaves, of different cultivars as long as there are any, in order."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    keyed = []
    for place, row in enumerate(shuffled):
        label = int(labels[row])
        keyed.append((seen.get(label, 0), place, int(row)))
        seen[label] = seen.get(label, 0) + 1
    return sorted(row for _, _, row in sorted(keyed)[:leaves])


def cam_panels(
    dataset: Dataset, models: Mapping[str, LoadedModel], scored: Scored, classes: Sequence[str], leaves: int, seed: int
) -> Panels | None:
    """Figure 4: the original, then the class activation map of each model for the cultivar that it names. None without leaves.

    A model without a feature map gets no column.
    """
    rows = draw(scored.label, leaves, seed)
    images = [_image(row) for row in leaf_rows(dataset, rows)]
    columns, pictures, marks = ["original"], [[image] for image in images], [[""] for _ in images]
    for label, model in models.items():
        try:
            pairs = [activation_maps(model.net, model.view([image]), model.method.last_map) for image in images]
        except UserError:
            continue
        columns.append(label)
        for place, (maps, predicted) in enumerate(pairs):
            guess, true = int(predicted[0]), int(scored.label[rows[place]])
            # The map lies over what the network saw: the resized view, cropped where the model crops.
            pictures[place].append(overlay(pixels(model.view([images[place]])[0]), maps[0].float().cpu().numpy()))
            marks[place].append("right" if guess == true else f"wrong: {classes[guess]}")
    if len(columns) == 1 or not rows:
        return None
    captions = tuple(classes[scored.label[row]] for row in rows)
    alt = f"Class activation maps of {len(rows)} test leaves under {', '.join(columns[1:])}"
    return Panels("cam", "Class activation maps", alt, tuple(columns), captions, _frozen(pictures), _frozen(marks))


def region_panels(
    dataset: Dataset, scored: Scored, classes: Sequence[str], kind: str, leaves: int, seed: int
) -> Panels | None:
    """Figure 3: leaf, vein mask, contour mask. None if there are no masks of that kind for these images."""
    try:
        manifest = read_manifest(dataset, f"masks/{kind}")
    except UserError:
        return None
    rows = draw(scored.label, leaves, seed)
    pictures, marks = [], []
    for image_row, mask_row in zip(
        leaf_rows(dataset, rows), leaf_rows(dataset, rows, f"masks/{kind}", manifest), strict=True
    ):
        if image_row["image_id"] != mask_row["image_id"]:
            raise RuntimeError(f"masks/{kind} does not hold the masks of these images")
        image = _image(image_row)
        found = [mask_row[region] for region in ("vein", "contour")]
        pictures.append([image, *(masked(image, decode_mask(mask) if mask else None) for mask in found)])
        marks.append(["", *("" if mask else "not found" for mask in found)])
    if not rows:
        return None
    captions = tuple(classes[scored.label[row]] for row in rows)
    columns = ("leaf", "vein", "contour")
    return Panels(
        "regions",
        "Leaf, vein and contour",
        f"Regions of {len(rows)} test leaves",
        columns,
        captions,
        _frozen(pictures),
        _frozen(marks),
    )


def masked(image: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """The photograph inside the mask; outside it faint, so that the place can be recognised."""
    inside = np.zeros(image.shape[:2], dtype=bool) if mask is None else mask
    faint = (0.18 * image + 0.82 * 236).astype(np.uint8)
    return np.where(inside[..., None], image, faint)


def leaf_rows(
    dataset: Dataset, rows: Sequence[int], folder: str = "images", manifest: Manifest | None = None
) -> list[dict]:
    """Whole rows of the test split by their place in it; only the row groups that hold them are read."""
    found = []
    for row in rows:
        start = 0
        for shard in (shard for shard in dataset.shards if shard.split == "test"):
            if row < start + shard.rows:
                file = manifest.shard(shard.name).file if manifest else shard.file
                table: pa.Table = read_parquet_rows(dataset.store, f"{folder}/{file}", row - start, row - start + 1)
                found.append(table.to_pylist()[0])
                break
            start += shard.rows
    return found


def _image(row: dict) -> NDArray[np.uint8]:
    return decode(row["image"], row["orientation"])


def _frozen(rows: Sequence[Sequence]) -> tuple:
    return tuple(tuple(row) for row in rows)
