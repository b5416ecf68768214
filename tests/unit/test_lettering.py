"""Names in figures: never read as mathematics, never an empty box without a word."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from ufgvc.core import fonts as lettering
from ufgvc.core.types import Box
from ufgvc.regions.detector_report import draw_detections
from ufgvc.reports import evaluation_figures, figures

ODD = (
    "$x^$",
    "US$ 5_ $ off",
    "Pinot $n^2$ o",
    "$\\frac{1",
    "Бианка",
    "Ünlü_1",
    "name\twith tab",
    "x" * 180,
    "100 % {x}",
    "<b>&",
    "-dash",
    "0",
)


@pytest.fixture(autouse=True)
def _fonts() -> None:
    lettering._fonts_for.cache_clear()


def confusion(names: tuple[str, ...]) -> figures.Chart:
    return evaluation_figures.confusion_chart(np.eye(len(names), dtype=np.int64), names)


def panels(names: tuple[str, ...]) -> figures.Panels:
    picture = np.zeros((8, 8, 3), np.uint8)
    grid = tuple((picture, picture) for _ in names)
    return figures.Panels(
        "cam", "Maps", "alt", ("original", names[0]), names, grid, tuple(("", f"wrong: {name}") for name in names)
    )


def test_names_are_no_mathematics_and_all_are_drawn(recwarn: pytest.WarningsRecorder) -> None:
    chart = confusion(ODD)
    svg = chart.to_svg()
    for name in ("US$ 5_ $ off", "$x^$", "Бианка", "$\\frac{1", "&lt;b&gt;&amp;"):
        assert name in svg
    assert chart.to_png().startswith(b"\x89PNG")
    assert panels(ODD).to_png().startswith(b"\x89PNG")
    assert evaluation_figures.accuracy_chart(dict.fromkeys(ODD, (0.5, 0.4, 0.6)), 0.1).to_png().startswith(b"\x89PNG")
    assert draw_detections(
        [(name, np.zeros((40, 40, 3), np.uint8), [Box("vein", 1, 1, 9, 9, 1.0)]) for name in ODD[:4]],
        ("vein", "contour"),
    )
    assert not [
        str(warning.message)
        for warning in recwarn
        if "Glyph" in str(warning.message) or "layout" in str(warning.message)
    ]


def test_a_character_without_a_font_is_spelt_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [font for font in font_manager.fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    chart = confusion(("中黄13", "南农1138", "plain"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lettering.drawable(chart.figure):
            chart.figure.canvas.draw()
            shown = [label.get_text() for label in chart.figure.axes[0].get_yticklabels()]
        assert chart.to_png().startswith(b"\x89PNG")
        assert "中黄13" in chart.to_svg(), "the page's browser has fonts of its own"
    assert shown == ["[4E2D 9EC4]13", "[5357 519C]1138", "plain"]
    assert "no font here has all characters of '中黄13' and 1 other names" in caplog.text


def test_an_installed_font_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyph, empty = pen.glyph(), TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap({ord("中"): "block"})
    builder.setupGlyf({".notdef": empty, "block": glyph})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "block": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "One Block", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "block.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "block.ttf")
    own = [font for font in font_manager.fontManager.ttflist if font.name.startswith(("DejaVu", "One"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.4, "中", fontsize=40)
        with Image.open(io.BytesIO(figures.Chart("one", "One", "alt", figure).to_png())) as picture:
            black = (np.asarray(picture.convert("L")) < 128).mean()
    assert not caplog.text
    assert black > 0.3, "the font's full block and not the outline of an empty box"
