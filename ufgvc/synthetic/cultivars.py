"""Where each cultivar lies in its three spaces, and what its plants and leaves add to that.

A trait is a number without a unit, about N(0, 1) over cultivars. Shape, veins and texture are drawn from streams of their own,
so that what is known of one space tells nothing of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Variant = Literal["all", "vein_only", "shape_only", "texture_only"]
SPACES = ("shape", "veins", "texture")
_ONLY = {"shape": "shape_only", "veins": "vein_only", "texture": "texture_only"}
DIMENSIONS = {"shape": 12, "veins": 10, "texture": 12}
POSITIONS = ("upper", "middle", "lower")

# Spread of the cultivars, and within a cultivar of the plants, the leaf's position on the plant, and the leaf. In the same unit.
BETWEEN = {"shape": 1.0, "veins": 1.0, "texture": 1.0}
PLANT = {"shape": 0.25, "veins": 0.22, "texture": 0.32}
POSITION = {"shape": 0.30, "veins": 0.22, "texture": 0.35}
LEAF = {"shape": 0.40, "veins": 0.35, "texture": 0.40}
FREEDOM = 4.0  # of Student's t: single cultivars and leaves lie far out, as real ones do
LIMIT = 3.2

# The first number of every seed sequence: streams with another first number have nothing in common.
_CULTIVAR, _PLANT, _POSITION, _LEAF, NUISANCE, DRAWING = range(1, 7)


@dataclass(frozen=True)
class Traits:
    """What one leaf is: for each space a vector of traits, (12,), (10,) and (12,) float64."""

    shape: np.ndarray
    veins: np.ndarray
    texture: np.ndarray


def stream(*key: int) -> np.random.Generator:
    """The random stream of a key of whole numbers: the same on every worker and in every order."""
    return np.random.default_rng(np.random.SeedSequence(key))


def plant_of(k: int) -> tuple[int, str]:
    """Plant and position of leaf k (1-based). Odd and even leaves never share a plant; a plant gives one leaf of each position."""
    place = (k - 1) // 2
    return 2 * (place // len(POSITIONS)) + (k - 1) % 2, POSITIONS[place % len(POSITIONS)]


def traits(seed: int, cultivar: int, k: int, variant: Variant, difficulty: float = 1.0) -> Traits:
    """The traits of leaf k of a cultivar (both 1-based). In the variants only one space differs between cultivars.

    difficulty (> 0) divides the spread of the cultivars and leaves that within a cultivar as it is.
    """
    plant, position = plant_of(k)
    vectors = []
    for index, space in enumerate(SPACES):
        size = DIMENSIONS[space]
        told = BETWEEN[space] / difficulty if variant in ("all", _ONLY[space]) else 0.0
        value = told * _student(stream(_CULTIVAR, seed, index, cultivar), size)
        value = value + PLANT[space] * stream(_PLANT, seed, index, cultivar, plant).standard_normal(size)
        value = value + POSITION[space] * stream(_POSITION, seed, index, POSITIONS.index(position)).standard_normal(
            size
        )
        value = value + LEAF[space] * _student(stream(_LEAF, seed, index, cultivar, k), size)
        vectors.append(LIMIT * np.tanh(value / LIMIT))
    return Traits(*vectors)


def _student(rng: np.random.Generator, size: int) -> np.ndarray:
    """Student's t scaled to unit variance."""
    return rng.standard_t(FREEDOM, size) * np.sqrt((FREEDOM - 2) / FREEDOM)
