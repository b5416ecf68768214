"""The page and the CSV files of an audit of leaves that were never photographed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.audit.clusters import clusters, made_leaves
from tests.unit.html_reader import Reader
from ufgvc.core.errors import UserError
from ufgvc.data.duplicates import ImageSignatures
from ufgvc.evaluation.audit import files, folds
from ufgvc.evaluation.audit.leaves import Leaves
from ufgvc.evaluation.audit.record import Audit, audit_leaves
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.reports.audit_page import compose_audit, page_warnings
from ufgvc.reports.audit_tables import first_table

QUICK = AuditSettings(folds=3, repeats=1)
CLASSES = ("A & B", "<script>alert(1)</script>", 'C "q"', "it's D")
TRUTH = np.repeat(np.arange(4), 9)
SWAPPED, COPY, ORIGINAL, BLURRED = 4, 35, 7, 20


def faulty_leaves() -> Leaves:
    """Clear cultivars; one leaf has a wrong label, one is a copy under another cultivar, one is blurred. The file's
    facts name the cultivar.
    """
    labels = TRUTH.copy()
    labels[SWAPPED] = 2
    embedding = clusters(TRUTH, spread=0.3)
    embedding[COPY] = embedding[ORIGINAL]
    leaves = made_leaves(labels.tolist(), embedding, classes=CLASSES)
    arrays = [getattr(leaves.signatures, name).copy() for name in ("hashes", "thumbnails", "colours")]
    for array in arrays:
        array[COPY] = array[ORIGINAL]
    leaves.facts["blur"][BLURRED] = 0.8
    camera = np.repeat(labels[:, None], 8, axis=1).astype(np.float32)
    return replace(leaves, signatures=ImageSignatures(*arrays), file=camera)


@pytest.fixture(scope="module")
def audit() -> Audit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "TREES", 10)  # as many as these clear faults need
        return replace(audit_leaves("grapes", faulty_leaves(), QUICK), facts={"Data set": "s3://b/<x>"})


@pytest.fixture(scope="module")
def html(audit: Audit) -> str:
    return compose_audit(audit).to_html()


@pytest.fixture(scope="module")
def reader(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def table(audit: Audit) -> Callable[[str], list[dict[str, str]]]:
    texts = files.audit_files(audit)
    return lambda name: list(csv.DictReader(io.StringIO(texts[name])))


def test_the_faults_are_found(audit: Audit) -> None:
    assert SWAPPED in audit.check.suspects
    assert audit.check.suggested[SWAPPED] == 0
    assert [each.rows for each in audit.copies] == [(ORIGINAL, COPY)]
    assert audit.copies[0].kind == "under several cultivars"
    assert audit.units[ORIGINAL] == audit.units[COPY]
    assert {each.sees: each.above_chance for each in audit.confounders} == {
        "background only": False,
        "camera facts only": True,
        "camera facts and bytes": True,
        "leaf colour only": False,
    }
    counted = {row[0]: row[1:3] for row in first_table(audit).rows}
    assert counted["confounders above chance, colour not counted"] == ["2", "of 3"]
    assert {SWAPPED, COPY, ORIGINAL, BLURRED} <= set(audit.to_look_at())
    assert len(audit.to_look_at()) < 12


def test_nothing_is_loaded_from_elsewhere(html: str, reader: Reader) -> None:
    assert not re.search(r"""(?:src|href|action|data|poster)\s*=\s*["'](?!data:|#)""", html)
    assert not re.search(r"url\((?!#|data:)|@import|https?://|\bxmlns", html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}


def test_tags_are_closed_identifiers_are_unique_and_pictures_described(reader: Reader) -> None:
    assert (reader.faults, reader.open) == ([], [])
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)) > 10
    assert all(attributes.get("alt") for tag, attributes in reader.tags if tag == "img")
    charts = [attributes for tag, attributes in reader.tags if tag == "figure"]
    assert len(charts) == 5
    assert all(len(attributes.get("aria-label") or "") > 20 for attributes in charts)


def test_the_map_shows_every_leaf_with_its_name_and_thumbnail(html: str, reader: Reader) -> None:
    titles = re.findall(r"<title>([^<]+): leaf (\d+)(.*?)</title>", html)
    assert sorted(int(number) for _, number, _ in titles) == list(range(36))
    suggested = {int(number): more for _, number, more in titles if more}
    assert suggested[SWAPPED] == ", suggested A &amp; B"
    assert sum(tag == "image" for tag, _ in reader.tags) == 36
    assert sum(attributes.get("class") == "ring" for _, attributes in reader.tags) == len(suggested)


def test_texts_are_escaped(html: str) -> None:
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "s3://b/&lt;x&gt;" in html


def test_the_page_says_what_limits_it(audit: Audit) -> None:
    first = page_warnings(audit)
    assert [text[:12] for text in first][:2] == ["Camera facts", "Camera facts"]
    assert any("--groups" in text for text in first)
    assert not any("trained on" in text for text in first)
    assert any("trained on the train leaves" in text for text in page_warnings(replace(audit, learned_from="train")))
    plants = made_leaves(TRUTH.tolist(), clusters(TRUTH), [f"plant {row // 3}" for row in range(36)], CLASSES)
    plain = np.arange(36) > 1
    unsure = replace(plants, facts=plants.facts | {"plain": plain})
    texts = page_warnings(replace(audit, leaves=unsure, confounders=[]))
    assert [text[:30] for text in texts] == ["2 photographs have no plain ba"]


def test_the_files_agree_with_the_audit(audit: Audit, table: Callable[[str], list[dict[str, str]]]) -> None:
    leaves = table(files.LEAVES)
    assert len(leaves) == 36
    assert leaves[BLURRED]["flags"] == "blurred"
    assert leaves[SWAPPED]["suggested_cultivar"] == "A & B"
    assert leaves[SWAPPED]["likely_mistake"] == "true"
    assert leaves[COPY]["copies"] == leaves[ORIGINAL]["copies"] == "0"
    assert [row["image_id"] for row in table(files.COPIES)] == [f"leaf {ORIGINAL}", f"leaf {COPY}"]
    assert [row["image_id"] for row in table(files.MISTAKES)] == [f"leaf {row}" for row in audit.check.suspects]
    assert len(table(files.PAIRS)) == 6
    assert len(table(files.CONFOUNDERS)) == 5
    assert [row["measured"] for row in table(files.CURVE)] == ["true"] * len(audit.growth.points) + ["false"]
    cultivars = table(files.CULTIVARS)
    assert sum(int(row["train"]) + int(row["test"]) for row in cultivars) == 36
    assert sum(int(row["likely_mistakes"]) for row in cultivars) == len(audit.check.suspects)


def test_copies_alone_cannot_be_audited() -> None:
    leaves = made_leaves([0, 0, 1, 1], clusters([0, 0, 1, 1]))
    arrays = [getattr(leaves.signatures, name).copy() for name in ("hashes", "thumbnails", "colours")]
    for array in arrays:
        array[1], array[3] = array[0], array[2]
    with pytest.raises(UserError, match="without copies"):
        audit_leaves("grapes", replace(leaves, signatures=ImageSignatures(*arrays)), QUICK)
