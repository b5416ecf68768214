"""A data set with registered versions of models that are right on chosen leaves: a real registry on SQLite."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from PIL import Image

from tests.factories import ingested
from ufgvc.cli import main
from ufgvc.models.calibration import Calibration, FeatureSubspace
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import register
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.tracking.versions import get_champion

CLASSES = ("amber", "birch", "cedar", "dogwood")
LEAVES = 40  # of the test split; leaf i is of cultivar i % 4
LABELS = [i % len(CLASSES) for i in range(LEAVES)]
SIZE = 32
FEATURES = 512  # of squeezenet1_1
LOCAL = TrackingSettings()


def photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_data(uri: str, name: str, classes: Sequence[str] = CLASSES, other: str = "") -> str:
    """A data set of 4 train and 40 test leaves.  other: changes its fingerprint."""
    shards = [
        (split, [(i % len(classes), photograph(first + i)) for i in range(rows)])
        for split, rows, first in (("train", 4, 1000), ("test", LEAVES, 0))
    ]
    return ingested(uri, name, classes, shards, SIZE, prefix=other)


class Field:
    """One data set with its registered versions."""

    def __init__(self, name: str, folder: Path, runs: str, write: Callable[..., str]) -> None:
        self.name, self.data, self.runs, self._write = name, str(folder / name), runs, write
        self.fingerprint = write_data(self.data, name)
        self.model = f"ufgvc-{name}"

    def add(self, wrong: Sequence[int], data: str | None = None, alias: str | None = "challenger", **info: Any) -> str:
        """Registers a model; returns its version."""
        version = register(
            self._write(wrong, data or self.fingerprint, **info),
            self.model,
            {},
            Context(runs=self.runs, tracking=LOCAL),
            alias,
        )
        assert version is not None
        return version

    def recalibrate(self, version: str, wrong: Sequence[int]) -> str:
        """Registers the training of a version with a threshold, as `calibrate` and `evaluate` do; returns its version.

        wrong: the test leaves that the network names wrongly.
        """
        run = self.client.get_model_version(self.model, version).run_id
        fitted = Calibration(temperature=1.5, threshold=2.0, num_images=4, source="3-fold").model_dump()
        about = {"run_id": run, "artifact": "model-calibrated", "calibration": fitted}
        folder = self._write(wrong, self.fingerprint, **about)
        subspace = FeatureSubspace(np.zeros(FEATURES, np.float32), np.zeros((0, FEATURES), np.float32))
        Path(folder, "feature_subspace.safetensors").write_bytes(subspace.to_bytes())
        number = register(folder, self.model, {}, Context(runs=self.runs, tracking=LOCAL))
        assert number is not None
        return number

    def command(self, *more: str) -> int:
        return main(["promote", "--data", self.data, "--runs", self.runs, "--max-actors", "0", *more])

    def champion(self) -> str | None:
        found = get_champion(self.model, Context(runs=self.runs, tracking=LOCAL))
        return found.number if found else None

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.model, version).tags)

    @property
    def client(self) -> MlflowClient:
        address = f"sqlite:///{self.runs}/mlflow.db"
        return MlflowClient(address, address)


def written(output: str) -> dict[str, Any]:
    """promotion.json, found as a script finds it: the last line that the command prints."""
    record: dict[str, Any] = json.loads(Path(output.strip().splitlines()[-1]).read_text())
    return record
