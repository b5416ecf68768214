"""Faults planted into a data set, and how many of them `audit` finds.

    python -m tests.planted_faults DATA

measures swapped labels, re-saved copies and one camera for each cultivar on an ingested data set, and prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ufgvc.data.dataset import Dataset, open_dataset, read_images
from ufgvc.data.duplicates import ImageSignatures, find_duplicates
from ufgvc.data.images import decode, inspect_with_thumbnail
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.evaluation.audit import folds
from ufgvc.evaluation.audit.confounders import Confounder, measure_confounders
from ufgvc.evaluation.audit.labels import check_labels
from ufgvc.evaluation.audit.leaves import VECTORS, Leaves, Network, read_leaves
from ufgvc.evaluation.audit.photograph import measure
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.reports.tables import interval, percent
from ufgvc.runtime.session import RaySettings

COPIES, SWAPPED = 20, 0.05
FIRST_SEED = 100  # of swapped labels: the filter of `check_labels` was chosen with seeds 1 to 3 on grape29


@dataclass(frozen=True)
class Photo:
    """A photograph to be ingested.  content: its file.  group: its plant; None: not known."""

    name: str
    cultivar: str
    split: str
    content: bytes
    group: str | None = None


@dataclass(frozen=True)
class Found:
    """right of `found` findings are planted faults, and `planted` were planted."""

    right: int
    found: int
    planted: int

    def __add__(self, other: Found) -> Found:
        return Found(self.right + other.right, self.found + other.found, self.planted + other.planted)

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.planted if self.planted else float("nan")


def photos_of(data: str) -> list[Photo]:
    """Every photograph of an ingested data set."""
    dataset = open_dataset(data)
    rows = [row for shard in dataset.shards for row in read_images(dataset, shard).to_pylist()]
    return [
        Photo(row["image_id"].replace("/", "_"), row["cultivar"], row["split"], row["image"], row["group"])
        for row in rows
    ]


def swapped_labels(leaves: Leaves, share: float, seed: int) -> tuple[Leaves, np.ndarray]:
    """The leaves with this share of their labels replaced by another one at random, and the rows of these."""
    rng = np.random.default_rng(seed)
    labels, classes = leaves.labels.copy(), len(leaves.classes)
    rows = rng.choice(len(labels), max(1, round(share * len(labels))), replace=False)
    labels[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    index = leaves.index
    names = pa.array([leaves.classes[label] for label in labels])
    for name, values in (("label", pa.array(labels, pa.int32())), ("cultivar", names)):
        index = index.set_column(index.column_names.index(name), name, values)
    return replace(leaves, index=index), np.sort(rows)


def resaved_copies(photos: Sequence[Photo], count: int, seed: int) -> list[Photo]:
    """Copies of some of the photographs: saved again with a JPEG quality of 40 to 90, half of them also smaller; in the
    same split, in the other one, or under another cultivar.
    """
    rng = np.random.default_rng(seed)
    cultivars = sorted({photo.cultivar for photo in photos})
    made = []
    for number, place in enumerate(rng.choice(len(photos), count, replace=False)):
        one = photos[place]
        with Image.open(io.BytesIO(one.content)) as picture:
            image = picture.convert("RGB")
        if number % 2:
            image = image.resize([round(0.75 * side) for side in image.size], Image.Resampling.LANCZOS)
        split = {"train": "test", "test": "train"}[one.split] if number % 3 == 1 else one.split
        other = cultivars[(cultivars.index(one.cultivar) + 1) % len(cultivars)]
        cultivar = other if number % 3 == 2 else one.cultivar
        made.append(Photo(f"copy-{number}-of-{one.name}", cultivar, split, saved(image, int(rng.integers(40, 91)))))
    return made


def own_camera(photos: Sequence[Photo]) -> list[Photo]:
    """Every cultivar photographed by a camera of its own: another JPEG quality and another tint of the background."""
    cultivars = sorted({photo.cultivar for photo in photos})
    made = []
    for photo in photos:
        number = cultivars.index(photo.cultivar)
        with Image.open(io.BytesIO(photo.content)) as picture:
            image = np.asarray(picture.convert("RGB"), float)
        tint = 1 - 0.1 * number / max(1, len(cultivars) - 1) * np.array([1.0, 0.5, 0.0])
        content = saved(Image.fromarray((image * tint).astype(np.uint8)), 95 - number % 45)
        made.append(replace(photo, content=content))
    return made


def saved(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def ingested_photos(photos: Sequence[Photo], folder: Path) -> Dataset:
    """Ingests photographs, with whatever occurs twice."""
    rows = [("path", "cultivar", "split", "group")]
    for photo in photos:
        name = f"{Path(photo.name).stem}.jpg"
        path = folder / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.content)
        rows.append((name, photo.cultivar, photo.split, photo.group or ""))
    with open(folder / "photographs" / "leaves.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    settings = IngestSettings(on_duplicate="warn")
    return ingest(str(folder / "photographs"), str(folder / "data"), settings=settings)


def found_copies(photos: Sequence[Photo]) -> Found:
    """Pairs of photographs that are found to be copies; planted are those of `resaved_copies` with their originals."""
    signatures = ImageSignatures.from_thumbnails([inspect_with_thumbnail(photo.content)[1] for photo in photos])
    found = find_duplicates(signatures, [hashlib.sha256(photo.content).hexdigest() for photo in photos])
    pairs = {pair for rows in found for pair in combinations(sorted(rows), 2)}
    names = [photo.name for photo in photos]
    of = {row: name.split("-of-", 1)[1] for row, name in enumerate(names) if name.startswith("copy-")}
    planted = {(names.index(original), row) for row, original in of.items()}
    return Found(len(pairs & planted), len(pairs), len(planted))


def found_mistakes(leaves: Leaves, features: np.ndarray, settings: AuditSettings, seed: int) -> Found:
    """Suspects among leaves with swapped labels."""
    faulty, rows = swapped_labels(leaves, SWAPPED, seed)
    units = folds.find_units(faulty.column("group"), [])
    parts = list(folds.partitions(faulty.labels, units, settings.folds, settings.repeats, 0))
    named = folds.predict_out_of_fold(features, faulty.labels, parts, units, folds.ChosenLinear(0, []))
    suspects = check_labels(named, faulty.labels).suspects
    return Found(len(set(suspects.tolist()) & set(rows.tolist())), len(suspects), len(rows))


def confounders_of(leaves: Leaves, photos: Sequence[Photo], settings: AuditSettings) -> list[Confounder]:
    """The confounders of the same leaves with these photographs."""
    found = [measure(photo.content, decode(photo.content)) for photo in photos]
    columns = {name: np.array([getattr(one, name) for one in found], np.float32) for name in VECTORS[:-1]}
    units = folds.find_units(leaves.column("group"), [])
    parts = list(folds.partitions(leaves.labels, units, settings.folds, settings.repeats, 0))
    return measure_confounders(replace(leaves, **columns), parts, units)


def main() -> None:
    """Plants every fault into a data set and prints what is found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    dataset, settings = open_dataset(given.data), AuditSettings()
    report(read_leaves(dataset, Network.frozen(len(dataset.classes), settings), settings, RaySettings()),
           photos_of(given.data), settings, given.seeds)  # fmt: skip


