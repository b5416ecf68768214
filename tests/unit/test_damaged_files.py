"""A file of ours that was cut off or edited is one message with its name, wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.factories import image_folder, put
from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_file, read_parquet_rows, write_parquet_file
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_index, read_manifest
from ufgvc.data.ingest import ingest
from ufgvc.models.model import load_model
from ufgvc.regions.detector import load_detector


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"null, or something else"])
def test_json(tmp_path: Path, data: bytes) -> None:
    put(tmp_path / "x.json", data)
    with pytest.raises(UserError) as caught:
        open_store(tmp_path).read_json("x.json")
    assert f"{tmp_path}/x.json: is" in str(caught.value)
    assert "->" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, -8])
def test_parquet(tmp_path: Path, keep: int) -> None:
    store = open_store(tmp_path)
    write_parquet_file(store, "x.parquet", pa.table({"a": list(range(1000))}))
    put(tmp_path / "x.parquet", store.read_bytes("x.parquet")[:keep])
    for read in (lambda: read_parquet_file(store, "x.parquet"), lambda: read_parquet_rows(store, "x.parquet", 0, 10)):
        with pytest.raises(UserError, match=r"x.parquet: is not a complete Parquet file"):
            read()


@pytest.mark.parametrize("file", ["dataset.json", "regions/annotated/manifest.json", "images"])
def test_a_data_set(tmp_path: Path, file: str) -> None:
    ingest(str(image_folder(tmp_path / "source")), str(tmp_path / "data"))
    damaged = next((tmp_path / "data" / "images").glob("*.parquet")) if file == "images" else tmp_path / "data" / file
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(UserError, match=damaged.name):
        read_manifest(open_dataset(str(tmp_path / "data")), "regions/annotated") and read_index(
            open_dataset(str(tmp_path / "data"))
        )


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_a_model_and_a_detector(tmp_path: Path, file: str) -> None:
    put(tmp_path / "model.json", '{"format": 1, "kind": "regions"}')
    put(tmp_path / "weights.safetensors", b"x" * 20)
    put(tmp_path / file, b"{")
    for load in (load_detector, load_model):
        with pytest.raises(UserError, match=r"is damaged|is a region detector, not a classifier"):
            load(tmp_path if load is load_detector else str(tmp_path))  # type: ignore[arg-type]
