"""Samples pose, light, camera, background and damage of a photograph, independently of the cultivar; poses leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """The conditions of one photograph.  Angles in radians, lengths in image sides, counts of damage."""

    upright: bool
    rotation: float
    scale: float
    shift_x: float
    shift_y: float
    tilt_x: float
    tilt_y: float
    light: float
    elevation: float
    exposure: float
    warmth: float
    paper: float
    paper_tint: float
    shadow: float
    noise: float
    blur: float
    waves: float
    petiole_bend: float
    petiole_red: float
    holes: int
    bites: int
    spots: int
    specks: int
    scratches: int
    folds: int

    def row(self) -> dict[str, float]:
        """The fields as floats, for a table."""
        return {key: float(value) for key, value in asdict(self).items()}


def sample_scene(rng: np.random.Generator, palmate: bool) -> Scene:
    """Samples a scene: heavy-tailed pose, Poisson counts of damage."""
    spin, size = (2.6, 0.075) if palmate else (0.75, 0.10)
    return Scene(
        upright=bool(palmate or rng.random() < 0.2),
        rotation=float(np.deg2rad(np.clip(spin * rng.standard_t(5), -9 if palmate else -4, 9 if palmate else 4))),
        scale=float(np.exp(np.clip(size * rng.standard_t(6) * 0.8, -0.25, 0.11 if palmate else 0.14))),
        shift_x=float(np.clip(0.018 * rng.standard_normal(), -0.045, 0.045)),
        shift_y=float(np.clip((0.022 if palmate else 0.012) * rng.standard_normal(), -0.045, 0.045)),
        tilt_x=float(0.05 * rng.standard_normal()),
        tilt_y=float(0.05 * rng.standard_normal()),
        light=float(rng.uniform(0, 2 * np.pi)),
        elevation=float(np.deg2rad(rng.uniform(38, 68))),
        exposure=float(np.exp(0.10 * rng.standard_normal())),
        warmth=float(0.035 * rng.standard_normal()),
        paper=float(rng.uniform(0.76, 0.94)),
        paper_tint=float(rng.standard_normal()),
        shadow=float(rng.uniform(0.10, 0.5)),
        noise=float(np.exp(0.55 * rng.standard_normal()) * 2.4),
        blur=float(rng.uniform(0.25, 0.65)),
        waves=float(np.exp(0.4 * rng.standard_normal())),
        petiole_bend=float(rng.standard_normal()),
        petiole_red=float(rng.random()),
        holes=int(rng.poisson(0.7)),
        bites=int(rng.poisson(0.4)),
        spots=int(rng.poisson(2.5)),
        specks=int(rng.poisson(14)),
        scratches=int(rng.poisson(2.2)),
        folds=int(rng.poisson(1.1)),
    )


class Pose:
    """Maps points of the leaf's frame to pixels of an image of side `size`, y down, with waves, tilt and rotation."""

    def __init__(self, scene: Scene, palmate: bool, size: int, rng: np.random.Generator) -> None:
        self.scene, self.size, self.palmate = scene, size, palmate
        self._waves = 0.006 * scene.waves * rng.standard_normal((2, 3))
        self._phases = rng.uniform(0, 2 * np.pi, (2, 3))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) -> (N, 2) pixels."""
        scene = self.scene
        x, y = points.T
        pace = np.array([4.0, 7.0, 10.0])
        fade = np.clip(np.hypot(x, y) / 0.1, 0, 1)
        bent_x = x + fade * sum(self._waves[0, i] * np.sin(pace[i] * y + self._phases[0, i]) for i in range(3))
        bent_y = y + fade * sum(self._waves[1, i] * np.sin(pace[i] * x + self._phases[1, i]) for i in range(3))
        middle = 0.31 if self.palmate else 0.34
        x, y = bent_x, bent_y - middle
        depth = 1 + scene.tilt_x * x + scene.tilt_y * y
        x, y = scene.scale * x / depth, scene.scale * y / depth
        cos, sin = np.cos(scene.rotation), np.sin(scene.rotation)
        x, y = cos * x - sin * y, sin * x + cos * y
        if self.palmate:
            column, row = 0.497 + x, 0.548 - y
        elif scene.upright:
            column, row = 0.502 + 0.86 * x, 0.590 - 0.86 * y
        else:
            column, row = 0.588 + y, 0.500 + x
        return np.stack([column + scene.shift_x, row + scene.shift_y], 1) * self.size
