"""The gallery of a page: its data, its counts, and its weight with many photographs."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.html_reader import Reader
from ufgvc.reports.gallery import Gallery
from ufgvc.reports.page import Page, Section

NAMES = ("</script><script>alert(1)</script>", "birch")


def leaf(number: int, known: bool = True) -> dict[str, Any]:
    return {
        "path": f"folder/<b>{number} ö.jpg",
        "known": known,
        "why": "" if known else "its out-of-distribution score is large",
        "candidates": [[number % 2, 0.7], [1 - number % 2, 0.3]],
        "nearest": [[0, 0.1], [1, 0.2]],
        "picture": f"predictions-page/{number:06d}.jpg",
        "width": 192,
        "height": 144,
        "has_map": True,
    }


def page(leaves: list[dict[str, Any]]) -> str:
    gallery = Gallery(NAMES, leaves, [(0, "a.jpg"), (1, "b.jpg")], "unknown")
    return Page("eyebrow", "title", "1", "one", [], [Section("Photographs", "", [gallery])], {}).to_html()


def test_names_and_paths_cannot_become_markup() -> None:
    html = page([leaf(0), leaf(1, known=False)])
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.faults == []
    assert [tag for tag, _ in reader.tags].count("script") == 2, "the data and the program"
    assert "<b>" not in html
    data = html.split('id="gallery-data">')[1].split("</script>")[0]
    assert json.loads(data)["names"] == list(NAMES)
    assert json.loads(data)["leaves"][1]["path"] == "folder/<b>1 ö.jpg"


def test_the_filter_counts_what_photographs_are_named() -> None:
    leaves = [leaf(0), leaf(1), leaf(3), leaf(5, known=False)]
    assert Gallery(NAMES, leaves, [], "unknown").counts == [("unknown", 1), (NAMES[0], 1), ("birch", 2)]


def test_ten_thousand_photographs_are_a_page_of_a_few_megabytes_and_no_elements() -> None:
    html = page([leaf(number) for number in range(10_000)])
    assert len(html) < 4e6
    reader = Reader()
    reader.feed(html)
    assert len(reader.tags) < 100, "the browser draws 24 at a time"


def test_a_page_without_a_gallery_has_no_script() -> None:
    html = Page("eyebrow", "title", "1", "one", [], [Section("Text", "only", [])], {}).to_html()
    assert "<script" not in html
    assert "gallery" not in html
