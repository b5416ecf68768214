"""The memory of ingest's own process while it lists photographs: at most 200 bytes each, none of them made here."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ufgvc.core.storage import open_store
from ufgvc.data.duplicates import SIGNATURE_SHAPES, ImageSignatures, find_duplicates
from ufgvc.data.fingerprints import fingerprint_of
from ufgvc.data.ingest import IngestSettings, assign_all_splits
from ufgvc.data.packing import PackedShard, plan_shards
from ufgvc.data.readers import list_source
from ufgvc.data.readers.annotations import read_annotations
from ufgvc.data.readers.listing import check_names
from ufgvc.data.readers.scan import scan
from ufgvc.data.readers.snapshot import source_state
from ufgvc.data.spool import INDEX_SCHEMA, Spool, Texts

BOUND = 200  # bytes a photograph
FEW, MANY = 8_000, 24_000


def peak_bytes(work: Callable[[int], object], count: int) -> int:
    """The most that Python, numpy and Arrow hold at a time, of what `work(count)` allocates."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work(count)
        return tracemalloc.get_traced_memory()[1] + int(pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def bytes_each(work: Callable[[int], object]) -> float:
    """Peak bytes of each further photograph."""
    work(100)  # imports
    return (peak_bytes(work, MANY) - peak_bytes(work, FEW)) / (MANY - FEW)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """A source of so many photographs that are not there."""

    def make(count: int) -> str:
        def walk(store: object) -> Iterator[tuple[str, int, int, str]]:
            for number in range(count):
                yield f"cultivar-{number % 20 + 1}/IMG_2026_{number:08d}.jpg", 190_000 + number, 10**18 + number, ""

        monkeypatch.setattr(sys.modules["ufgvc.data.readers.scan"], "list_files", walk)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("pattern", [None, r"_(\d{6})\d\d\.jpg"], ids=["no plants", "plants"])
def test_a_listed_photograph_takes_few_bytes(listed: Callable[[int], str], pattern: str | None) -> None:
    def work(count: int) -> None:
        source = listed(count)
        listing = list_source(source)
        assign_all_splits(listing, source, 0.5, 0, IngestSettings(group_pattern=pattern))
        annotated = read_annotations(None, listing, "auto")
        check_names(listing, source)
        plans = plan_shards(listing.photos, annotated.by_path, shard_bytes=128 << 20)
        assert sum(len(plan.photos) for plan in plans) == count

    assert 40 < bytes_each(work) < BOUND


def test_the_state_of_the_source_takes_few_bytes(listed: Callable[[int], str]) -> None:
    assert 40 < bytes_each(lambda count: sum(1 for _ in source_state(listed(count)))) < BOUND


def test_what_tasks_have_learned_takes_few_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def packed(start: int, rows: int) -> PackedShard:
        numbers = range(start, start + rows)
        values = {
            "image_id": [f"cultivar/IMG_{number:08d}" for number in numbers],
            "cultivar": ["cultivar"] * rows,
            "split": ["train"] * rows,
            "group": [None] * rows,
            "sha256": [f"{number:064d}" for number in numbers],
        }
        columns = [pa.array(values.get(field.name, [1] * rows), field.type) for field in INDEX_SCHEMA]
        coarse = {name: random.integers(0, 256, (rows, 4, 4), np.uint8) for name in SIGNATURE_SHAPES}
        arrays = {name: np.resize(coarse[name], (rows, *shape)) for name, shape in SIGNATURE_SHAPES.items()}
        arrays["thumbnails"] = coarse["thumbnails"].repeat(8, axis=1).repeat(8, axis=2)
        return PackedShard(None, None, pa.table(columns, INDEX_SCHEMA), ImageSignatures(**arrays))

    def work(count: int) -> None:
        spool = Spool(tmp_path)
        for start in range(0, count, 500):
            spool.add(packed(start, min(500, count - start)))
        index = spool.index()
        assert find_duplicates(spool.signatures(), Texts(index["sha256"])) == []
        assert len(fingerprint_of(index)) == 64
        assert index.num_rows == count == spool.index_without({"cultivar/none"}).num_rows

    assert bytes_each(work) < BOUND


def test_files_are_in_the_order_of_python(tmp_path: Path) -> None:
    for name in ("b", "ä", "Z", "a/2", "a 1", "\U0001f33f", "\uffee"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = scan(open_store(tmp_path)).sizes
    assert list(found) == sorted(found)
    assert dict(found.items()) == dict.fromkeys(found, 1)
    assert "a/2" in found
    assert "a" not in found
