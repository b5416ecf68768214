"""Text in figures: names are shown as they are, in fonts that have their characters."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

log = logging.getLogger(__name__)
PLAIN: dict[Any, Any] = {"text.parse_math": False}  # settings of matplotlib: a name with two dollar signs is no formula
_SPELT = 4  # characters of a name that are written as code points


@contextlib.contextmanager
def drawable(figure: Figure) -> Iterator[None]:
    """Within the block every text of the figure has fonts for its characters: installed ones, after matplotlib's own.

    Where no installed font has a character, its code point is written, and the log says which font would help.
    """
    lost: set[str] = set()
    with contextlib.ExitStack() as afterwards:
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            # On drawing, the texts of ticks are taken from the axis again.
            names = [label.get_text() for label in axis.get_ticklabels()]
            spelt = [_spelt(name) for name in names]
            if spelt != names:
                afterwards.callback(axis.set_major_formatter, axis.get_major_formatter())
                axis.set_major_formatter(FixedFormatter(spelt))
        for text in figure.findobj(Text):
            content, family = text.get_text(), text.get_fontfamily()
            families, without = _fonts_for(_missing(content))
            lost |= {content} if without else set()
            afterwards.callback(text.set_fontfamily, family)
            afterwards.callback(text.set_text, content)
            text.set_fontfamily([*family, *families])
            text.set_text(_spelt(content))
        if lost:
            shown = f"{min(lost)!r}" + (f" and {len(lost) - 1} other names" if len(lost) > 1 else "")
            log.warning(
                "no font here has all characters of %s: a PNG shows their numbers; install for example Noto Sans CJK",
                shown,
            )
        yield


@contextlib.contextmanager
def as_text() -> Iterator[None]:
    """For SVG, whose texts are drawn later by a browser and its fonts: that matplotlib's own font lacks a character means nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def shortened(name: str, most: int = 36) -> str:
    """At most so many letters: a long name would leave no room for the drawing."""
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _missing(text: str) -> frozenset[str]:
    """The characters that matplotlib's own font lacks."""
    return frozenset(letter for letter in text if ord(letter) not in _own_characters() and letter.isprintable())


@functools.cache
def _own_characters() -> frozenset[int]:
    return _characters(font_manager.findfont("DejaVu Sans"))


@functools.lru_cache(maxsize=256)
def _characters(path: str) -> frozenset[int]:
    """Code points of a font file; none for one that matplotlib cannot draw with."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.lru_cache(maxsize=256)
def _fonts_for(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Families that together have as many of the letters as installed fonts can, and the letters that none has."""
    families: list[str] = []
    # matplotlib brings a font of placeholders that claims every character.
    fonts = [font for font in font_manager.fontManager.ttflist if letters and "last resort" not in font.name.lower()]
    for font in sorted(
        fonts, key=lambda font: (font.style != "normal", str(font.weight) not in ("400", "normal"), font.name)
    ):
        found = {letter for letter in letters if ord(letter) in _characters(font.fname)}
        if found:
            families.append(font.name)
            letters -= found
        if not letters:
            break
    return families, letters


def _spelt(text: str) -> str:
    """The text with code points in brackets for characters that cannot be drawn, and blanks for those that are none."""
    text = re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f]", " ", text)
    _, without = _fonts_for(_missing(text))
    if not without:
        return text
    run = "[" + re.escape("".join(sorted(without))) + "]+"
    return re.sub(run, lambda found: _code_points(found[0]), text)


def _code_points(letters: str) -> str:
    rest = "..." if len(letters) > _SPELT else ""
    return f"[{' '.join(f'{ord(letter):X}' for letter in letters[:_SPELT])}{rest}]"
