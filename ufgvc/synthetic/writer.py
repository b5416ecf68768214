"""Writes synthetic leaves and exact masks as a folder in the layout of the released Ultra-FGVC data sets."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.data.mask_png import encode_mask
from ufgvc.synthetic.boxes import Box, make_boxes
from ufgvc.synthetic.cultivars import DRAWING, NUISANCE, Traits, Variant, plant_and_position, rng_for, sample_traits
from ufgvc.synthetic.outline import Blade, palmate, pinnate
from ufgvc.synthetic.render import Picture, render
from ufgvc.synthetic.scene import Pose, Scene, sample_scene
from ufgvc.synthetic.veins import Vein, grow_veins

Preset = Literal["cotton80", "soylocal200"]
CULTIVARS = {"cotton80": 80, "soylocal200": 200}
_VERSION = 1  # raise it when the same seed gives other leaves
# Added to the cultivar number in seeds, so that the presets have no leaf in common.
_OFFSET = {"cotton80": 0, "soylocal200": 1_000_000}


class SynthSettings(Settings):
    """Settings of the synthetic leaves."""

    preset: Preset = "cotton80"
    """the real data set to imitate: cotton80 (palmate leaves) or soylocal200 (pinnate leaves)"""
    cultivars: int | None = Field(None, ge=2)
    """number of cultivars; default: as many as the real data set has"""
    train_per_cultivar: int = Field(3, ge=1)
    """training leaves of each cultivar"""
    test_per_cultivar: int = Field(3, ge=1)
    """test leaves of each cultivar; about 50 are needed to measure small differences between methods"""
    size: int = Field(512, ge=64, le=4096)
    """side of the square photographs in pixels"""
    variant: Variant = "all"
    """what differs between cultivars: everything, or only veins, shape or texture"""
    format: Literal["jpg", "png"] = "jpg"
    """image format: jpg (quality 90), or png as in the release (about six times as large)"""
    difficulty: float = Field(1.0, gt=0, allow_inf_nan=False)
    """divides the differences between cultivars, not those within a cultivar; larger is harder"""

    @property
    def number(self) -> int:
        """Number of cultivars."""
        return self.cultivars or CULTIVARS[self.preset]


@dataclass(frozen=True)
class LeafPlan:
    """A leaf before rendering.  rng, texture_rng: the generators that `render` continues with."""

    traits: Traits
    blade: Blade
    veins: list[Vein]
    scene: Scene
    pose: Pose
    boxes: list[Box]
    metadata: dict[str, Any]
    rng: np.random.Generator
    texture_rng: np.random.Generator


@dataclass(frozen=True)
class SyntheticLeaf:
    """A rendered leaf.  boxes: (class id, cx, cy, w, h) in [0, 1].  metadata: its row in leaves.csv."""

    picture: Picture
    boxes: list[Box]
    metadata: dict[str, Any]


def plan_leaf(settings: SynthSettings, seed: int, cultivar: int, k: int) -> LeafPlan:
    """Samples geometry and scene of leaf k of a cultivar (both 1-based), without rendering it."""
    key = (seed, _OFFSET[settings.preset] + cultivar, k)
    is_palmate = settings.preset == "cotton80"
    features = sample_traits(*key, settings.variant, settings.difficulty)
    rng = rng_for(NUISANCE, *key)
    scene = sample_scene(rng, is_palmate)
    pose = Pose(scene, is_palmate, settings.size, rng)
    blade = (palmate if is_palmate else pinnate)(features.shape, rng_for(DRAWING, 0, *key))
    veins = grow_veins(blade, features.veins, rng_for(DRAWING, 1, *key))
    ribs = [pose(vein.path) for vein in veins if vein.order == 1]
    boxes = make_boxes(pose(blade.outline), ribs, is_palmate, scene.upright, settings.size, rng_for(NUISANCE, *key, 1))
    plant, position = plant_and_position(k)
    metadata = {"cultivar": cultivar, "k": k, "plant": f"{cultivar}-{plant}", "position": position, **scene.row()}
    return LeafPlan(features, blade, veins, scene, pose, boxes, metadata, rng, rng_for(DRAWING, 2, *key))


def generate_leaf(settings: SynthSettings, seed: int, cultivar: int, k: int) -> SyntheticLeaf:
    """Renders leaf k of a cultivar (both 1-based). It does not depend on the other leaves or their number."""
    plan = plan_leaf(settings, seed, cultivar, k)
    picture = render(
        plan.blade.outline, plan.veins, plan.traits.texture, plan.scene, plan.pose, plan.rng, plan.texture_rng
    )
    return SyntheticLeaf(picture, plan.boxes, plan.metadata)


def list_leaves(settings: SynthSettings) -> Iterator[tuple[int, int, str]]:
    """(cultivar, k, split) of every leaf; odd k is train and even k test, as in the release."""
    for cultivar in range(1, settings.number + 1):
        numbers = [2 * i + 1 for i in range(settings.train_per_cultivar)] + [
            2 * i + 2 for i in range(settings.test_per_cultivar)
        ]
        for k in sorted(numbers):
            yield cultivar, k, "train" if k % 2 else "test"


def synthesize(out: Path, settings: SynthSettings, seed: int = 0, workers: int = 1) -> Path:
    """Writes images/, labels/, anno/, masks/vein, masks/contour, masks/leaves.csv and classes.txt to `out`; returns it.

    The same seed gives the same bytes for any number of worker processes. Nothing is done if `out` holds the same
    leaves already, by its synthetic.json, which is written last. UserError if it holds anything else.
    """
    if seed < 0:
        raise UserError("a seed is an integer of at least 0", where=f"--seed {seed}")
    out = Path(out)
    text = _describe(settings, seed)
    record = out / "synthetic.json"
    if record.is_file() and record.read_text(encoding="utf-8") == text:
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "holds something else, or an incomplete set",
            where=str(out),
            fix="choose another --out, or delete the folder",
        )
    if next(path for path in out.absolute().parents if path.exists()).is_file():
        raise UserError("is below a file, not a folder", where=str(out), fix="choose another --out")
    for folder in ("images", "labels", "anno", "masks/vein", "masks/contour"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    jobs = [(out, settings, seed, *leaf) for leaf in list_leaves(settings)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows = list(pool.map(_write_leaf, jobs, chunksize=8))
    else:
        rows = [_write_leaf(job) for job in jobs]
    with open(out / "masks" / "leaves.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for split in ("train", "test"):
        lines = [f"{row['file']} {row['cultivar']}\n" for row in rows if row["split"] == split]
        (out / "anno" / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    kind = "Cotton" if settings.preset == "cotton80" else "Soy"
    width = len(str(settings.number))
    (out / "classes.txt").write_text(
        "".join(f"{kind}-{i:0{width}d}\n" for i in range(1, settings.number + 1)), encoding="utf-8"
    )
    record.write_text(text, encoding="utf-8")
    return out


def _describe(settings: SynthSettings, seed: int) -> str:
    """The text of synthetic.json."""
    return json.dumps({"version": _VERSION, "seed": seed, **settings.model_dump()}, indent=1) + "\n"


def _write_leaf(job: tuple[Path, SynthSettings, int, int, int, str]) -> dict[str, Any]:
    out, settings, seed, cultivar, k, split = job
    leaf = generate_leaf(settings, seed, cultivar, k)
    stem = f"{cultivar}_{k}_{split}"
    data = encode_image(leaf.picture, settings.format)
    (out / "images" / f"{stem}.{settings.format}").write_bytes(data)
    (out / "labels" / f"{stem}.txt").write_text(
        "".join("{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*box) for box in leaf.boxes)
    )
    for kind in ("vein", "contour"):
        (out / "masks" / kind / f"{stem}.png").write_bytes(encode_mask(getattr(leaf.picture, kind)))
    return {"file": f"{stem}.{settings.format}", "split": split, "bytes": len(data), **leaf.metadata}


def encode_image(picture: Picture, form: str) -> bytes:
    """Encodes as "jpg" or "png"."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture.image)
    if form == "jpg":
        image.save(buffer, "JPEG", quality=90)
    else:
        image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
