"""The training leaves that a model carries, to show which of them a new leaf resembles most."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.models.calibration import normalize_rows

TRAINING_LEAVES = "training_leaves.parquet"
PER_CLASS, IN_ALL = 20, 2000  # leaves at most
NEIGHBOURS = 5
SIDE = 128  # pixels, the longer side of a thumbnail
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingLeaves:
    """N training leaves of a model: their embeddings and thumbnails, without metadata.

    embeddings: (N, C) float32, features (`Method.pool_features`) of unit length.  labels: (N,).  image_ids: of the
    data set.  thumbnails: JPEG files.
    """

    embeddings: NDArray[np.float32]
    labels: Ints
    image_ids: Sequence[str]
    thumbnails: Sequence[bytes]

    @classmethod
    def of_features(
        cls, features: NDArray[np.float32], labels: Ints, image_ids: Sequence[str], thumbnails: Sequence[bytes]
    ) -> TrainingLeaves:
        """From pooled features (N, C) of any length."""
        return cls(normalize_rows(features).astype(np.float32), labels, image_ids, thumbnails)

    def __len__(self) -> int:
        return len(self.labels)

    def nearest(self, features: NDArray[np.floating], k: int = NEIGHBOURS) -> tuple[Ints, NDArray[np.float64]]:
        """Indices and distances (M, k) of the leaves nearest to pooled features (M, C), the nearest first.

        The distance is 1 - cos, in [0, 2]. With fewer than k leaves all of them.
        """
        distances = np.clip(1 - normalize_rows(features) @ self.embeddings.T.astype(np.float64), 0, 2)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return order, np.take_along_axis(distances, order, axis=1)

    def to_bytes(self) -> bytes:
        """The content of training_leaves.parquet; embeddings are rounded to float16."""
        width = self.embeddings.shape[1]
        flat = pa.array(self.embeddings.astype(np.float16).ravel())
        columns = {
            "image_id": pa.array(list(self.image_ids), pa.string()),
            "label": pa.array(self.labels, pa.int32()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
            "thumbnail": pa.array(list(self.thumbnails), pa.binary()),
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str = TRAINING_LEAVES) -> TrainingLeaves:
        """The inverse of `to_bytes`.  where: the file, for the message.  UserError if it is damaged."""
        try:
            table = pq.read_table(io.BytesIO(content), columns=["image_id", "label", "embedding", "thumbnail"])
        except (pa.ArrowException, OSError) as error:
            fix = "copy the model again, or delete the file: predictions then show no training leaves"
            raise UserError(f"is damaged: {error}", where=where, fix=fix) from None
        embeddings = np.stack(table["embedding"].to_numpy()).astype(np.float32)
        labels = table["label"].to_numpy().astype(np.int64)
        return cls(embeddings, labels, table["image_id"].to_pylist(), table["thumbnail"].to_pylist())


def choose_leaves(labels: Ints) -> Ints:
    """Sorted indices of the leaves that a model carries: at most PER_CLASS of a class and about IN_ALL in all, evenly
    spaced among those of the class, and one of each class at least.
    """
    classes = np.unique(labels)
    limit = min(PER_CLASS, max(1, IN_ALL // max(1, len(classes))))
    chosen = []
    for label in classes:
        places = np.flatnonzero(labels == label)
        chosen.append(places[np.linspace(0, len(places) - 1, min(limit, len(places))).round().astype(int)])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
