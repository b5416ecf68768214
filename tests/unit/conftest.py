"""Unit tests use no Ray: a head of its own takes each pytest process half a minute, and runs until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ufgvc.core.storage import Store
from ufgvc.data.stream import Chunk, decode_chunk


@dataclass(frozen=True)
class DecodedHere:
    """What `decode_chunks` returns, without its tasks, which the integration tests run."""

    store: Store
    chunks: list[Chunk]
    side: int

    def iter_batches(self, **how: Any) -> Iterator[dict[str, Any]]:
        assert how["batch_size"] is None, "a batch is a chunk"
        return (decode_chunk(self.store, chunk, self.side) for chunk in self.chunks)


@pytest.fixture(scope="package", autouse=True)
def _without_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("cache", "stream"):
            patch.setattr(f"ufgvc.data.{module}.decode_chunks", DecodedHere)
        patch.setattr("ray._private.auto_init_hook.enable_auto_connect", False)  # else the first use starts a head
        yield
