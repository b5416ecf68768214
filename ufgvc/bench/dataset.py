"""The data set of the measurements: synthetic photographs or the user's own, ingested with two masks each."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.process import cpu_count
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.dataset import Dataset, read_manifest
from ufgvc.data.images import BadImage, inspect
from ufgvc.data.mask_png import encode_mask
from ufgvc.data.stream import list_chunks

WIDTH, HEIGHT = 1200, 900  # pixels of a synthetic photograph
QUALITY = 90
FINE_NOISE = 3.7  # standard deviation in grey levels: with it the JPEG files have about 200 KB
CLASSES = 4
MIN_PHOTOGRAPHS = 16
TEST_SHARE = 4  # one photograph in so many is a test leaf
MASKS = "exact"


@dataclass(frozen=True)
class BenchData:
    """An ingested data set with masks.

    source: folder of the photographs and masks in the released layout.  ingest_seconds: time of `ingest` and `mask`.
    encoded: the training photographs as stored.  masks: (vein, contour) PNG of each.  own: they are the user's.
    """

    dataset: Dataset
    source: Path
    ingest_seconds: float
    encoded: list[bytes]
    masks: list[tuple[bytes, bytes]]
    own: bool

    @property
    def photograph_bytes(self) -> float:
        """Mean size of the training photographs."""
        return float(np.mean([len(each) for each in self.encoded]))

    @property
    def mask_fingerprint(self) -> str:
        """Fingerprint of the masks that are used."""
        return read_manifest(self.dataset, f"masks/{MASKS}").fingerprint


def make_data(folder: Path, source: str | None, count: int, seed: int) -> BenchData:
    """Writes the photographs and masks below `folder` and ingests them. Inside of a Ray session."""
    from ufgvc.data.ingest import IngestSettings, ingest
    from ufgvc.regions.mask_dataset import mask
    from ufgvc.regions.settings import MaskSettings
    from ufgvc.tracking.context import Context

    leaves = folder / "leaves"
    write_source(leaves, own_photographs(source, count) if source else synthetic_photographs(count, seed))
    started = time.monotonic()
    # Nothing is evaluated on these splits, so the same picture may lie in both.
    settings = IngestSettings(on_duplicate="warn")
    dataset = ingest(str(leaves), str(folder / "data"), name="bench", reader="ufg", settings=settings)
    mask(dataset.store.uri, MaskSettings(mask_kind=MASKS), source=str(leaves), context=Context(str(folder / "runs")))
    seconds = time.monotonic() - started
    encoded, masks = read_encoded(dataset)
    return BenchData(dataset, leaves, seconds, encoded, masks, own=source is not None)


def synthetic_photographs(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(suffix, JPEG) of `count` different leaves on a plain background."""
    random = np.random.default_rng(seed)
    texture, noise = _texture(random), random.normal(0, FINE_NOISE, (HEIGHT, WIDTH, 3)).astype(np.float32)
    places = random.integers(0, (HEIGHT, WIDTH), (count, 2))
    colours = random.uniform((50, 100, 30), (90, 140, 70), (count, 3))
    sizes = random.uniform(0.8, 1.0, (count, 2))
    with ThreadPoolExecutor(cpu_count()) as pool:
        encoded = pool.map(partial(_draw, texture, noise), places, colours, sizes)
        yield from ((".jpg", each) for each in encoded)


