"""Finds files that show the same image, also when it was saved again, resized, rotated by a right angle or mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ufgvc.data.resize import THUMBNAIL_SIDE

_GREY_SIDE, _HASH_SIDE, _COLOUR_SIDE = 32, 16, 8  # pixels of the grey thumbnail, bits of the hash, cells of mean colour
# Bounds for two files of one image, measured on 265 real leaves and 4640 synthetic ones of 128 pixels, all upright on
# white. Copies that were saved again (JPEG quality 30 to 75) or resized (96 pixels to 1.5 times) differ by at most
# 28 bits, 0.05 and 2.2 levels, those of the real leaves by 6, 0.02 and 1.5. Different leaves are at least 0.26 (real)
# and 0.10 (synthetic) apart.
_MAX_BITS, _MAX_DISTANCE, _MAX_LEVELS = 72, 0.05, 2.5
_RINGS, _MAX_RING = 8, 3.0  # grey levels; those copies differ by at most 1.8 in a ring's mean or deviation
_MIN_CONTRAST = 3.0  # grey levels; plain surfaces all look alike
_BLOCK = 4096
_QUERIES = 512  # images whose neighbours are looked up at a time
_THUMBNAILS = 256  # held at a time
_WINDOW = 1 << 13  # images whose ring statistics are in memory at a time, at least
SIGNATURE_SHAPES = {
    "hashes": (_HASH_SIDE**2 // 8,),
    "thumbnails": (_GREY_SIDE, _GREY_SIDE),
    "colours": (_COLOUR_SIDE, _COLOUR_SIDE, 3),
}


@dataclass(frozen=True)
class ImageSignatures:
    """What N images are compared by, 1.2 kilobytes each.

    hashes: (N, 32) uint8, the packed bits of a perceptual hash.  thumbnails: (N, 32, 32) uint8 grey.
    colours: (N, 8, 8, 3) uint8, mean sRGB of the cells of a grid.
    """

    hashes: np.ndarray
    thumbnails: np.ndarray
    colours: np.ndarray

    @staticmethod
    def from_thumbnails(images: Sequence[np.ndarray]) -> ImageSignatures:
        """Computes the signatures of (64, 64, 3) uint8 images from `images.inspect_with_thumbnail`."""
        grey = [Image.fromarray(image).convert("L") for image in images]
        bits = [imagehash.phash(image, _HASH_SIDE).hash for image in grey]
        hashes = np.packbits(np.array(bits, bool).reshape(-1, _HASH_SIDE**2), axis=1)
        pixels = np.array([np.asarray(image) for image in grey], np.uint8)
        thumbnails = _mean_pool(pixels.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 1), _GREY_SIDE)
        colours = _mean_pool(np.array(images, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), _COLOUR_SIDE)
        return ImageSignatures(hashes, thumbnails[..., 0], colours)

    @staticmethod
    def concatenate(several: Sequence[ImageSignatures]) -> ImageSignatures:
        """One object with the images of all, in order."""
        return ImageSignatures(*(np.concatenate([getattr(one, name) for one in several]) for name in SIGNATURE_SHAPES))


class SignatureList:
    """Collects the signatures of thumbnails without keeping these, which are ten times as large."""

    def __init__(self) -> None:
        self._waiting: list[np.ndarray] = []
        self._done: list[ImageSignatures] = []

    def add(self, thumbnail: np.ndarray) -> None:
        """thumbnail: (64, 64, 3) uint8."""
        self._waiting.append(thumbnail)
        if len(self._waiting) == _THUMBNAILS:
            self._done.append(ImageSignatures.from_thumbnails(self._waiting))
            self._waiting = []

    def all(self) -> ImageSignatures:
        """Those of all thumbnails, in order."""
        return ImageSignatures.concatenate([*self._done, ImageSignatures.from_thumbnails(self._waiting)])


def find_duplicates(signatures: ImageSignatures, digests: Sequence[str]) -> list[list[int]]:
    """Indices of the files that show the same image, one list for each image that occurs more than once.

    digests: hashes of the N files; files with equal digests are duplicates in any case.
    """
    pairs = [*_similar_pairs(signatures), *_equal_pairs(digests)]
    images, ends = np.unique(np.array(pairs, int).reshape(-1, 2), return_inverse=True)
    a, b = ends.reshape(-1, 2).T
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(images), len(images)))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for index, label in zip(images.tolist(), labels.tolist(), strict=True):
        groups.setdefault(label, []).append(index)
    return list(groups.values())


def _equal_pairs(digests: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first, other) of equal digests. Only those that may be equal are kept as texts."""
    hashes = np.fromiter(map(hash, digests), np.int64, len(digests))
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    first: dict[str, int] = {}
    for index in np.unique(np.concatenate([order[same], order[same + 1]])).tolist():
        found = first.setdefault(digests[index], index)
        if found != index:
            yield found, index


def _similar_pairs(signatures: ImageSignatures) -> Iterator[tuple[int, int]]:
    """Pairs with similar hashes in one of the eight orientations of an image, confirmed by thumbnails and colours.

    Only pairs with similar square rings about the centre are compared: no orientation changes the mean and deviation of
    a ring.
    """
    for a, b in _candidates(signatures):
        for orientation in range(8):
            for k in _blocks(len(a)):
                hashes = _orient_hashes(signatures.hashes[a[k]], orientation)
                bits = np.bitwise_count(hashes ^ signatures.hashes[b[k]]).sum(axis=1)
                near = np.flatnonzero(bits <= _MAX_BITS)
                yield from _confirmed_pairs(signatures, a[k][near], b[k][near], orientation)


