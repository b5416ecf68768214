"""Samples the traits of leaves: of the cultivar, and the variation by plant, position on the plant and leaf.

A trait is a number without a unit, about N(0, 1) over cultivars. Shape, veins and texture have random generators of
their own, so that they are independent.
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

# Standard deviations between cultivars, and within a cultivar between plants, positions on the plant, and leaves.
BETWEEN = {"shape": 1.0, "veins": 1.0, "texture": 1.0}
PLANT = {"shape": 0.25, "veins": 0.22, "texture": 0.32}
POSITION = {"shape": 0.30, "veins": 0.22, "texture": 0.35}
LEAF = {"shape": 0.40, "veins": 0.35, "texture": 0.40}
FREEDOM = 4.0  # degrees of freedom of Student's t: heavy tails, as of real leaves
LIMIT = 3.2  # traits are squashed to (-LIMIT, LIMIT) by tanh

# First numbers of the seed sequences, so that generators for different purposes are independent.
_CULTIVAR, _PLANT, _POSITION, _LEAF, NUISANCE, DRAWING = range(1, 7)


@dataclass(frozen=True)
class Traits:
    """The traits of one leaf: shape (12,), veins (10,) and texture (12,), float64."""

    shape: np.ndarray
    veins: np.ndarray
    texture: np.ndarray


def rng_for(*key: int) -> np.random.Generator:
    """A random generator seeded by a key of integers, the same in every process."""
    return np.random.default_rng(np.random.SeedSequence(key))


def plant_and_position(k: int) -> tuple[int, str]:
    """(plant number, position) of leaf k (1-based).

    Odd (train) and even (test) leaves never share a plant; a plant has one leaf of each position.
    """
    pair = (k - 1) // 2
    return 2 * (pair // len(POSITIONS)) + (k - 1) % 2, POSITIONS[pair % len(POSITIONS)]


def sample_traits(seed: int, cultivar: int, k: int, variant: Variant, difficulty: float = 1.0) -> Traits:
    """The traits of leaf k of a cultivar (both 1-based).

    variant: "all", or the only space in which cultivars differ.  difficulty: > 0, divides the standard deviation
    between cultivars; the variation within a cultivar does not change.
    """
    plant, position = plant_and_position(k)
    vectors = []
    for index, space in enumerate(SPACES):
        size = DIMENSIONS[space]
        between = BETWEEN[space] / difficulty if variant in ("all", _ONLY[space]) else 0.0
        value = between * _student(rng_for(_CULTIVAR, seed, index, cultivar), size)
        value = value + PLANT[space] * rng_for(_PLANT, seed, index, cultivar, plant).standard_normal(size)
        value = value + POSITION[space] * rng_for(_POSITION, seed, index, POSITIONS.index(position)).standard_normal(
            size
        )
        value = value + LEAF[space] * _student(rng_for(_LEAF, seed, index, cultivar, k), size)
        vectors.append(LIMIT * np.tanh(value / LIMIT))
    return Traits(*vectors)


def _student(rng: np.random.Generator, size: int) -> np.ndarray:
    """Samples of Student's t, scaled to unit variance."""
    return rng.standard_t(FREEDOM, size) * np.sqrt((FREEDOM - 2) / FREEDOM)
