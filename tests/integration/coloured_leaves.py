"""Leaves of three colours, and trainings on them that happen once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ufgvc.core.config import to_yaml
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.methods import build
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.in_process import train_in_process
from ufgvc.training.run import make_worker_config
from ufgvc.training.saved_model import save_trained
from ufgvc.training.settings import TrainSettings

OFF = TrackingSettings(uri="off")
TRAINED: dict[str, tuple[dict[str, Any], str]] = {}
"""{validation: (what a training ends with, its metrics.jsonl)} of the trainings of this process"""
COLOURS = {"amber": (190, 110, 60), "birch": (90, 150, 80), "cedar": (90, 110, 160)}


def leaf(name: str, seed: int, side: int = 48) -> bytes:
    """Noise about the cultivar's colour."""
    random = np.random.default_rng([len(name), sum(map(ord, name)), seed])
    pixels = np.clip(np.array(COLOURS[name]) + random.normal(0, 40, 3) + random.normal(0, 25, (side, side, 3)), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def trained(data: str, runs: Path, validation: str = "last", tracking: TrackingSettings = OFF) -> str:
    """The URI of a run's model, as `train` writes it; without Ray Train, whose start takes longer than the training.

    All runs with the same validation are the same training, which happens once.
    """
    dataset = open_dataset(data)
    method = build("resnet50", len(dataset.classes), backbone="resnet18")
    settings = TrainSettings(
        init="none", epochs=6, batch_size=6, resize=40, crop=32, learning_rate=0.01, validation=validation, cache="host"
    )
    plan, identity = make_worker_config(dataset, method, settings, 0, None, str(runs))
    store = open_store(plan.run)
    if validation not in TRAINED:
        state = train_in_process(plan, torch.device("cpu"))
        TRAINED[validation] = (
            {name: state[name] for name in ("net", "best", "history")},
            store.read_text("metrics.jsonl"),
        )
    state, metrics = TRAINED[validation]
    store.write_text("metrics.jsonl", metrics)
    store.write_text("config.yaml", to_yaml(identity))
    run = start_run(Context(runs=str(runs), tracking=tracking), dataset.name, "train", identity, {}, store=store)
    with finish_run_on_exit(run):
        save_trained(store, dataset, method, plan, identity, state, run, neighbours=True)
    return f"{plan.run}/model"
