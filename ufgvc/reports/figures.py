"""Charts and photograph panels of a report, for the page and as PNG files; pyplot's global state is not used."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.fonts import PLAIN, as_text, drawable, shorten
from ufgvc.data.resize import encode_thumbnail

if TYPE_CHECKING:  # its import takes a second, and a page without charts does without
    from matplotlib.figure import Figure

# Each colour of a chart and the CSS variable that replaces it in the page, so that charts follow light and dark mode.
COLOURS = {"#17211b": "--ink", "#5f6b64": "--soft", "#d5dcd6": "--line", "#1f7a4d": "--accent", "#b98a2f": "--second"}
INK, SOFT, LINE, ACCENT, SECOND = COLOURS
STYLE: dict[Any, Any] = PLAIN | {
    "font.size": 11, "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "ufgvc",
    "text.color": INK, "axes.labelcolor": SOFT, "axes.edgecolor": LINE, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.8, "xtick.major.size": 0, "ytick.major.size": 0, "lines.linewidth": 2,
    "axes.titlesize": 11, "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip
CAPTION_WIDTH = 24  # characters of a line below a photograph


@dataclass(frozen=True)
class Chart:
    """A matplotlib figure.  name: of its PNG file, without suffix.  alt: its content as text, for screen readers."""

    name: str
    title: str
    alt: str
    figure: Figure

    def to_svg(self) -> str:
        """Inline SVG without a fixed size, with identifiers prefixed by the name, and colours as CSS variables."""
        import matplotlib as mpl

        buffer = io.StringIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with mpl.rc_context(STYLE), as_text():
            self.figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # HTML implies the namespaces, and a fixed size would not shrink on a narrow screen.
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
        svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{self.name}-\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{self.name}-\1"', svg)
        for colour, variable in COLOURS.items():
            svg = svg.replace(colour, f"var({variable})")
        return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)

    def to_png(self) -> bytes:
        """PNG file on white, 150 dpi."""
        import matplotlib as mpl

        buffer = io.BytesIO()
        with mpl.rc_context(STYLE), drawable(self.figure):
            self.figure.savefig(buffer, format="png", dpi=150, facecolor="white", bbox_inches="tight")
        return buffer.getvalue()


@dataclass(frozen=True)
class Panels:
    """A grid of photographs: one row for each leaf, with its caption, and one column for each model or mask.

    images: (H, W, 3) uint8, by row and column.  marks: a short line of text below each of them, "" for none.
    """

    name: str
    title: str
    alt: str
    columns: tuple[str, ...]
    captions: tuple[str, ...]
    images: tuple[tuple[NDArray[np.uint8], ...], ...]
    marks: tuple[tuple[str, ...], ...]

    def to_png(self) -> bytes:
        """PNG file on white, 130 dpi."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        rows, columns = len(self.images), len(self.columns)
        with mpl.rc_context(STYLE | {"axes.grid": False}):
            figure = Figure(figsize=(2.1 * columns, 2.35 * rows + 0.3), layout="constrained")
            axes = figure.subplots(rows, columns, squeeze=False)
            for i, row in enumerate(self.images):
                for j, image in enumerate(row):
                    ax = axes[i][j]
                    ax.imshow(image)
                    ax.set(xticks=[], yticks=[], frame_on=False)
                    ax.set_xlabel(_wrapped(self.marks[i][j]), fontsize=9)
                    if i == 0:
                        ax.set_title(_wrapped(self.columns[j]), loc="center")
                axes[i][0].set_ylabel(_wrapped(self.captions[i]))
            buffer = io.BytesIO()
            with drawable(figure):
                figure.savefig(buffer, format="png", dpi=130, facecolor="white")
        return buffer.getvalue()


def _wrapped(text: str) -> str:
    return fill(shorten(text, 3 * CAPTION_WIDTH), CAPTION_WIDTH)


def data_uri(image: NDArray[np.uint8], side: int = 256) -> str:
    """An (H, W, 3) uint8 image as a data URI: JPEG, at most `side` pixels on its longer side."""
    return jpeg_uri(encode_thumbnail(image, side))


def jpeg_uri(jpeg: bytes) -> str:
    """A JPEG file as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
