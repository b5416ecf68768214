"""Outlines of leaves, in a frame with its origin at the base of the blade and y towards the tip; image side = 1."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

POINTS = 1600


@dataclass(frozen=True)
class Blade:
    """The blade of a leaf before it is posed.

    outline: (N, 2) closed polygon from the base around the blade.  tips: (M, 2) ends of the primary veins: the midrib,
    then left and right alternating.  palmate: whether primaries fan out from the base; else there is only the midrib.
    """

    outline: np.ndarray
    tips: np.ndarray
    palmate: bool


def palmate(t: np.ndarray, rng: np.random.Generator) -> Blade:
    """A lobed blade such as cotton's.  t: (12,) shape traits.  rng: for asymmetry and uneven teeth."""
    uneven = rng.standard_normal(6)
    side, basal = np.deg2rad(41.5 + 2.8 * t[0]), np.deg2rad(93 + 5.0 * t[2])
    lengths = {0: 0.62, 1: 0.574 + 0.022 * t[1], 2: 0.345 + 0.024 * t[3]}
    angles = np.array([0, -side, side, -basal, basal]) + np.deg2rad(1.6) * np.append(0, uneven[:4])
    reach = np.array([lengths[0], lengths[1], lengths[1], lengths[2], lengths[2]]) * (
        1 + 0.018 * np.append(0, uneven[1:5])
    )
    theta = np.linspace(-np.pi, np.pi, POINTS)
    depth = 0.665 - 0.055 * t[4]  # relative radius half way between two lobes
    power = 1.30 + 0.07 * t[5]
    half = np.array([side, side, side, basal - side, basal - side]) / 2 * (1 + 0.07 * t[10])
    width = half / np.log(1 / np.clip(depth, 0.40, 0.85)) ** (1 / power)
    away = np.abs(theta[:, None] - angles[None])
    acuminate = 0.045 * np.exp(-away / 0.10)  # pointed tips
    lobes = reach * (0.955 * np.exp(-((away / width) ** power)) + acuminate)
    norm = 6.0
    radius = (lobes**norm).sum(1) ** (1 / norm)
    opening = np.deg2rad(40 + 6 * t[9])
    radius = radius * (0.10 + 0.90 * (1 - np.exp(-(((np.pi - np.abs(theta)) / opening) ** 2.2))))
    points = np.stack([radius * np.sin(theta), radius * np.cos(theta)], 1)
    order = np.sort(angles)
    corners = [0]
    for low, high in itertools.pairwise(order):
        between = np.flatnonzero((theta > low) & (theta < high))
        corners += [int(np.abs(theta - low).argmin()), int(between[radius[between].argmin()])]
    corners += [int(np.abs(theta - order[-1]).argmin()), POINTS - 1]
    tips = np.stack([np.sin(angles), np.cos(angles)], 1) * np.interp(angles, theta, radius)[:, None]
    points = _teeth(
        points, corners, rng, density=15 + 3.5 * t[6], height=0.0125 * np.exp(0.38 * t[7]), lean=0.20 + 0.07 * t[8]
    )
    points = _ripple(points, 0.006 * np.exp(0.25 * t[11]), rng)
    return Blade(points, tips, True)


