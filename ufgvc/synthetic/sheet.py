"""A contact sheet of synthetic leaves: photographs with their boxes beside the exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ufgvc.core.errors import UserError

_GAP = 6
_VEIN, _CONTOUR, _GROUND = (52, 96, 42), (214, 98, 30), (250, 250, 247)
_MIDRIB = (250, 214, 40)  # its box: the green of the vein mask would be lost on the blade


def contact_sheet(
    folder: Path | Sequence[Path],
    out: Path,
    rows: int = 2,
    columns: int = 3,
    side: int = 220,
    boxes: bool = True,
    quality: int = 85,
) -> Path:
    """Writes one picture of leaves of one or several folders made by `synthesize`; returns `out` (PNG or JPEG by its name).

    For each folder `rows` cultivars of `columns` leaves, and beside each photograph its masks: vein green, contour orange.
    side: pixels of one leaf. boxes: draw the annotated boxes, the midrib's yellow. UserError if a folder holds no synthetic leaves.
    """
    folders = [Path(folder)] if isinstance(folder, str | Path) else [Path(f) for f in folder]
    strips = [strip for each in folders for strip in _strips(each, rows, columns, side, boxes)]
    step = side + _GAP
    sheet = Image.new("RGB", (2 * columns * step + _GAP, len(strips) * step + _GAP), "white")
    for row, strip in enumerate(strips):
        for column, tile in enumerate(strip):
            sheet.paste(tile, (_GAP + column * step, _GAP + row * step))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=quality, optimize=True)
    return out


def _strips(folder: Path, rows: int, columns: int, side: int, boxes: bool) -> list[list[Image.Image]]:
    files = [line.split()[0] for name in ("train", "test") for line in _lines(folder / "anno" / f"{name}.txt")]
    kinds: dict[str, list[str]] = {}
    for file in files:
        kinds.setdefault(file.split("_")[0], []).append(file)
    strips = []
    for cultivar in list(kinds)[:rows]:
        chosen = sorted(kinds[cultivar], key=lambda file: int(file.split("_")[1]))[:columns]
        strips.append(
            [tile for file in chosen for tile in (_photograph(folder, file, side, boxes), _masks(folder, file, side))]
        )
    return strips


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            "there are no synthetic leaves here", where=str(path), fix="make them with `ufgvc synth --out ...`"
        ) from None


def _photograph(folder: Path, file: str, side: int, boxes: bool) -> Image.Image:
    with Image.open(folder / "images" / file) as opened:
        image = opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    if not boxes:
        return image
    drawn = [[float(part) for part in line.split()] for line in _lines(folder / "labels" / f"{Path(file).stem}.txt")]
    midrib = min(range(len(drawn)), key=lambda i: min(drawn[i][3:]) / max(drawn[i][3:]))
    draw = ImageDraw.Draw(image)
    for index, (_, cx, cy, w, h) in enumerate(drawn):
        corners = [side * v for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)]
        draw.rectangle(corners, outline=_MIDRIB if index == midrib else _CONTOUR, width=max(1, side // 160))
    return image


def _masks(folder: Path, file: str, side: int) -> Image.Image:
    tile = np.full((side, side, 3), _GROUND, dtype=np.float32)
    for kind, ink in (("vein", _VEIN), ("contour", _CONTOUR)):
        with Image.open(folder / "masks" / kind / f"{Path(file).stem}.png") as opened:
            seen = np.asarray(opened.convert("L").resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
        tile += (np.array(ink, dtype=np.float32) - tile) * np.clip(1.3 * seen, 0, 1)[..., None]
    return Image.fromarray(tile.astype(np.uint8))
