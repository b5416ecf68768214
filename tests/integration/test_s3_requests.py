"""How many requests an S3 server gets: they cost time and money, one by one."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.client import BaseClient
from PIL import Image

from ufgvc.core.storage import Store, open_store
from ufgvc.data.ingest import ingest
from ufgvc.training import metrics_file
from ufgvc.training.metrics_file import NAME, MetricsReader, MetricsWriter
from ufgvc.training.progress import poll_seconds

CULTIVARS = ("AK", "ALA")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests by operation, and the bytes that GetObject returned."""
    found: Counter[str] = Counter()
    call = BaseClient._make_api_call

    def count(client: BaseClient, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        found[operation] += 1
        answer = call(client, operation, arguments)
        if operation == "GetObject":
            found["bytes"] += answer["ContentLength"]
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", count)
    return found


def rows(count: int) -> list[dict[str, float]]:
    return [{"epoch": float(epoch), "loss": 1 / epoch, "seconds": 1.0} for epoch in range(1, count + 1)]


def upload_photographs(store: Store, each: int) -> None:
    random = np.random.default_rng(each)
    for split in ("train", "test"):
        for cultivar in CULTIVARS:
            for number in range(each):
                buffer = io.BytesIO()
                Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
                store.write_bytes(f"{split}/{cultivar}/{number}.jpg", buffer.getvalue())


def test_a_photograph_takes_one_request(
    s3: str, tmp_path: Path, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have joined this process to a Ray head, whose workers' requests are not counted here.
    monkeypatch.setattr("ufgvc.data.ingest.runs_in_process", lambda settings, photographs: True)
    seen = []
    for each in (2, 6):
        upload_photographs(open_store(f"{s3}/{each}"), each)
        requests.clear()
        ingest(f"{s3}/{each}", str(tmp_path / str(each)))
        seen.append(requests.copy())
    few, many = seen
    assert many["HeadObject"] == few["HeadObject"] <= 5
    assert many["ListObjectsV2"] == few["ListObjectsV2"] <= 10
    assert many["GetObject"] - few["GetObject"] == (6 - 2) * len(CULTIVARS) * 2


def test_a_history_is_followed_with_one_request_a_read(s3: str, requests: Counter[str]) -> None:
    run = open_store(f"{s3}/run")
    reader = MetricsReader(run)
    assert reader.read() == []
    MetricsWriter(run).flush(rows(200))
    assert len(reader.read()) == 200
    whole = requests["bytes"]
    requests.clear()
    assert reader.read() == rows(200)
    MetricsWriter(run).flush(rows(202))
    assert reader.read() == rows(202)
    assert requests["HeadObject"] == 0
    assert requests["GetObject"] == 2
    assert requests["bytes"] < whole / 20
    MetricsWriter(run).flush(rows(3))  # it went back to a checkpoint
    assert reader.read() == rows(3)
    run.delete(NAME)
    assert reader.read() == []


def test_short_epochs_do_not_write_an_object_each(s3: str, requests: Counter[str]) -> None:
    run = open_store(f"{s3}/run")
    writer = MetricsWriter(run)
    for count in range(1, 101):
        writer.add(rows(count))
    assert requests["PutObject"] <= 2
    writer.flush(rows(100))
    assert len(metrics_file.read_metrics(run)) == 100
    assert poll_seconds(run, rows(1)) >= 5