def pinnate(t: np.ndarray, rng: np.random.Generator) -> Blade:
    """An unlobed blade such as a soybean leaflet's. Arguments as of `palmate`."""
    uneven = rng.standard_normal(4)
    length, half = 0.675 * (1 + 0.02 * t[0]), 0.152 * np.exp(0.10 * t[1])
    widest = np.clip(0.40 + 0.035 * t[2], 0.25, 0.6)
    base, tip = 0.62 * np.exp(0.10 * t[3]), 1.02 * np.exp(0.09 * t[4])
    s = (1 - np.cos(np.linspace(0, np.pi, POINTS // 2))) / 2
    sides = []
    for sign in (-1, 1):
        broad = half * (1 + sign * (0.03 * t[5] + 0.035 * uneven[0]))
        peak = np.clip(widest + sign * 0.012 * uneven[1], 0.2, 0.65)
        rising = np.sin(np.pi / 2 * np.clip(s / peak, 0, 1)) ** base
        falling = np.cos(np.pi / 2 * np.clip((s - peak) / (1 - peak), 0, 1)) ** tip
        drawn = 1 - (0.10 + 0.035 * t[9]) * np.exp(-(((1 - s) / 0.12) ** 2))  # pointed tip
        sides.append(np.stack([sign * broad * np.where(s < peak, rising, falling) * drawn, length * s], 1))
    points = np.concatenate([sides[0], sides[1][::-1]])
    corners = [0, len(s) - 1, len(points) - 1]
    points = _teeth(
        points, corners, rng, density=24 + 5 * t[6], height=0.0018 * np.exp(0.45 * t[7]), lean=0.2 + 0.08 * t[8]
    )
    points = _ripple(points, 0.0035 * np.exp(0.25 * t[10]), rng)
    bend = 0.035 * (0.5 * t[11] + 0.6 * uneven[2])
    points = np.stack([points[:, 0] + bend * _bow(points[:, 1] / length), points[:, 1]], 1)
    return Blade(points, np.array([[0.0, length]]), False)


def midrib_bend(blade: Blade, y: np.ndarray) -> np.ndarray:
    """x of the midline of a pinnate blade at y: (N,) -> (N,)."""
    half = len(blade.outline) // 2
    left, right = blade.outline[:half], blade.outline[half:][::-1]
    ends = [
        np.interp(y, side[order, 1], side[order, 0]) for side in (left, right) for order in [np.argsort(side[:, 1])]
    ]
    middle = (ends[0] + ends[1]) / 2
    return np.polyval(np.polyfit(y, middle, 3), y)


def _bow(s: np.ndarray) -> np.ndarray:
    return 4 * s * (1 - s)


def _teeth(
    points: np.ndarray, corners: list[int], rng: np.random.Generator, density: float, height: float, lean: float
) -> np.ndarray:
    """Adds teeth to the margin.  corners: indices of base, tips and sinuses, where a row of teeth ends.

    density: teeth per image side of margin.  height: of a tooth, in image sides.  lean: towards the tip of the lobe.
    """
    tangent = np.gradient(points, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    normal *= -np.sign(_area(points)) / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    push = np.zeros(len(points))
    for number, (first, last) in enumerate(itertools.pairwise(corners)):
        span = along[last] - along[first]
        count = max(1, round(max(4.0, density) * span * float(1 + 0.08 * rng.standard_normal())))
        marks = np.arange(count + 1) / count
        marks[1:-1] += 0.16 / count * rng.standard_normal(count - 1)
        phase = np.interp(
            (along[first : last + 1] - along[first]) / max(span, 1e-9), np.sort(marks), np.arange(count + 1)
        )
        tooth = np.minimum(phase.astype(int), count - 1)
        within = phase - tooth
        crest = np.clip(0.5 + (lean if number % 2 == 0 else -lean), 0.12, 0.88)
        rise = np.where(within < crest, within / crest, (1 - within) / (1 - crest))
        sizes = height * np.exp(0.28 * rng.standard_normal(count))
        ends = np.clip(np.minimum(np.arange(count) + 0.5, count - np.arange(count)) / 1.5, 0.3, 1)
        push[first : last + 1] = (sizes * ends)[tooth] * rise**1.15
    fade = np.clip(np.linalg.norm(points, axis=1) / 0.12 - 0.3, 0, 1)
    return points + normal * (push * fade)[:, None]


def _ripple(points: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Adds low-frequency waves to the margin.  amount: in image sides."""
    u = np.linspace(0, 2 * np.pi, len(points))
    wave = sum(rng.standard_normal() / n**0.7 * np.sin(n * u + rng.uniform(0, 2 * np.pi)) for n in range(3, 13))
    far = np.linalg.norm(points, axis=1, keepdims=True)
    return points * (1 + amount * (wave * np.sin(u / 2))[:, None] / np.maximum(far, 0.12))


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)
