"""Cutting photographs into train and test: stratified by cultivar, and a plant's photographs stay together."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from ufgvc.data.readers.listing import Photo


def split_photos(photos: list[Photo], test_share: float, seed: int) -> None:
    """Sets `split` of every photograph that has none.

    test_share: share of each cultivar's photographs that become test, in (0, 1). The draw depends on the seed and the names only.
    A cultivar of two plants (or photographs without a plant) or more gets at least one on each side.
    """
    units: dict[tuple[str, str], list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.split is None:
            units[("group", photo.group) if photo.group else ("photo", photo.image_id)].append(photo)
    by_label: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for key, members in units.items():
        by_label[min(photo.label for photo in members)].append(key)
    for keys in by_label.values():
        keys.sort(key=lambda key: _draw(seed, key))
        target, taken = test_share * sum(len(units[key]) for key in keys), 0
        tested: set[tuple[str, str]] = set()
        for key in keys:
            # A plant goes to test if that brings the count nearer to the target.
            if taken + len(units[key]) / 2 <= target:
                tested.add(key)
                taken += len(units[key])
        smallest = min(keys, key=lambda key: len(units[key]))
        if len(keys) > 1 and len(tested) in (0, len(keys)):
            tested ^= {smallest}
        if len(keys) == 1:
            tested.clear()  # what cannot be cut is for training
        for key in keys:
            for photo in units[key]:
                photo.split = "test" if key in tested else "train"


def _draw(seed: int, key: tuple[str, str]) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key[0]}\0{key[1]}".encode(), digest_size=16).digest()
