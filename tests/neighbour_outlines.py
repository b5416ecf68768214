"""The picture of docs/results/neighbours.md: test leaves and their nearest training leaves, as outlines.

    python -m tests.neighbour_outlines DATA PREDICTIONS.json PICTURE.png

The photographs may not be published here, so a leaf is drawn as its outline, filled with its mean colour.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from skimage.filters import threshold_otsu

from ufgvc.data.dataset import open_dataset, read_images
from ufgvc.data.images import decode

LEAVES, SEED, NEAREST = 10, 0, 5
RIM, SPECK = 5, 50  # pixels: where the colours of leaf and background are mixed; area of what is not drawn
SIZE, INK, COLOURS = 9, "#17211b", 96


def draw_leaf(axes: Axes, image: np.ndarray) -> None:
    """The outline of a leaf (H, W, 3) on white, with its holes, in one colour."""
    light = image.min(axis=2)
    leaf = (light <= threshold_otsu(light)).astype(np.uint8)
    inner = cv2.erode(leaf, np.ones((RIM, RIM), np.uint8)) > 0
    colour = image[inner].mean(axis=0) / 255
    outlines, tree = cv2.findContours(leaf, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for outline, (*_, parent) in zip(outlines, tree[0], strict=True):
        if cv2.contourArea(outline) > SPECK:
            x, y = cv2.approxPolyDP(outline, 0.7, closed=True)[:, 0].T
            axes.fill(x, y, facecolor=colour if parent < 0 else "white", edgecolor=INK, linewidth=0.5)
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0), aspect="equal", xticks=[], yticks=[])
    axes.axis("off")


def draw_row(row: Any, photo: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    """A test leaf and its nearest training leaves; a frame and a tick mark those of its own cultivar."""
    own = photo[Path(found["path"]).stem]
    have = sum(one["split"] == "train" and one["cultivar"] == own["cultivar"] for one in photo.values())
    likeliest, share = found["candidates"][0].values()
    named = f"named {'so' if likeliest == own['cultivar'] else likeliest}, {100 * share:.0f} %"
    draw_leaf(row[0], decode(own["image"]))
    row[0].set_title(f"{named}\n{have} training {'leaf' if have == 1 else 'leaves'}", fontsize=SIZE, pad=3)
    row[0].text(0.5, 1.29, own["cultivar"], transform=row[0].transAxes, fontsize=SIZE, weight="bold", ha="center")
    for axes, near in zip(row[1:], found["nearest"], strict=True):
        draw_leaf(axes, decode(photo[near["image_id"]]["image"]))
        same = near["cultivar"] == own["cultivar"]
        axes.set_title(f"{'✓ ' * same}{near['cultivar']}\n{near['distance']:.2f}", fontsize=SIZE, pad=5)
        if same:
            frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=INK, lw=2, clip_on=False)
            axes.add_patch(frame)


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser()
    for name in ("data", "predictions", "picture"):
        parser.add_argument(name)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    photo = {row["image_id"]: row for shard in dataset.shards for row in read_images(dataset, shard).to_pylist()}
    found = {row["path"]: row for row in json.loads(Path(given.predictions).read_text(encoding="utf-8"))}
    random.seed(SEED)
    drawn = random.sample(sorted(found), LEAVES)
    figure = Figure(figsize=(10, 1.76 * LEAVES), facecolor="white")
    place = {"left": 0.025, "right": 0.99, "bottom": 0.004, "top": 0.972, "wspace": 0.12, "hspace": 0.42}
    for row, path in zip(figure.subplots(LEAVES, 1 + NEAREST, gridspec_kw=place), drawn, strict=True):
        draw_row(row, photo, found[path])
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(COLOURS).save(given.picture, optimize=True)


if __name__ == "__main__":
    main()
