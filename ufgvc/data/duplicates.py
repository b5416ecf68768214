"""The same picture in two files, however it was saved, resized, turned or mirrored: found by what it looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ufgvc.data.images import SKETCH

_SIDE, _HASH, _CELLS = 32, 16, 8  # sides of the thumbnail, of the hash (in bits) and of the grid of mean colours
# Bounds for two files of one picture, measured on 265 real leaves and 4640 synthetic ones of 128 pixels, all upright on white. Copies that
# were saved again (JPEG quality 30 to 75) or resized (96 pixels to 1.5 times) differ by at most 28 bits, 0.05 and 2.2 levels, those of the
# real leaves by 6, 0.02 and 1.5. Different leaves are at least 0.26 (real) and 0.10 (synthetic) apart.
_MAX_BITS, _MAX_DISTANCE, _MAX_LEVELS = 72, 0.05, 2.5
_RINGS, _MAX_RING = 8, 3.0  # grey levels: those copies differ by at most 1.8 in a ring's mean or deviation
_MIN_CONTRAST = 3.0  # grey levels: plain surfaces all look alike
_BLOCK = 4096


@dataclass(frozen=True)
class Looks:
    """What N photographs look like, 1.2 kilobytes each.

    hashes: (N, 32) uint8, packed bits.  thumbnails: (N, 32, 32) uint8 grey.  colours: (N, 8, 8, 3) uint8 mean sRGB of the cells of a grid.
    """

    hashes: np.ndarray
    thumbnails: np.ndarray
    colours: np.ndarray

    @staticmethod
    def of(sketches: Sequence[np.ndarray]) -> Looks:
        """From (64, 64, 3) uint8 pictures, as images.inspect_with_sketch makes them."""
        grey = [Image.fromarray(sketch).convert("L") for sketch in sketches]
        bits = [imagehash.phash(picture, _HASH).hash for picture in grey]
        hashes = np.packbits(np.array(bits, bool).reshape(-1, _HASH**2), axis=1)
        thumbnails = _shrunk(
            np.array([np.asarray(picture) for picture in grey], np.uint8).reshape(-1, SKETCH, SKETCH, 1), _SIDE
        )
        colours = _shrunk(np.array(sketches, np.uint8).reshape(-1, SKETCH, SKETCH, 3), _CELLS)
        return Looks(hashes, thumbnails[..., 0], colours)

    @staticmethod
    def joined(several: Sequence[Looks]) -> Looks:
        names = ("hashes", "thumbnails", "colours")
        return Looks(*(np.concatenate([getattr(one, name) for one in several]) for name in names))


def groups_of_duplicates(looks: Looks, digests: Sequence[str]) -> list[list[int]]:
    """Positions of the photographs that show one picture, for each picture that occurs more than once.

    digests: of the files; equal ones are duplicates whatever they look like.
    """
    pairs = list(_near_pairs(looks))
    first: dict[str, int] = {}
    pairs += [(first.setdefault(digest, k), k) for k, digest in enumerate(digests)]
    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    _, labels = connected_components(
        coo_array((np.ones(len(a), bool), (a, b)), shape=(len(digests), len(digests))), directed=False
    )
    groups: dict[int, list[int]] = {}
    for position, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(looks: Looks) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes agree nearly in one of the eight ways to turn and mirror a picture, and whose thumbnails confirm it.

    Only pairs whose square rings about the middle are alike are compared at all: no turn changes a ring's mean and deviation.
    """
    rings = _rings(looks.thumbnails)
    usable = np.flatnonzero(rings[:, _RINGS:].max(axis=1, initial=0) >= _MIN_CONTRAST)
    if not len(usable):
        return
    tree = cKDTree(rings[usable])
    for start in range(0, len(usable), _BLOCK):
        rows = usable[start : start + _BLOCK]
        close = tree.query_ball_point(rings[rows], _MAX_RING, p=np.inf)
        a = np.repeat(np.arange(len(rows)), [len(one) for one in close])
        b = usable[np.concatenate([np.asarray(one, int) for one in close])]
        a, b = a[rows[a] < b], b[rows[a] < b]
        for way in range(8):
            hashes = _turned_hashes(looks.hashes[rows], way)
            bits = np.concatenate(
                [np.bitwise_count(hashes[a[k]] ^ looks.hashes[b[k]]).sum(axis=1) for k in _blocks(len(a))]
            )
            near = np.flatnonzero(bits <= _MAX_BITS)
            for k in _blocks(len(near)):
                yield from _confirmed(looks, rows[a[near[k]]], b[near[k]], way)


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, max(count, 1), _BLOCK)]


def _confirmed(looks: Looks, a: np.ndarray, b: np.ndarray, way: int) -> Iterator[tuple[int, int]]:
    """Those of the pairs (a[k], b[k]) that show one picture if the first is turned."""
    x, y = _turned(looks.thumbnails[a], way).astype(np.float32), looks.thumbnails[b].astype(np.float32)
    x, y = ((z - z.mean(axis=(1, 2), keepdims=True)) / z.std(axis=(1, 2), keepdims=True) for z in (x, y))
    distance = np.sqrt(((x - y) ** 2).mean(axis=(1, 2)))
    x, y = _turned(looks.colours[a], way).astype(np.float32), looks.colours[b].astype(np.float32)
    levels = np.sqrt(((x - y) ** 2).mean(axis=(1, 2, 3)))
    same = (distance <= _MAX_DISTANCE) & (levels <= _MAX_LEVELS)
    return zip(a[same].tolist(), b[same].tolist(), strict=True)


def _shrunk(pictures: np.ndarray, side: int) -> np.ndarray:
    """(N, S, S, C) uint8 -> (N, side, side, C) uint8: means of squares."""
    step = pictures.shape[1] // side
    parts = [pictures[:, row::step, column::step].astype(np.uint16) for row in range(step) for column in range(step)]
    return ((sum(parts) + step**2 // 2) // step**2).astype(np.uint8)


def _rings(thumbnails: np.ndarray) -> np.ndarray:
    """(N, S, S) -> (N, 2 x _RINGS): the mean of every ring, and its deviation."""
    from_middle = np.abs(np.arange(_SIDE) - (_SIDE - 1) / 2)
    ring = (np.maximum.outer(from_middle, from_middle) * 2 * _RINGS / _SIDE).astype(int)
    parts = [thumbnails[:, ring == k] for k in range(_RINGS)]
    return np.stack([part.mean(axis=1) for part in parts] + [part.std(axis=1) for part in parts], axis=1)


def _turned(pictures: np.ndarray, way: int) -> np.ndarray:
    """(N, S, S, ...) square pictures. way: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 then swaps rows and columns."""
    pictures = pictures[:, :, ::-1] if way & 1 else pictures
    pictures = pictures[:, ::-1] if way & 2 else pictures
    return pictures.swapaxes(1, 2) if way & 4 else pictures


def _turned_hashes(hashes: np.ndarray, way: int) -> np.ndarray:
    """The hashes (N, 32) of pictures turned so: mirroring changes the sign of every odd frequency of a cosine transform."""
    bits = np.unpackbits(hashes, axis=1).reshape(-1, _HASH, _HASH)
    odd = np.arange(_HASH, dtype=np.uint8) % 2
    bits = bits ^ odd if way & 1 else bits
    bits = bits ^ odd[:, None] if way & 2 else bits
    bits = bits.swapaxes(1, 2) if way & 4 else bits
    return np.packbits(bits.reshape(-1, _HASH**2), axis=1)
