"""A report as one HTML file that needs no network, and no script unless it has a gallery or an upload."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ufgvc import __version__
from ufgvc.reports.figures import Chart, Panels, data_uri
from ufgvc.reports.gallery import Gallery
from ufgvc.reports.leaf_map import LeafMap
from ufgvc.reports.tables import Table
from ufgvc.reports.upload import Upload

Block = Chart | LeafMap | Panels | Table | Gallery | Upload


def footer() -> str:
    """The last line of a page: the version of ufgvc and the current time."""
    now = datetime.datetime.now(datetime.UTC)
    return f"Made by ufgvc {__version__} on {now:%d %B %Y, %H:%M} UTC. This file needs no network."


@dataclass(frozen=True)
class Section:
    """A heading, one paragraph of plain text ("" for none) and the blocks below it.

    collapsed: the label of a button that shows the blocks; None shows them at once.
    """

    title: str
    text: str
    blocks: Sequence[Block]
    collapsed: str | None = None


@dataclass(frozen=True)
class Page:
    """The content of a report page; all texts are plain text, with `code` between backticks in sentences.

    eyebrow: the small line above the title.  headline: the one big number ("": none), and explanation: the text next
    to it.  stats: (value, name) of the smaller numbers below.  facts: {name: value} of everything that made the
    numbers, below facts_title.
    """

    eyebrow: str
    title: str
    headline: str
    explanation: str
    stats: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    facts: Mapping[str, str]
    warnings: Sequence[str] = field(default=())
    footer: str = ""
    facts_title: str = "How these numbers were made"

    @property
    def figures(self) -> list[Chart | Panels]:
        """Every chart and panel of the page, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Chart | Panels)]

    @property
    def galleries(self) -> list[Gallery]:
        """Every gallery of the page: one at most, because its parts have identifiers."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Gallery)]

    @property
    def has_upload(self) -> bool:
        """Whether the page takes photographs."""
        return any(isinstance(block, Upload) for section in self.sections for block in section.blocks)

    def to_html(self) -> str:
        """The whole page. Texts are escaped; charts are inline SVG, photographs are base64."""
        return _template().render(page=self)


def mark_code(text: str) -> Markup:
    """A text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["data_uri"] = data_uri
    environment.filters["code"] = mark_code
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["gallery"] = lambda block: isinstance(block, Gallery)
    environment.tests["upload"] = lambda block: isinstance(block, Upload)
    environment.tests["chart"] = lambda block: isinstance(block, Chart | LeafMap)
    return environment.get_template("report.html.j2")
