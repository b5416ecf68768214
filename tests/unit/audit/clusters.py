"""Leaves in memory: clusters of embeddings, one a cultivar, and facts of photographs that were never taken."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from ufgvc.data.duplicates import ImageSignatures
from ufgvc.evaluation.audit.leaves import Leaves

FACTS = {"bytes": 9000, "width": 80, "height": 60, "quality": 90.0, "area": 0.4, "parts": 1.0, "on_frame": 0.0}
FACTS |= {"blur": 0.3, "light": 0.5, "clipped": 0.0}


def clusters(labels: Sequence[int], spread: float = 0.5, width: int = 12, seed: int = 0) -> np.ndarray:
    """(N, width) float32: a centre of its own for each label, and noise."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(labels) + 1, width))
    return (centres[np.asarray(labels)] + spread * rng.normal(size=(len(labels), width))).astype(np.float32)


def made_leaves(
    labels: Sequence[int],
    embedding: np.ndarray,
    groups: Sequence[str | None] | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Leaves:
    """Leaves with these labels and embeddings; every third one is a test leaf, and no two pictures are alike."""
    count, rng = len(labels), np.random.default_rng(seed)
    classes = tuple(classes or [f"cultivar {label}" for label in range(max(labels) + 1)])
    index = pa.table(
        {
            "image_id": [f"leaf {row}" for row in range(count)],
            "label": pa.array(list(labels), pa.int32()),
            "cultivar": [classes[label] for label in labels],
            "split": ["test" if row % 3 == 2 else "train" for row in range(count)],
            "group": pa.array(list(groups) if groups else [None] * count, pa.string()),
            "sha256": [f"{row}" for row in range(count)],
        }
    )
    pictures = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(count)]
    facts = {name: np.full(count, value) for name, value in FACTS.items()}
    facts |= {"file_type": np.array(["jpeg"] * count), "contrast": np.ones(count, bool), "plain": np.ones(count, bool)}
    return Leaves(
        index=index,
        classes=classes,
        facts=facts,
        background=rng.normal(size=(count, 13)).astype(np.float32),
        colour=rng.normal(size=(count, 15)).astype(np.float32),
        file=np.ones((count, 8), np.float32),
        embedding=embedding,
        signatures=ImageSignatures.from_thumbnails(pictures),
        thumbnails=[_jpeg(picture[:8, :8]) for picture in pictures],
    )


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    return buffer.getvalue()