def _candidates(signatures: ImageSignatures) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Arrays of pairs (a, b), a < b, each pair once, whose ring statistics differ by at most _MAX_RING.

    Sorted by one of the statistics, images are taken a window at a time: a tree of the window is asked for the
    neighbours of its own images and of those that follow within _MAX_RING.
    """
    key, usable = _sort_key(signatures)
    order = usable[np.argsort(key[usable], kind="stable")]
    window = max(_WINDOW, len(order) // 32)
    for start in range(0, len(order), window):
        inside = order[start : start + window]
        tree = cKDTree(_ring_statistics(signatures, inside))
        stop = start + int(np.searchsorted(key[order[start:]], key[inside[-1]] + _MAX_RING, side="right"))
        for begin in range(start, stop, _QUERIES):
            rows = order[begin : min(begin + _QUERIES, stop)]
            close = tree.query_ball_point(_ring_statistics(signatures, rows), _MAX_RING, p=np.inf)
            places = np.repeat(np.arange(begin, begin + len(rows)), [len(one) for one in close])
            found = np.fromiter(chain.from_iterable(close), np.int64) + start
            a, b = order[places[found < places]], order[found[found < places]]
            yield np.minimum(a, b), np.maximum(a, b)


def _sort_key(signatures: ImageSignatures) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the ring statistic that varies most, and the images that are not plain."""
    count = len(signatures.hashes)
    sample = _ring_statistics(signatures, np.linspace(0, count - 1, min(count, _BLOCK)).astype(int))
    widest = int(sample.std(axis=0).argmax()) if count else 0
    key, has_contrast = np.empty(count), np.empty(count, bool)
    for rows in _blocks(count):
        rings = _ring_statistics(signatures, np.arange(rows.start, min(rows.stop, count)))
        key[rows], has_contrast[rows] = rings[:, widest], rings[:, _RINGS:].max(axis=1, initial=0) >= _MIN_CONTRAST
    return key, np.flatnonzero(has_contrast)


def _blocks(count: int, size: int = _BLOCK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _confirmed_pairs(
    signatures: ImageSignatures, a: np.ndarray, b: np.ndarray, orientation: int
) -> Iterator[tuple[int, int]]:
    """Those of the pairs (a[k], b[k]) that show the same image once the first is brought to the orientation."""
    x = _orient(signatures.thumbnails[a], orientation).astype(np.float32)
    y = signatures.thumbnails[b].astype(np.float32)
    x, y = ((z - z.mean(axis=(1, 2), keepdims=True)) / z.std(axis=(1, 2), keepdims=True) for z in (x, y))
    distance = np.sqrt(((x - y) ** 2).mean(axis=(1, 2)))
    x = _orient(signatures.colours[a], orientation).astype(np.float32)
    y = signatures.colours[b].astype(np.float32)
    levels = np.sqrt(((x - y) ** 2).mean(axis=(1, 2, 3)))
    same = (distance <= _MAX_DISTANCE) & (levels <= _MAX_LEVELS)
    return zip(a[same].tolist(), b[same].tolist(), strict=True)


def _mean_pool(images: np.ndarray, side: int) -> np.ndarray:
    """(N, S, S, C) uint8 -> (N, side, side, C) uint8, rounded means; S is a multiple of `side`."""
    step = images.shape[1] // side
    parts = [images[:, row::step, column::step].astype(np.uint16) for row in range(step) for column in range(step)]
    return ((sum(parts) + step**2 // 2) // step**2).astype(np.uint8)


def _ring_statistics(signatures: ImageSignatures, rows: np.ndarray) -> np.ndarray:
    """(n, 2 x _RINGS) of some images: the mean of every square ring about the centre, then its standard deviation."""
    from_centre = np.abs(np.arange(_GREY_SIDE) - (_GREY_SIDE - 1) / 2)
    ring = (np.maximum.outer(from_centre, from_centre) * 2 * _RINGS / _GREY_SIDE).astype(int)
    found = np.empty((len(rows), 2 * _RINGS))
    for block in _blocks(len(rows), _QUERIES):
        thumbnails = signatures.thumbnails[rows[block]]
        for k in range(_RINGS):
            part = thumbnails[:, ring == k]
            found[block, k], found[block, _RINGS + k] = part.mean(axis=1), part.std(axis=1)
    return found


def _orient(images: np.ndarray, orientation: int) -> np.ndarray:
    """(N, S, S, ...).  orientation: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 then transposes."""
    images = images[:, :, ::-1] if orientation & 1 else images
    images = images[:, ::-1] if orientation & 2 else images
    return images.swapaxes(1, 2) if orientation & 4 else images


def _orient_hashes(hashes: np.ndarray, orientation: int) -> np.ndarray:
    """The hashes (N, 32) of images in another orientation: mirroring negates odd frequencies of a cosine transform."""
    bits = np.unpackbits(hashes, axis=1).reshape(-1, _HASH_SIDE, _HASH_SIDE)
    odd = np.arange(_HASH_SIDE, dtype=np.uint8) % 2
    bits = bits ^ odd if orientation & 1 else bits
    bits = bits ^ odd[:, None] if orientation & 2 else bits
    bits = bits.swapaxes(1, 2) if orientation & 4 else bits
    return np.packbits(bits.reshape(-1, _HASH_SIDE**2), axis=1)
