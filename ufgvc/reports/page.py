"""One HTML file that opens anywhere: no network, no script, light and dark, desktop and telephone."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from ufgvc import __version__
from ufgvc.reports.figures import Chart, Panels, data_uri
from ufgvc.reports.style import CSS
from ufgvc.reports.tables import Table

Block = Chart | Panels | Table


def made_now() -> str:
    """The footer: what made the page, and when."""
    now = datetime.datetime.now(datetime.UTC)
    return f"Made by ufgvc {__version__} on {now:%d %B %Y, %H:%M} UTC. This file needs no network."


@dataclass(frozen=True)
class Chapter:
    """A heading, a sentence or two in plain text, and what is shown under it. `fold` hides the blocks behind a click."""

    title: str
    text: str
    blocks: Sequence[Block]
    fold: str | None = None


@dataclass(frozen=True)
class Page:
    """kicker, title, lead: the head. figure: the one big number, with its explanation. tiles: (number, what it is)."""

    kicker: str
    title: str
    figure: str
    explanation: str
    tiles: Sequence[tuple[str, str]]
    chapters: Sequence[Chapter]
    facts: Mapping[str, str]
    warnings: Sequence[str] = field(default=())
    made: str = ""

    @property
    def figures(self) -> list[Chart | Panels]:
        """Every picture, in order."""
        return [block for chapter in self.chapters for block in chapter.blocks if isinstance(block, Chart | Panels)]

    def to_html(self) -> str:
        """The whole page. Every text is escaped; pictures are inside as base64."""
        parts = [
            self._head(),
            *(_chapter(place, chapter) for place, chapter in enumerate(self.chapters)),
            self._facts(),
        ]
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{CSS}</style></head><body>"
            f"{parts[0]}<main>{''.join(parts[1:])}</main><footer>{escape(self.made)}</footer></body></html>\n"
        )

    def _head(self) -> str:
        tiles = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(number)}</dd></div>" for number, what in self.tiles)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.warnings)
        notes = f'<ul class="warn" role="note" aria-label="Read these numbers with care">{notes}</ul>' if notes else ""
        return (
            f'<header><p class="kicker">{escape(self.kicker)}</p><h1>{escape(self.title)}</h1>'
            f'<div class="hero"><p class="big">{escape(self.figure)}</p><p>{escape(self.explanation)}</p></div>'
            f'<dl class="tiles">{tiles}</dl>{notes}</header>'
        )

    def _facts(self) -> str:
        facts = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in self.facts.items()
        )
        return f'<section aria-labelledby="made"><h2 id="made">How these numbers were made</h2><dl class="facts">{facts}</dl></section>'


def _chapter(place: int, chapter: Chapter) -> str:
    blocks = "".join(_block(block) for block in chapter.blocks)
    if chapter.fold:
        blocks = f"<details><summary>{escape(chapter.fold)}</summary>{blocks}</details>"
    text = f"<p>{escape(chapter.text)}</p>" if chapter.text else ""
    return f'<section aria-labelledby="c{place}"><h2 id="c{place}">{escape(chapter.title)}</h2>{text}{blocks}</section>'


def _block(block: Block) -> str:
    if isinstance(block, Table):
        note = f'<p class="note">{escape(block.note)}</p>' if block.note else ""
        # The box scrolls, not the page; the keyboard must be able to reach it.
        return f'<div class="box" role="region" aria-label="{escape(block.title)}" tabindex="0">{block.to_html()}</div>{note}'
    if isinstance(block, Chart):
        return f'<figure class="chart" role="img" aria-label="{escape(block.alt)}">{block.to_svg()}</figure>'
    return _panels(block)


def _panels(block: Panels) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in block.columns)
    rows = []
    for caption, images, marks in zip(block.captions, block.images, block.marks, strict=True):
        cells = []
        for name, image, mark in zip(block.columns, images, marks, strict=True):
            alt = escape(", ".join(text for text in (caption, name, mark) if text))
            below = f"<span>{escape(mark)}</span>" if mark else ""
            cells.append(f'<td><img src="{data_uri(image)}" alt="{alt}">{below}</td>')
        rows.append(f'<tr><th scope="row">{escape(caption)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="box pictures" role="region" aria-label="{escape(block.alt)}" tabindex="0"><table>'
        f"<caption>{escape(block.title)}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