def _texture(random: np.random.Generator) -> NDArray[np.float32]:
    """(HEIGHT, WIDTH, 3) noise in three octaves, like the texture of a leaf."""
    whole = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for step, strength in ((64, 30), (16, 16), (4, 9)):
        coarse = random.normal(0, strength, (3, HEIGHT // step + 2, WIDTH // step + 2)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(each).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for each in coarse
        ]
        whole += np.stack(layers, axis=-1)
    return whole


def _draw(texture: NDArray[np.float32], noise: NDArray[np.float32], place: Any, colour: Any, size: Any) -> bytes:
    blade = Image.new("L", (WIDTH, HEIGHT))
    right, down = WIDTH * size[0] / 2, HEIGHT * size[1] / 2
    ImageDraw.Draw(blade).ellipse(
        (WIDTH / 2 - right, HEIGHT / 2 - down, WIDTH / 2 + right, HEIGHT / 2 + down), fill=255
    )
    inside = np.asarray(blade, np.float32)[..., None] / 255
    shift = (int(place[0]), int(place[1]))
    pixels = 235 * (1 - inside) + inside * (colour + np.roll(texture, shift, (0, 1))) + np.roll(noise, shift, (0, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def check_source(source: str) -> None:
    """UserError for a place without photographs, or with too few, before anything is measured."""
    from ufgvc.evaluation.predict import list_photographs

    if (found := len(list_photographs(source)[1])) < MIN_PHOTOGRAPHS:
        raise _too_few(f"{found} photographs", source)


def _too_few(found: str, source: str) -> UserError:
    fix = "give a folder with more, or leave --source out to use synthetic photographs"
    return UserError(f"holds {found}, at least {MIN_PHOTOGRAPHS} are needed", where=source, fix=fix)


def own_photographs(source: str, count: int) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of up to `count` different readable photographs of a place, evenly spaced in its listing.

    UserError if there are too few.
    """
    from ufgvc.evaluation.predict import list_photographs

    store, names, _ = list_photographs(source)
    order = (
        np.argsort(np.arange(len(names)) * count % len(names), kind="stable")
        if len(names) > count
        else np.arange(len(names))
    )
    seen: set[str] = set()
    for place in order:
        name = names[int(place)]
        content = store.read_bytes(name)
        digest = hashlib.sha256(content).hexdigest()
        try:
            inspect(content)
        except BadImage:
            continue  # `ingest` reports unreadable files; here any readable ones will do
        if digest not in seen:
            seen.add(digest)
            yield PurePosixPath(name).suffix.lower(), content
        if len(seen) == count:
            return
    if len(seen) < MIN_PHOTOGRAPHS:
        raise _too_few(f"{len(seen)} different readable photographs", source)


def write_source(folder: Path, photographs: Iterator[tuple[str, bytes]]) -> None:
    """The photographs in the released layout, divided among CLASSES cultivars and both splits, with exact masks."""
    for name in ("images", "anno", *(f"masks/{region}" for region in PAPER_REGIONS)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, (ending, content) in enumerate(photographs):
        label, k = number % CLASSES + 1, number // CLASSES
        split = "test" if k % TEST_SHARE == TEST_SHARE - 1 else "train"
        stem = f"{label}_{k + 1}_{split}"
        (folder / "images" / f"{stem}{ending}").write_bytes(content)
        lists[split].append(f"{stem}{ending} {label}\n")
        about = inspect(content)
        for region, mask in zip(PAPER_REGIONS, synthetic_masks(about.height, about.width), strict=True):
            (folder / "masks" / region / f"{stem}.png").write_bytes(encode_mask(mask))
    for split, lines in lists.items():
        (folder / "anno" / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"cultivar-{i + 1}\n" for i in range(CLASSES)), encoding="utf-8")


def synthetic_masks(height: int, width: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(vein, contour), each (height, width): a midrib with side veins, and a band along the outline."""
    vein, contour = Image.new("1", (width, height)), Image.new("1", (width, height))
    thick = max(1, height // 100)
    pen = ImageDraw.Draw(vein)
    pen.line((width * 0.1, height / 2, width * 0.9, height / 2), fill=1, width=2 * thick)
    for at in np.linspace(0.15, 0.8, 14):
        for end in (0.15, 0.85):
            pen.line((width * at, height / 2, width * (at + 0.12), height * end), fill=1, width=thick)
    ImageDraw.Draw(contour).ellipse(
        (width * 0.07, height * 0.07, width * 0.93, height * 0.93), outline=1, width=4 * thick
    )
    return np.asarray(vein, bool), np.asarray(contour, bool)


def read_encoded(dataset: Dataset) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """The training photographs and their two masks as stored, in the order of the split."""
    images: list[bytes] = []
    masks: list[tuple[bytes, bytes]] = []
    for chunk in list_chunks(dataset, "train", MASKS):
        assert chunk.masks is not None
        images += read_parquet_rows(dataset.store, chunk.images, chunk.start, chunk.stop, ["image"])[
            "image"
        ].to_pylist()
        rows = read_parquet_rows(dataset.store, chunk.masks, chunk.start, chunk.stop, list(dataset.regions))
        masks += list(zip(*(rows[region].to_pylist() for region in dataset.regions), strict=True))
    return images, masks
