"""The photograph panels of a report: class activation maps, and regions, of a random sample of leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.data.dataset import Dataset, Manifest, read_manifest
from ufgvc.data.images import decode
from ufgvc.data.mask_png import decode_mask
from ufgvc.evaluation.cam import activation_maps, masked_maps
from ufgvc.evaluation.score import Scored
from ufgvc.models.model import LoadedModel
from ufgvc.reports.figures import Panels

Pixels = NDArray[np.uint8]


def sample_leaves(labels: NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Sorted indices of a random sample of leaves, of different cultivars as far as there are enough.

    A larger sample with the same seed contains the smaller one.
    """
    drawn: dict[int, int] = {}
    order = []
    for place, row in enumerate(np.random.default_rng(seed).permutation(len(labels))):
        label = int(labels[row])
        order.append((drawn.get(label, 0), place, int(row)))
        drawn[label] = drawn.get(label, 0) + 1
    return sorted(row for _, _, row in sorted(order)[:count])


def cam_panels(
    dataset: Dataset, models: Mapping[str, LoadedModel], scored: Scored, classes: Sequence[str], leaves: int, seed: int
) -> Panels | None:
    """Fig. 4: each leaf, and the class activation map of each model for its predicted cultivar.

    Models without a feature map are left out. None without leaves or models.
    """
    rows = sample_leaves(scored.label, leaves, seed)
    images = [_image(row) for row in read_test_rows(dataset, rows)]
    columns, pictures, marks = ["original"], [[image] for image in images], [[""] for _ in images]
    for label, model in models.items():
        try:
            views = [model.view([image]) for image in images]
            pairs = [activation_maps(model.net, view, model.method.last_map) for view in views]
        except UserError:
            continue
        columns.append(label)
        for i, (view, (maps, predicted)) in enumerate(zip(views, pairs, strict=True)):
            guess, true = int(predicted[0]), int(scored.label[rows[i]])
            pictures[i].append(overlay_map(view[0], maps[0]))
            marks[i].append("correct" if guess == true else f"wrong: {classes[guess]}")
    if len(columns) == 1 or not rows:
        return None
    captions = [classes[scored.label[row]] for row in rows]
    alt = f"Class activation maps of {len(rows)} test leaves for {', '.join(columns[1:])}"
    return _panels("cam", "Class activation maps", alt, columns, captions, pictures, marks)


def energy_panels(
    images: Sequence[Pixels],
    masks: Sequence[NDArray[np.bool_]],
    models: Mapping[str, LoadedModel],
    captions: Sequence[str],
    regions: Sequence[str] = PAPER_REGIONS,
) -> Panels | None:
    """Each leaf, its regions, and each model's class activation map with its share inside them.

    images: (H, W, 3) uint8, upright.  masks: (H, W) bool, of all regions.  captions: one for each leaf.
    Models without a feature map are left out. None without leaves or models.
    """
    names = join_names(regions)
    columns = ["leaf", names]
    pictures = [[image, masked(image, mask)] for image, mask in zip(images, masks, strict=True)]
    marks = [["", ""] for _ in images]
    for label, model in models.items():
        try:
            batches = list(masked_maps(model, images, masks))
        except UserError:
            continue
        columns.append(label)
        singles = [(batch, i) for batch in batches for i in range(len(batch.maps))]
        for place, (batch, i) in enumerate(singles):
            pictures[place].append(overlay_map(batch.views[i], batch.maps[i]))
            marks[place].append(_energy_text(float(batch.inside[i]), float(batch.covered[i]), names))
    if len(columns) == 2 or not images:
        return None
    alt = f"Class activation maps of {len(images)} leaves for {', '.join(columns[2:])}"
    alt += f", with their share inside {names}"
    return _panels("cam", "Class activation maps", alt, columns, captions, pictures, marks)


def _energy_text(inside: float, covered: float, regions: str) -> str:
    if np.isnan(inside):
        return "empty map"
    if covered == 0:
        return f"no {regions.replace(' and ', ' or ')} in view"
    return f"{100 * inside:.0f}\u00a0% inside (mask covers {100 * covered:.0f}\u00a0%)"


def region_panels(
    dataset: Dataset, scored: Scored, classes: Sequence[str], kind: str, leaves: int, seed: int
) -> Panels | None:
    """Fig. 3: each leaf, and each of its regions. None without leaves, or without masks of that kind for them.

    RuntimeError if a row of masks belongs to another image.
    """
    try:
        manifest = read_manifest(dataset, f"masks/{kind}")
    except UserError:
        return None
    rows = sample_leaves(scored.label, leaves, seed)
    if not rows:
        return None
    pictures, marks = [], []
    mask_rows = read_test_rows(dataset, rows, f"masks/{kind}", manifest)
    for image_row, mask_row in zip(read_test_rows(dataset, rows), mask_rows, strict=True):
        if image_row["image_id"] != mask_row["image_id"]:
            raise RuntimeError(f"masks/{kind} does not hold the masks of these images")
        image, found = _image(image_row), [mask_row[region] for region in dataset.regions]
        pictures.append([image, *(masked(image, decode_mask(mask) if mask else None) for mask in found)])
        marks.append(["", *("" if mask else "not found" for mask in found)])
    captions = [classes[scored.label[row]] for row in rows]
    title, alt = (
        join_names(["Leaf", *dataset.regions]),
        f"{join_names(dataset.regions).capitalize()} of {len(rows)} test leaves",
    )
    return _panels("regions", title, alt, ["leaf", *dataset.regions], captions, pictures, marks)


def masked(image: Pixels, mask: NDArray[np.bool_] | None) -> Pixels:
    """The image (H, W, 3) inside the mask (H, W), and faded outside of it; None is an empty mask."""
    inside = np.zeros(image.shape[:2], dtype=bool) if mask is None else mask
    faded = (0.18 * image + 0.82 * 236).astype(np.uint8)
    return np.where(inside[..., None], image, faded)


def overlay_map(view: Tensor, heat: Tensor, strength: float = 0.55) -> Pixels:
    """The network's input (3, H, W) in [0, 1] with a map (h, w) in [0, 1] over it, as (H, W, 3) uint8.

    The map is upsampled bilinearly; where it is 0, the image stays nearly as it is.
    """
    from matplotlib import colormaps

    image = (view.permute(1, 2, 0).float().cpu().numpy() * 255).round()
    height, width = image.shape[:2]
    large = Image.fromarray(heat.float().cpu().numpy()).resize((width, height), Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(large), 0, 1)
    opacity = (strength * (0.35 + 0.65 * level))[..., None]
    colours = colormaps["inferno"](level)[..., :3] * 255
    return np.clip(image * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)


def read_test_rows(
    dataset: Dataset, rows: Sequence[int], folder: str = "images", manifest: Manifest | None = None
) -> list[dict[str, Any]]:
    """Rows of the test split by index; only the row groups that hold them are read.

    folder, manifest: of masks instead of images.
    """
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


def _image(row: Mapping[str, Any]) -> Pixels:
    return decode(row["image"], row["orientation"])


def _panels(
    name: str,
    title: str,
    alt: str,
    columns: Sequence[str],
    captions: Sequence[str],
    pictures: Sequence[Sequence[Pixels]],
    marks: Sequence[Sequence[str]],
) -> Panels:
    images = tuple(tuple(row) for row in pictures)
    return Panels(name, title, alt, tuple(columns), tuple(captions), images, tuple(tuple(row) for row in marks))
