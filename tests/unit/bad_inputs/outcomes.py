"""The two ends of `ingest` with bad inputs: refused, or left out and listed."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset
from ufgvc.data.ingest import IngestSettings, ingest


def refused(source: Path, *texts: str, **options: object) -> str:
    """Ingest stops with one UserError that contains the texts, and leaves nothing."""
    data = source.parent / "data"
    with pytest.raises(UserError) as caught:
        ingest(str(source), str(data), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    for text in (*texts, "->"):
        assert text in message
    assert not [path for path in data.rglob("*") if path.is_file()]
    return message


def skipped(source: Path, **options: object) -> tuple[Dataset, dict[str, str]]:
    """Ingest leaves the bad input out: the data set, and the rows of rejected.csv."""
    data = source.parent / "skipped"
    dataset = ingest(str(source), str(data), settings=IngestSettings(on_bad_image="skip"), **options)  # type: ignore[arg-type]
    rows = list(csv.DictReader(io.StringIO((data / "rejected.csv").read_text())))
    return dataset, {row["path"]: row["reason"] for row in rows}
