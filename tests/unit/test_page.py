"""The page is one file without outside references; tags are closed, images described, texts escaped."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.unit.html_reader import Reader
from ufgvc.evaluation import metrics, paired_test
from ufgvc.evaluation.evaluation import Evaluation
from ufgvc.evaluation.reliability import Reliability
from ufgvc.reports import evaluation_figures, figures
from ufgvc.reports.evaluation_page import compose_evaluation
from ufgvc.reports.page import mark_code


def evaluation_page() -> str:
    """The report page of a model with every section, and names that must be escaped."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), 4)
    classes = ["A & B", "<script>alert(1)</script>", "C", "D", 'E "q"', "F"]
    scores = {name: metrics.score(rng.normal(size=(24, 6)), truth) for name in ("this <model>", "other")}
    tests = {"other": paired_test.mcnemar(truth > 2, truth > 3)}
    history = [{"epoch": e, "loss_classification": 1 / e, "train_accuracy": 1 - 1 / e} for e in (1, 2, 3)]
    picture = rng.integers(0, 255, (30, 20, 3), dtype=np.uint8)
    panels = figures.Panels(
        "cam", "Maps", "Maps of a leaf", ("original", "<b>"), ("A & B",), ((picture, picture),), (("", "C, wrong"),)
    )
    record = Evaluation(
        dataset="grapes",
        fingerprint="f00d",
        uris={name: name for name in scores},
        method="a <method>",
        classes=classes,
        scores=scores,
        tests=tests,
        history=history,
        reliability={name: Reliability(24, 1.5, 0.1) for name in scores},
        paper={"this <model>": 0.6208},
        facts={"Data": "s3://b/<x>"},
        warnings=["care & caution"],
    )
    return compose_evaluation(record, panels, None).to_html()


@pytest.fixture(scope="module")
def html() -> str:
    return evaluation_page()


@pytest.fixture(scope="module")
def reader(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_nothing_is_loaded_from_elsewhere(html: str, reader: Reader) -> None:
    assert not re.search(r"""(?:src|href|action|data|poster)\s*=\s*["'](?!data:|#)""", html)
    assert not re.search(r"url\((?!#|data:)|@import|https?://|\bxmlns", html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}


def test_every_tag_is_closed_and_identifiers_are_unique(reader: Reader) -> None:
    assert reader.faults == []
    assert reader.open == []
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) > 10


def test_references_inside_the_charts_resolve(html: str, reader: Reader) -> None:
    identifiers = {attributes.get("id") for _, attributes in reader.tags}
    used = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used
    assert used <= identifiers


def test_pictures_and_charts_are_described(reader: Reader) -> None:
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 2
    assert all(attributes.get("alt") for attributes in images)
    charts = [attributes for tag, attributes in reader.tags if tag == "figure"]
    assert len(charts) == 4
    assert all(len(attributes.get("aria-label") or "") > 20 for attributes in charts)
    assert sum(tag == "h1" for tag, _ in reader.tags) == 1
    assert ("html", {"lang": "en"}) in reader.tags


def test_texts_are_escaped(html: str) -> None:
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "this &lt;model&gt;" in html
    assert "s3://b/&lt;x&gt;" in html
    assert "62.08" in html
    assert "Show all 6 cultivars" in html


def test_backticks_mark_code(html: str) -> None:
    assert str(mark_code("`a <b>` & `c`, `")) == "<code>a &lt;b&gt;</code> &amp; <code>c</code>, `"
    assert "<code>ufgvc calibrate</code>" in html


def test_narrow_screens_and_dark_mode(html: str) -> None:
    assert "width=device-width" in html
    assert "prefers-color-scheme:dark" in html
    drawn = re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", html)
    assert "var(--accent)" in html
    assert not set(drawn) & set(figures.COLOURS)


def test_no_training_curve_without_metrics() -> None:
    assert evaluation_figures.training_chart([]) is None
    assert evaluation_figures.training_chart([{"epoch": 1, "seconds": 3.0}]) is None


def test_png_files_are_png() -> None:
    chart = evaluation_figures.recall_chart(np.array([0, 0.5, 1, np.nan]))
    assert chart.to_png().startswith(b"\x89PNG")
    assert "3 cultivars" in chart.alt
