"""Grows veins of three orders in a blade: primaries to its tips, secondaries from them, tertiaries between these.

`render.py` draws them and their masks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ufgvc.synthetic.outline import Blade, midrib_bend

_GRID = 384  # side of the raster that tests whether a point is on the blade
_EXTENT = 0.8  # the raster covers [-0.8, 0.8] in x and y
_STEP = 0.007  # of a growing secondary, in image sides


@dataclass(frozen=True)
class Vein:
    """order: 1 to 3.  path: (N, 2) in the outline's frame.  width: at start and end, in pixels of a 512 px image."""

    order: int
    path: np.ndarray
    width: tuple[float, float]


def grow_veins(blade: Blade, t: np.ndarray, rng: np.random.Generator) -> list[Vein]:
    """All veins of a blade.  t: (10,) vein traits.  rng: for the variation of this leaf."""
    inside = _raster(blade.outline)
    strong, branch = np.exp(0.13 * t[6]), np.exp(0.12 * t[7])
    primaries = _primaries(blade, t, rng)
    taper = np.clip(0.30 + 0.07 * t[8], 0.12, 0.6)
    longest = max(_length(path) for path in primaries)
    veins = [
        Vein(1, path, (3.2 * strong * (_length(path) / longest) ** 0.5, 3.2 * strong * taper)) for path in primaries
    ]
    families = _secondaries(blade, primaries, inside, t, rng)
    for family in families:
        veins += [Vein(2, path, (1.9 * strong * branch, 0.95 * strong * branch)) for path in family]
    rungs = [_tertiaries(family, t, rng) for family in families] + [_fan(primaries, t, rng)] * blade.palmate
    for paths in rungs:
        veins += [Vein(3, path, (1.05 * strong, 0.85 * strong)) for path in paths]
    return veins


