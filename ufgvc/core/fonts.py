"""Fonts for figures whose texts have characters that matplotlib's own font lacks."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its import takes a second, and a page without charts does without
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
PLAIN: dict[Any, Any] = {"text.parse_math": False}  # rcParams: a name with two dollar signs is not a formula
_MAX_CODE_POINTS = 4  # of a run of characters without a font


@contextlib.contextmanager
def drawable(figure: Figure) -> Iterator[None]:
    """Adds installed fonts to the texts of a figure within the block, so that all their characters can be drawn.

    A character that no installed font has is replaced by its code point, and a warning names a font to install.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    undrawable: set[str] = set()
    with contextlib.ExitStack() as afterwards:
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            # Drawing takes the texts of ticks from the formatter again.
            names = [label.get_text() for label in axis.get_ticklabels()]
            replaced = [_replace_undrawable(name) for name in names]
            if replaced != names:
                afterwards.callback(axis.set_major_formatter, axis.get_major_formatter())
                axis.set_major_formatter(FixedFormatter(replaced))
        for text in figure.findobj(Text):
            content, family = text.get_text(), text.get_fontfamily()
            families, without = _fonts_for(_missing(content))
            undrawable |= {content} if without else set()
            afterwards.callback(text.set_fontfamily, family)
            afterwards.callback(text.set_text, content)
            text.set_fontfamily([*family, *families])
            text.set_text(_replace_undrawable(content))
        if undrawable:
            more = f" and {len(undrawable) - 1} other names" if len(undrawable) > 1 else ""
            shown = f"{min(undrawable)!r}{more}"
            log.warning(
                "no font here has all characters of %s: a PNG shows their numbers; install for example Noto Sans CJK",
                shown,
            )
        yield


@contextlib.contextmanager
def as_text() -> Iterator[None]:
    """Hides warnings about missing glyphs, for SVG: the browser draws its texts with other fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def shorten(name: str, max_length: int = 36) -> str:
    """The name, cut to `max_length` characters: a longer one would leave no room for the axes."""
    return name if len(name) <= max_length else f"{name[: max_length - 3]}..."


def _missing(text: str) -> frozenset[str]:
    """The characters that matplotlib's own font lacks."""
    return frozenset(letter for letter in text if ord(letter) not in _own_characters() and letter.isprintable())


@functools.cache
def _own_characters() -> frozenset[int]:
    from matplotlib import font_manager

    return _characters(font_manager.findfont("DejaVu Sans"))


@functools.lru_cache(maxsize=256)
def _characters(path: str) -> frozenset[int]:
    """Code points of a font file; none for one that matplotlib cannot draw with."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.lru_cache(maxsize=256)
def _fonts_for(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Installed font families that together have as many of the letters as possible, and the letters that none has."""
    from matplotlib import font_manager

    families: list[str] = []
    # matplotlib comes with a font of placeholders that claims to have every character.
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


def _replace_undrawable(text: str) -> str:
    """The text with code points in brackets for characters that no font has, and blanks for control characters."""
    text = re.sub(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f]", " ", text)
    _, without = _fonts_for(_missing(text))
    if not without:
        return text
    run = "[" + re.escape("".join(sorted(without))) + "]+"
    return re.sub(run, lambda found: _code_points(found[0]), text)


def _code_points(letters: str) -> str:
    rest = "..." if len(letters) > _MAX_CODE_POINTS else ""
    return f"[{' '.join(f'{ord(letter):X}' for letter in letters[:_MAX_CODE_POINTS])}{rest}]"