def report(leaves: Leaves, photos: Sequence[Photo], settings: AuditSettings, seeds: int) -> None:
    """Prints the tables of docs/results/audit.md."""
    print("| fault | precision | recall |\n|---|---|---|", flush=True)
    found = found_copies([*photos, *resaved_copies(photos, COPIES, 0)])
    print(
        f"| {COPIES} re-saved copies | {found.right} of {found.found} | {found.right} of {found.planted} |", flush=True
    )
    features = folds.rotate(leaves.embedding, 0)[0]
    total = Found(0, 0, 0)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        total += found_mistakes(leaves, features, settings, seed)
        print(f"<!-- seeds {FIRST_SEED} to {seed}: {total} -->", flush=True)
    text = f"{total.right} of {total.found} = {percent(total.precision, 0)}"
    text += f" | {total.right} of {total.planted} = {percent(total.recall, 0)}"
    print(f"| {100 * SWAPPED:g} % swapped labels, {seeds} seeds | {text} |")
    clean, camera = (confounders_of(leaves, each, settings) for each in (photos, own_camera(photos)))
    print("\n| sees | as it is | one camera a cultivar | chance |\n|---|---|---|---|")
    for before, after in zip(clean, camera, strict=True):
        spans = [
            f"{percent(one.found.value)} ({interval(one.found)}){' *' if one.above_chance else ''}"
            for one in (before, after)
        ]
        print(f"| {before.sees} | {spans[0]} | {spans[1]} | {percent(before.chance)} |", flush=True)


if __name__ == "__main__":
    main()