def _primaries(blade: Blade, t: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    u = np.linspace(0, 1, 48)[:, None]
    if not blade.palmate:
        y = np.linspace(0.0, blade.tips[0, 1] * 0.992, 48)
        x = midrib_bend(blade, y)
        return [np.stack([x - x[0] * (1 - y / y[-1]), y], 1)]
    paths = []
    for index, tip in enumerate(blade.tips):
        across = np.array([tip[1], -tip[0]])
        outward = 0 if index == 0 else (1 if tip[0] < 0 else -1)
        sag = (0.045 + 0.02 * t[2]) * outward + 0.018 * rng.standard_normal()
        paths.append(u * tip * 0.985 + across * (sag * 4 * u * (1 - u)))
    return paths


def _secondaries(
    blade: Blade, primaries: list[np.ndarray], inside: np.ndarray, t: np.ndarray, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """The secondaries of each side of each primary, from base to tip, one list a side."""
    spacing = (0.078 if blade.palmate else 0.055) * np.exp(0.21 * t[0])
    angle = np.deg2rad((50 if blade.palmate else 54) + 6.5 * t[1])
    turn = (1.1 if blade.palmate else 2.4) * np.exp(0.32 * t[2])
    shift = 0.5 * (1 / (1 + np.exp(-1.3 * t[3])))  # 0: veins leave in pairs; 0.5: in turn
    starts, headings, signs, owners = [], [], [], []
    for index, path in enumerate(primaries):
        along = np.append(0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
        for sign in (-1, 1):
            first = spacing * (0.95 if blade.palmate else 0.55) + (spacing * shift if sign > 0 else 0)
            if blade.palmate:
                first += along[-1] * (0.16 if index == 0 else 0.10)
            at = np.arange(first, along[-1] * 0.965, spacing)
            at = at + 0.10 * spacing * rng.standard_normal(len(at))
            tangent = np.stack([np.interp(at, along, np.gradient(path[:, i], along)) for i in (0, 1)], 1)
            ahead = np.arctan2(tangent[:, 1], tangent[:, 0])
            starts.append(np.stack([np.interp(at, along, path[:, i]) for i in (0, 1)], 1))
            rank = np.linspace(1.12 if blade.palmate else 1.28, 0.86, len(at)) if len(at) else at
            headings.append(ahead + sign * (angle * rank + np.deg2rad(2.2) * rng.standard_normal(len(at))))
            signs.append(np.full(len(at), sign))
            owners.append(np.full(len(at), index))
    sizes = [len(part) for part in starts]
    point, heading, side, owner = (np.concatenate(parts) for parts in (starts, headings, signs, owners))
    paths = _walk(point, heading, side, owner, primaries, inside, turn, t[9], rng)
    ends = np.cumsum(sizes).tolist()
    return [[path for path in paths[end - size : end] if len(path) > 4] for size, end in zip(sizes, ends, strict=True)]


def _walk(
    point: np.ndarray,
    heading: np.ndarray,
    sign: np.ndarray,
    owner: np.ndarray,
    primaries: list[np.ndarray],
    inside: np.ndarray,
    turn: float,
    wavy: float,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Grows all secondaries, each until it leaves the blade or is nearer to another primary than to its own."""
    knots = np.concatenate(primaries)
    belongs = np.repeat(np.arange(len(primaries)), [len(path) for path in primaries])
    phase, pace = rng.uniform(0, 2 * np.pi, len(point)), rng.uniform(25, 60, len(point))
    alive = np.ones(len(point), dtype=bool)
    trail, ends = [point.copy()], np.ones(len(point), dtype=int)
    for step in range(90):
        bend = -sign * turn * (0.35 + step * _STEP * 4) + 3.0 * np.exp(0.2 * wavy) * np.sin(phase + pace * step * _STEP)
        heading = heading + bend * _STEP
        point = point + _STEP * np.stack([np.cos(heading), np.sin(heading)], 1)
        alive &= _is_on_blade(inside, point)
        if len(primaries) > 1 and step > 3:
            nearest = ((point[:, None] - knots[None]) ** 2).sum(2).argmin(1)
            alive &= belongs[nearest] == owner
        trail.append(point)
        ends[alive] = step + 2
        if not alive.any():
            break
    whole = np.stack(trail, 1)
    return [whole[i, : ends[i]] for i in range(len(whole))]


def _tertiaries(family: list[np.ndarray], t: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Tertiaries between neighbouring secondaries."""
    gap, slant = 0.024 * np.exp(-0.24 * t[4]), 0.012 + 0.009 * t[5]
    rungs = []
    for lower, upper in itertools.pairwise(family):
        reach = min(_length(lower), _length(upper))
        count = int(reach / gap)
        for number in range(1, count + 1):
            a = (number + 0.2 * rng.standard_normal()) * gap
            b = a + slant + 0.006 * rng.standard_normal()
            rungs.append(_rung(_at(lower, a), _at(upper, b), 0.0, rng))
    return rungs


def _fan(primaries: list[np.ndarray], t: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Tertiary arcs between neighbouring primaries near the base, below the first secondaries."""
    gap = 0.024 * np.exp(-0.24 * t[4])
    order = sorted(range(len(primaries)), key=lambda i: np.arctan2(primaries[i][-1, 0], primaries[i][-1, 1]))
    arcs = []
    for left, right in itertools.pairwise(order):
        for number in range(2, int(0.165 / gap) + 1):
            ends = []
            for path in (primaries[left], primaries[right]):
                step = _length(path) / (len(path) - 1)
                ends.append(_at(path, (number + 0.2 * rng.standard_normal()) * gap, step))
            arcs.append(_rung(ends[0], ends[1], 0.12, rng))
    return arcs


def _rung(start: np.ndarray, stop: np.ndarray, bow: float, rng: np.random.Generator) -> np.ndarray:
    u = np.linspace(0, 1, 7)[:, None]
    across = np.array([start[1] - stop[1], stop[0] - start[0]])
    sag = bow + 0.07 * rng.standard_normal()
    return (
        start
        + (stop - start) * u
        + across * (sag * 4 * u * (1 - u) + 0.04 * rng.standard_normal() * np.sin(2 * np.pi * u))
    )


def _at(path: np.ndarray, distance: float, step: float = _STEP) -> np.ndarray:
    place = np.clip(distance / step, 0, len(path) - 1)
    low = int(place)
    high = min(low + 1, len(path) - 1)
    return path[low] + (path[high] - path[low]) * (place - low)


def _length(path: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def _raster(outline: np.ndarray) -> np.ndarray:
    image = Image.new("1", (_GRID, _GRID))
    ImageDraw.Draw(image).polygon([tuple(p) for p in ((outline + _EXTENT) * (_GRID / 2 / _EXTENT)).tolist()], fill=1)
    return np.array(image, dtype=bool)


def _is_on_blade(inside: np.ndarray, points: np.ndarray) -> np.ndarray:
    column, row = np.clip(((points + _EXTENT) * (_GRID / 2 / _EXTENT)).astype(int), 0, _GRID - 1).T
    return inside[row, column]
