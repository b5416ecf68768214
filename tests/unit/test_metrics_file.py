"""metrics.jsonl grows by a line an epoch, and is read again from its last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ufgvc.core.storage import Store, open_store
from ufgvc.training import metrics_file
from ufgvc.training.metrics_file import NAME, MetricsReader, MetricsWriter, read_metrics

Row = dict[str, float]


def rows(*epochs: int) -> list[Row]:
    return [{"epoch": float(epoch), "loss": 1 / epoch} for epoch in epochs]


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def whole_writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written in one go."""
    found: list[str] = []
    write = Store.write_text

    def count(store: Store, name: str, text: str) -> None:
        found.append(text)
        write(store, name, text)

    monkeypatch.setattr(Store, "write_text", count)
    return found


def test_each_epoch_appends_its_line(run: Store, whole_writes: list[str]) -> None:
    writer = MetricsWriter(run)
    for epoch in range(1, 6):
        writer.add(rows(*range(1, epoch + 1)))
        assert read_metrics(run) == rows(*range(1, epoch + 1))
    writer.flush(rows(1, 2, 3, 4, 5))
    assert len(whole_writes) == 1
    assert whole_writes[0].count("\n") == 1


def test_a_resumed_training_replaces_what_came_after_its_checkpoint(run: Store) -> None:
    MetricsWriter(run).add(rows(1, 2, 3, 4))
    resumed = MetricsWriter(run)
    resumed.add(rows(1, 2, 3))
    resumed.add(rows(1, 2, 3, 4))
    resumed.add(rows(1, 2, 3, 4, 5))
    assert read_metrics(run) == rows(1, 2, 3, 4, 5)


def test_a_line_that_is_not_complete_is_not_read(run: Store) -> None:
    MetricsWriter(run).add(rows(1, 2))
    path = run.local_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    reader = MetricsReader(run)
    assert reader.read() == rows(1)
    path.write_bytes(whole)
    assert reader.read() == rows(1, 2)


def test_only_new_bytes_are_read(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = MetricsWriter(run), MetricsReader(run)
    assert reader.read() == []
    starts: list[int] = []
    read_from = metrics_file.read_from

    def count(store: Store, name: str, start: int) -> bytes:
        starts.append(start)
        return read_from(store, name, start)

    monkeypatch.setattr(metrics_file, "read_from", count)
    for epoch in range(1, 4):
        writer.add(rows(*range(1, epoch + 1)))
        assert reader.read() == rows(*range(1, epoch + 1))
    assert reader.read() == rows(1, 2, 3)
    sizes = [len(line) for line in (run.local_path / NAME).read_bytes().splitlines(keepends=True)]
    assert starts == [0, *(sum(sizes[:count]) - 1 for count in (1, 2, 3))]


@pytest.mark.parametrize("after", [rows(1), rows(1, 2), rows(1, 2, 3), rows(1, 2, 3, 4, 5, 6), []])
def test_a_file_that_was_written_anew_is_read_anew(after: list[Row], run: Store) -> None:
    MetricsWriter(run).add(rows(1, 2, 3, 4))
    reader = MetricsReader(run)
    reader.read()
    changed = [row | {"loss": 0.123456789} for row in after]
    run.delete(NAME)
    if changed:
        MetricsWriter(run).add(changed)
    assert reader.read() == changed


class Bucket(Store):
    """A local folder that behaves as an object store."""

    @property
    def is_local(self) -> bool:
        return False


def test_an_object_is_not_written_each_epoch(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(run.uri, run.fs, run.path)
    now, cost = [100.0], 0.5
    written: list[int] = []
    write = Store.write_text

    def slow(store: Store, name: str, text: str) -> None:
        write(store, name, text)
        written.append(text.count("\n"))
        now[0] += cost

    monkeypatch.setattr(Store, "write_text", slow)
    monkeypatch.setattr(metrics_file.time, "monotonic", lambda: now[0])
    writer = MetricsWriter(bucket)
    for epoch in range(1, 1001):
        now[0] += 0.1
        writer.add(rows(*range(1, epoch + 1)))
    assert len(written) <= 3, "at most 1 % of the time"
    assert written[0] == 1, "the first epoch is seen at once"
    writer.flush(rows(*range(1, 1001)))
    assert len(read_metrics(run)) == 1000
    followed: list[tuple[int, int | None]] = []
    writer.on_progress = lambda history, checkpointed: followed.append((len(history), checkpointed))
    writer.add(rows(*range(1, 1002)))
    writer.mark_checkpoint(rows(*range(1, 1002)))
    assert followed == [(1001, None), (1001, 1001)]
