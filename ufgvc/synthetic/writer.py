"""Writes synthetic leaves as a folder in the layout of the released Ultra-FGVC sets, the exact masks beside it."""

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
from ufgvc.data.images import encode_mask
from ufgvc.synthetic.boxes import Box, yolo_boxes
from ufgvc.synthetic.cultivars import DRAWING, NUISANCE, Traits, Variant, plant_of, stream, traits
from ufgvc.synthetic.outline import Blade, palmate, pinnate
from ufgvc.synthetic.render import Picture, render
from ufgvc.synthetic.scene import Placing, Scene, draw_scene
from ufgvc.synthetic.veins import Vein, grow

Preset = Literal["cotton80", "soylocal200"]
CULTIVARS = {"cotton80": 80, "soylocal200": 200}
_DRAWING_VERSION = 1  # to be raised when the same seed would no longer give the same leaves
# Large enough that no leaf of one preset is a leaf of the other, whatever the seed.
_OFFSET = {"cotton80": 0, "soylocal200": 1_000_000}


class SynthSettings(Settings):
    preset: Preset = "cotton80"
    """The real set that is imitated: cotton80 (palmate leaves) or soylocal200 (pinnate leaves)"""
    cultivars: int | None = Field(None, ge=2)
    """Number of cultivars; none: as many as the real set has"""
    train_per_cultivar: int = Field(3, ge=1)
    """Training leaves of each cultivar"""
    test_per_cultivar: int = Field(3, ge=1)
    """Test leaves of each cultivar; 50 gives statistics that resolve small differences"""
    size: int = Field(512, ge=64, le=4096)
    """Side of the square photographs in pixels"""
    variant: Variant = "all"
    """What differs between cultivars: everything, or one space only (vein_only, shape_only, texture_only)"""
    format: Literal["jpg", "png"] = "jpg"
    """Image files: jpg (quality 90), or png as in the release (about six times as large)"""
    difficulty: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Divides the spread between cultivars; that within a cultivar stays, so larger is harder"""

    @property
    def number(self) -> int:
        return self.cultivars or CULTIVARS[self.preset]


@dataclass(frozen=True)
class Plan:
    """All of a leaf but its pixels. chance and own are the streams that the pixels go on with."""

    traits: Traits
    blade: Blade
    veins: list[Vein]
    scene: Scene
    place: Placing
    boxes: list[Box]
    facts: dict[str, Any]
    chance: np.random.Generator
    own: np.random.Generator


@dataclass(frozen=True)
class Leaf:
    """One leaf with everything that is known of it. boxes: (class id, cx, cy, w, h) in [0, 1]. facts: a row of leaves.csv."""

    picture: Picture
    boxes: list[Box]
    facts: dict[str, Any]


def make_plan(settings: SynthSettings, seed: int, cultivar: int, k: int) -> Plan:
    """Geometry and circumstances of leaf k of a cultivar (both 1-based), without its pixels."""
    key = (seed, _OFFSET[settings.preset] + cultivar, k)
    is_palmate = settings.preset == "cotton80"
    features = traits(*key, settings.variant, settings.difficulty)
    chance = stream(NUISANCE, *key)
    scene = draw_scene(chance, is_palmate)
    place = Placing(scene, is_palmate, settings.size, chance)
    blade = (palmate if is_palmate else pinnate)(features.shape, stream(DRAWING, 0, *key))
    veins = grow(blade, features.veins, stream(DRAWING, 1, *key))
    ribs = [place(vein.path) for vein in veins if vein.order == 1]
    boxes = yolo_boxes(place(blade.outline), ribs, is_palmate, scene.upright, settings.size, stream(NUISANCE, *key, 1))
    plant, position = plant_of(k)
    facts = {"cultivar": cultivar, "k": k, "plant": f"{cultivar}-{plant}", "position": position, **scene.row()}
    return Plan(features, blade, veins, scene, place, boxes, facts, chance, stream(DRAWING, 2, *key))


def make_leaf(settings: SynthSettings, seed: int, cultivar: int, k: int) -> Leaf:
    """Leaf k of a cultivar (both 1-based). Depends on nothing else: not on other leaves, their number, or who draws them."""
    plan = make_plan(settings, seed, cultivar, k)
    picture = render(plan.blade.outline, plan.veins, plan.traits.texture, plan.scene, plan.place, plan.chance, plan.own)
    return Leaf(picture, plan.boxes, plan.facts)


def names(settings: SynthSettings) -> Iterator[tuple[int, int, str]]:
    """(cultivar, k, split) of every leaf; odd k train, even k test, as in the release."""
    for cultivar in range(1, settings.number + 1):
        numbers = [2 * i + 1 for i in range(settings.train_per_cultivar)] + [
            2 * i + 2 for i in range(settings.test_per_cultivar)
        ]
        for k in sorted(numbers):
            yield cultivar, k, "train" if k % 2 else "test"


def synthesize(out: Path, settings: SynthSettings, seed: int = 0, workers: int = 1) -> Path:
    """Writes images/, labels/, anno/, masks/vein, masks/contour, masks/leaves.csv and classes.txt under `out`; returns `out`.

    The same seed gives the same bytes, whatever the number of worker processes. A folder that holds these very leaves already is
    left as it is (synthetic.json, written last, tells); UserError if it holds anything else.
    """
    if seed < 0:
        raise UserError("a seed is a whole number from 0 on", where=f"--seed {seed}")
    out = Path(out)
    made_of = _record(settings, seed)
    record = out / "synthetic.json"
    if record.is_file() and record.read_text(encoding="utf-8") == made_of:
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "holds something else, or half a set", where=str(out), fix="choose another --out, or remove the folder"
        )
    if next(path for path in out.absolute().parents if path.exists()).is_file():
        raise UserError("lies below a file", where=str(out), fix="choose another --out")
    for folder in ("images", "labels", "anno", "masks/vein", "masks/contour"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    jobs = [(out, settings, seed, *name) for name in names(settings)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            facts = list(pool.map(_write_leaf, jobs, chunksize=8))
    else:
        facts = [_write_leaf(job) for job in jobs]
    with open(out / "masks" / "leaves.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, facts[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(facts)
    for split in ("train", "test"):
        rows = [f"{row['file']} {row['cultivar']}\n" for row in facts if row["split"] == split]
        (out / "anno" / f"{split}.txt").write_text("".join(rows), encoding="utf-8")
    kind = "Cotton" if settings.preset == "cotton80" else "Soy"
    width = len(str(settings.number))
    (out / "classes.txt").write_text(
        "".join(f"{kind}-{i:0{width}d}\n" for i in range(1, settings.number + 1)), encoding="utf-8"
    )
    record.write_text(made_of, encoding="utf-8")
    return out


def _record(settings: SynthSettings, seed: int) -> str:
    """What synthetic.json says of a folder with these leaves."""
    told = settings.model_dump()
    if told["difficulty"] == 1:  # as folders have it that are older than this setting
        del told["difficulty"]
    return json.dumps({"drawing": _DRAWING_VERSION, "seed": seed, **told}, indent=1) + "\n"


def _write_leaf(job: tuple[Path, SynthSettings, int, int, int, str]) -> dict[str, Any]:
    out, settings, seed, cultivar, k, split = job
    leaf = make_leaf(settings, seed, cultivar, k)
    stem = f"{cultivar}_{k}_{split}"
    data = encode_image(leaf.picture, settings.format)
    (out / "images" / f"{stem}.{settings.format}").write_bytes(data)
    (out / "labels" / f"{stem}.txt").write_text(
        "".join("{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*box) for box in leaf.boxes)
    )
    for kind in ("vein", "contour"):
        (out / "masks" / kind / f"{stem}.png").write_bytes(encode_mask(getattr(leaf.picture, kind)))
    return {"file": f"{stem}.{settings.format}", "split": split, "bytes": len(data), **leaf.facts}


def encode_image(picture: Picture, form: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(picture.image)
    if form == "jpg":
        image.save(buffer, "JPEG", quality=90)
    else:
        image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
