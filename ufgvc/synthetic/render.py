"""Renders a leaf and its masks from outline, veins, texture and scene."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ufgvc.synthetic.scene import Pose, Scene
from ufgvc.synthetic.veins import Vein

Rng = np.random.Generator
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Picture:
    """image: (S, S, 3) uint8 RGB.  vein, contour: (S, S) bool, the visible pixels of the veins and of the margin."""

    image: np.ndarray
    vein: np.ndarray
    contour: np.ndarray


def render(
    outline: np.ndarray, veins: list[Vein], texture: np.ndarray, scene: Scene, pose: Pose, rng: Rng, texture_rng: Rng
) -> Picture:
    """Renders one photograph.

    outline: (N, 2), in the leaf's frame, as the veins are.  texture: (12,) traits.  rng: for the scene.
    texture_rng: for the texture of this leaf.
    """
    size = pose.size
    unit = size / 512
    edge = pose(outline)
    blade = _draw_polygon(edge, size)
    whole = blade > 0.5
    orders = [_draw_veins([v for v in veins if v.order == order], pose, size, unit) for order in (1, 2, 3)]
    stalk, stalk_core = _draw_petiole(pose, scene, size, unit)

    holes, rims, spots = _make_damage(scene, edge, size, unit, rng)
    cover = blade * (1 - holes)
    leaf = _shade_blade(texture, orders, whole, scene, size, unit, rng, texture_rng)
    leaf = _add_distractors(leaf, spots, rims * whole, scene, size, unit, rng)

    paper = _make_paper(scene, size, rng)
    seen = np.maximum(cover, stalk)
    offset = 3.5 * unit * np.array([np.sin(scene.light), np.cos(scene.light)])
    cast = _blur(ndimage.shift(_halve(seen), -offset / 2, order=1), 2.2 * unit)
    paper = paper * (1 - scene.shadow * np.clip(_upsample(cast, size), 0, 1))[..., None]

    green, red = np.array([0.50, 0.58, 0.33]), np.array([0.52, 0.40, 0.32])
    stem = (green + (red - green) * 0.8 * scene.petiole_red) * (0.72 + 0.36 * stalk_core[..., None])
    picture = paper + (stem - paper) * stalk[..., None]
    picture = picture + (leaf - picture) * cover[..., None]
    balance = 1 + scene.warmth * np.array([1.0, 0.0, -1.0])
    picture = picture * scene.exposure * balance
    picture = np.stack([_blur(picture[..., i], scene.blur * unit) for i in range(3)], 2)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * 0.8 + 0.45 * rng.standard_normal(
        (size, size, 3), dtype=np.float32
    )
    image = np.clip(picture * 255 + scene.noise * grain, 0, 255).astype(np.uint8)

    intact = holes < 0.5
    vein = (np.maximum.reduce(orders) > 0.30) & whole & intact
    width = max(1.0, 2.2 * unit)
    ring = _draw_outline(edge, size, width)
    near_damage = ndimage.binary_dilation(~intact, iterations=max(1, round(width))) if not intact.all() else ~intact
    return Picture(image, vein, (ring > 0.5) & ~near_damage)


def _draw_polygon(points: np.ndarray, size: int) -> np.ndarray:
    """(size, size) float32 in [0, 1]: the share of each pixel inside the polygon."""
    image = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    ImageDraw.Draw(image).polygon((points * _SUPERSAMPLING).ravel().tolist(), fill=255)
    return _downsample(image)


def _draw_outline(points: np.ndarray, size: int, width: float) -> np.ndarray:
    image = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    closed = np.concatenate([points, points[:1]]) * _SUPERSAMPLING
    ImageDraw.Draw(image).line(closed.ravel().tolist(), fill=255, width=round(width * _SUPERSAMPLING), joint="curve")
    return _downsample(image)


def _draw_veins(veins: list[Vein], pose: Pose, size: int, unit: float) -> np.ndarray:
    image = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    draw = ImageDraw.Draw(image)
    for vein in veins:
        path = pose(vein.path) * _SUPERSAMPLING
        pieces = {1: 12, 2: 4, 3: 1}[vein.order]
        cuts = np.linspace(0, len(path) - 1, pieces + 1).astype(int)
        for number, (a, b) in enumerate(itertools.pairwise(cuts)):
            width = vein.width[0] + (vein.width[1] - vein.width[0]) * (number + 0.5) / pieces
            draw.line(
                path[a : b + 1].ravel().tolist(),
                fill=255,
                width=max(1, round(width * unit * _SUPERSAMPLING)),
                joint="curve",
            )
    return _downsample(image)


def _downsample(image: Image.Image) -> np.ndarray:
    return np.asarray(image.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


def _draw_petiole(pose: Pose, scene: Scene, size: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    u = np.linspace(0, 1, 24)
    long = 0.30 if pose.palmate else 0.11
    path = np.stack([0.03 * scene.petiole_bend * u**2, -long * u + 0.004], 1)
    wide, core = ([Vein(1, path, (thick, thick * 1.25))] for thick in ((6.2, 2.4) if pose.palmate else (4.6, 1.8)))
    return _draw_veins(wide, pose, size, unit), _draw_veins(core, pose, size, unit)


def _noise(rng: np.random.Generator, size: int, cells: float) -> np.ndarray:
    """(size, size) smooth noise with unit standard deviation and about `cells` bumps a side."""
    n = max(3, min(size, round(cells)))
    coarse = Image.fromarray(rng.standard_normal((n, n), dtype=np.float32))
    field = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return field / max(float(field.std()), 1e-6)


def _blur(field: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(field, sigma, truncate=3.0) if sigma > 0.05 else field


def _halve(field: np.ndarray) -> np.ndarray:
    return field[::2, ::2]


def _upsample(field: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(field.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR))


def _shade_blade(
    t: np.ndarray,
    orders: list[np.ndarray],
    whole: np.ndarray,
    scene: Scene,
    size: int,
    unit: float,
    rng: Rng,
    texture_rng: Rng,
) -> np.ndarray:
    """(S, S, 3) float: the shaded colour of the blade.  t: (12,) texture traits, named below."""
    lightness, yellow, blue, mottle, mottle_size, bulge, grain, grain_size, pale, gloss, rim, vein_tint = t
    first, second, third = orders
    veined = np.clip(first + 0.9 * second + 0.6 * third, 0, 1)
    far = _upsample(ndimage.distance_transform_edt(_halve(veined) < 0.3).astype(np.float32), size) * 2 / unit
    pillow = np.sqrt(np.clip(far, 0, 14))

    height = 0.62 * np.exp(0.30 * bulge) * _blur(pillow, 1.1 * unit)
    height += 2.8 * scene.waves * _noise(rng, size, 5) + 0.9 * _noise(texture_rng, size, 22)
    height += 0.10 * np.exp(0.35 * grain) * _noise(texture_rng, size, 150 * np.exp(-0.22 * grain_size))
    mesh = _areoles(texture_rng, size, 0.0125 * np.exp(0.16 * grain_size))
    height += 0.05 * _noise(texture_rng, size, 400) - 0.55 * np.exp(0.35 * grain) * _blur(mesh, 0.6 * unit)
    relief = 1.5 * _blur(first, 1.4 * unit) + 0.9 * _blur(second, 1.0 * unit) + 0.35 * _blur(third, 0.7 * unit)
    height += 1.1 * relief
    slope_y, slope_x = np.gradient(height * unit)
    normal_z = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    light = np.array([np.cos(scene.light), np.sin(scene.light)]) * np.cos(scene.elevation)
    shade = (-(slope_x * light[0] + slope_y * light[1]) + np.sin(scene.elevation)) * normal_z / np.sin(scene.elevation)
    shade = np.clip(0.32 + 0.68 * shade, 0.25, 1.9)

    base = np.array([0.335, 0.420, 0.250]) * np.exp(0.075 * lightness)
    base = base + yellow * np.array([0.020, 0.012, -0.012]) + blue * np.array([-0.010, 0.002, 0.014])
    patches = _noise(texture_rng, size, 9 * np.exp(0.25 * mottle_size)) + 0.6 * _noise(
        texture_rng, size, 30 * np.exp(0.25 * mottle_size)
    )
    tone = 1 + 0.020 * np.exp(0.35 * mottle) * patches + 0.012 * np.clip(7 - far, 0, 7) / 7 * (1 + 0.8 * pale)
    colour = base[None, None] * (tone + 0.05 * mesh)[..., None]
    brink = np.clip(
        1 - _upsample(ndimage.distance_transform_edt(_halve(whole)).astype(np.float32), size) * 2 / (9 * unit), 0, 1
    )
    colour = colour + brink[..., None] ** 2 * np.array([0.05, 0.045, 0.01]) * (0.5 + 0.35 * rim)
    ink = np.array([0.60, 0.66, 0.42]) + vein_tint * np.array([0.018, 0.006, -0.004])
    opacity = np.clip(0.62 * first + 0.36 * second * (1 - first) + 0.16 * third * (1 - second) * (1 - first), 0, 1)
    colour = colour + (ink - colour) * opacity[..., None]
    shine = np.clip(shade - 1.03, 0, 0.5) * 0.10 * np.exp(0.4 * gloss)
    return colour * shade[..., None] + shine[..., None]


def _areoles(rng: Rng, size: int, cell: float) -> np.ndarray:
    """(size, size) in [0, 1]: the finest vein network, as borders of the Voronoi cells of jittered grid points.

    cell: mesh width in image sides. A quarter of the image is computed and tiled without a seam, which halves the
    time of a leaf; other texture hides the repetition.
    """
    patch = (size + 1) // 2
    side = max(2, round(0.5 / cell))
    points = (0.5 + rng.uniform(-0.45, 0.45, (side, side, 2))).astype(np.float32)
    at = (np.arange(patch, dtype=np.float32) + 0.5) * (side / patch)
    own = at.astype(int)
    nearest = np.full((patch, patch), 9, np.float32)
    second = nearest.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            cells = points[(own + down) % side][:, (own + right) % side]
            rows = cells[..., 0] + (own + down - at)[:, None]
            columns = cells[..., 1] + (own + right - at)[None, :]
            far = rows * rows + columns * columns
            second = np.minimum(second, np.maximum(nearest, far))
            nearest = np.minimum(nearest, far)
    border = np.clip(1 - (np.sqrt(second) - np.sqrt(nearest)) / 0.22, 0, 1)
    return np.tile(border, (2, 2))[:size, :size]


def _make_damage(
    scene: Scene, edge: np.ndarray, size: int, unit: float, rng: Rng
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Holes, their brown rims, and brown spots; each (S, S) in [0, 1]."""
    low, high = edge.min(0), edge.max(0)

    def blob(centre: np.ndarray, radius: float) -> list[float]:
        a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        uneven = 1 + sum(0.22 / n * rng.standard_normal() * np.sin(n * a + rng.uniform(0, 6.3)) for n in (1, 2, 3, 5))
        return (
            (
                np.stack([centre[0] + radius * uneven * np.cos(a), centre[1] + radius * uneven * np.sin(a)], 1)
                * _SUPERSAMPLING
            )
            .ravel()
            .tolist()
        )

    layers = [Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING)) for _ in range(2)]
    gone, brown = (ImageDraw.Draw(layer) for layer in layers)
    for _ in range(scene.holes):
        gone.polygon(blob(rng.uniform(low, high), unit * rng.uniform(2.5, 8)), fill=255)
    for _ in range(scene.bites):
        gone.polygon(blob(edge[rng.integers(len(edge))], unit * rng.uniform(4, 11)), fill=255)
    for _ in range(scene.spots):
        brown.polygon(blob(rng.uniform(low, high), unit * (1 + 2.2 * rng.exponential())), fill=255)
    holes = _downsample(layers[0]) if scene.holes + scene.bites else np.zeros((size, size), np.float32)
    spots = _blur(_downsample(layers[1]), 0.8 * unit) if scene.spots else np.zeros((size, size), np.float32)
    rims = np.clip(_blur(holes, 1.8 * unit) * 2.2, 0, 1) if holes.any() else holes
    return holes, rims, spots


