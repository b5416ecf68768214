"""Photographs for `ufgvc bench`: drawn or the user's own, written as a source, and decoded exactly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.factories import put
from ufgvc.bench import dataset, reading
from ufgvc.core.errors import UserError


def test_drawn_photographs_are_as_large_as_they_are_said_to_be() -> None:
    drawn = list(dataset.synthetic_photographs(3, seed=0))
    assert len({content for _, content in drawn}) == 3
    for ending, content in drawn:
        assert ending == ".jpg"
        assert 150_000 < len(content) < 250_000
        assert Image.open(io.BytesIO(content)).size == (1200, 900)


def test_own_photographs_are_spread_over_the_listing_without_doubles_and_unreadable_files(tmp_path: Path) -> None:
    for k in range(40):
        put(tmp_path / f"{k:02d}.jpg", None if k % 2 else b"broken")
    put(tmp_path / "40.jpg", (tmp_path / "01.jpg").read_bytes())
    taken = list(dataset.own_photographs(str(tmp_path), 18))
    assert len(taken) == len({content for _, content in taken}) == 18
    for place in range(1, 11, 2):
        (tmp_path / f"{place:02d}.jpg").write_bytes(b"broken")
    (tmp_path / "40.jpg").unlink()
    with pytest.raises(UserError, match="holds 15 different readable photographs"):
        list(dataset.own_photographs(str(tmp_path), 18))


def test_the_source_has_both_splits_of_every_cultivar_and_masks_of_the_photographs_size(tmp_path: Path) -> None:
    def photographs() -> Iterator[tuple[str, bytes]]:
        for k in range(16):
            yield ".jpg", put(tmp_path / "own" / f"{k}.jpg").read_bytes()

    dataset.write_source(tmp_path / "leaves", photographs())
    lines = {
        split: (tmp_path / "leaves" / "anno" / f"{split}.txt").read_text().splitlines() for split in ("train", "test")
    }
    assert {split: sorted({line.split()[1] for line in found}) for split, found in lines.items()} == {
        "train": ["1", "2", "3", "4"],
        "test": ["1", "2", "3", "4"],
    }
    assert len(lines["train"]) == 12
    vein = Image.open(tmp_path / "leaves" / "masks" / "vein" / "1_1_train.png")
    assert (vein.mode, vein.size) == ("1", (60, 40))


def test_the_fast_way_reads_the_pixels_of_the_plain_one_within_a_grey_level() -> None:
    (_, image), masks = next(dataset.synthetic_photographs(1, seed=0)), dataset.synthetic_masks(900, 1200)
    encoded = [dataset.encode_mask(mask) for mask in masks]
    name, decoder = reading.fastest_exact_decoder([image, image], seed=0)
    plain, fast = reading.plain_sample(image, encoded), reading.fast_sample(decoder, image, encoded)
    difference = np.abs(plain[0].permute(1, 2, 0).numpy() * 255 - fast[0])
    assert difference.max() <= 1 + 1e-3, name
    assert fast[1].shape == (512, 64)


def test_a_decoder_that_changes_pixels_or_cannot_read_them_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading.decoders()["Pillow"]

    def broken(image: bytes) -> Any:
        raise RuntimeError("not a JPEG")

    known = {"Pillow": whole, "darker": lambda image: whole(image) // 2, "broken": broken}
    monkeypatch.setattr(reading, "decoders", lambda: known)
    (_, image) = next(dataset.synthetic_photographs(1, seed=0))
    assert reading.fastest_exact_decoder([image], seed=0)[0] == "Pillow"