def _add_distractors(
    leaf: np.ndarray, spots: np.ndarray, rims: np.ndarray, scene: Scene, size: int, unit: float, rng: Rng
) -> np.ndarray:
    """Adds edges that are independent of the cultivar: brown spots, dust, scratches and folds."""
    brown = np.array([0.38, 0.29, 0.18])
    stained = np.clip(spots * 0.75 + rims * 0.7, 0, 0.9)[..., None]
    leaf = leaf + (brown * (0.6 + 0.4 * leaf[..., 1:2] / 0.45) - leaf) * stained
    bright = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    draw = ImageDraw.Draw(bright)
    for _ in range(scene.specks):
        x, y = rng.uniform(0.1, 0.9, 2) * size * _SUPERSAMPLING
        r = unit * _SUPERSAMPLING * rng.uniform(0.4, 1.2)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(60, 255)))
    folded = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    fold = ImageDraw.Draw(folded)
    for kind, count in ((draw, scene.scratches), (fold, scene.folds)):
        for _ in range(count):
            start, heading = rng.uniform(0.2, 0.85, 2), rng.uniform(0, 2 * np.pi)
            u = np.linspace(0, rng.uniform(0.06, 0.30), 16)
            bow = heading + rng.normal(0, 1.2) * u
            path = (start + np.stack([u * np.cos(bow), u * np.sin(bow)], 1)) * size * _SUPERSAMPLING
            kind.line(
                path.ravel().tolist(),
                fill=int(rng.integers(70, 200)),
                width=max(1, round(unit * _SUPERSAMPLING * rng.uniform(0.7, 2.0))),
            )
    marks, lines = _downsample(bright), _blur(_downsample(folded), 1.3 * unit)
    across = np.array([np.cos(scene.light), np.sin(scene.light)])
    slope_y, slope_x = np.gradient(lines)
    leaf = leaf * (1 - 0.9 * (slope_x * across[0] + slope_y * across[1]) - 0.10 * lines)[..., None]
    return leaf + (np.array([0.66, 0.70, 0.55]) - leaf) * (0.45 * marks)[..., None]


def _make_paper(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    tint = np.array([0.010, 0.002, -0.014]) * scene.paper_tint
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    fall = -0.05 * (np.cos(scene.light) * columns + np.sin(scene.light) * rows)
    return (scene.paper + fall + 0.006 * _noise(rng, size, 6) + 0.003 * _noise(rng, size, size / 3))[..., None] + tint
