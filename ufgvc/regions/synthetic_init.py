"""First weights for a detector where COCO's cannot be had: trained by ourselves on synthetic leaves, made once and kept."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import Tensor

from ufgvc.core.config import short_key
from ufgvc.core.storage import Store, open_store
from ufgvc.core.types import REGIONS
from ufgvc.data.images import decode
from ufgvc.data.readers.box_classes import decide_rules, to_regions
from ufgvc.data.readers.boxes import read_boxes
from ufgvc.regions.detector import Detector, TrainingPlan, read_weights, train_detector
from ufgvc.regions.letterbox import write_example
from ufgvc.regions.settings import PretrainSettings, Weights
from ufgvc.synthetic import SynthSettings, synthesize

log = logging.getLogger(__name__)
_VERSION = 1  # raise it when the synthetic leaves or this training change
_PER_CULTIVAR = 4


def synthetic_weights(runs: str, weights: Weights, settings: PretrainSettings, device: str) -> dict[str, Tensor]:
    """The tensors of a detector trained on synthetic leaves; taken from <runs>/_detectors/<key>/ if they are there, else made and kept."""
    key = short_key({"settings": settings.model_dump(), "weights": weights, "version": _VERSION})
    store = open_store(runs).child("_detectors", key)
    with tempfile.TemporaryDirectory(prefix="ufgvc-pretrain-") as name:
        folder = Path(name)
        if store.exists("model.json"):
            store.download(folder / "model")
        else:
            _make(folder, weights, settings, device)
            _keep(store, folder / "model")
        return read_weights(folder / "model")


def _make(folder: Path, weights: Weights, settings: PretrainSettings, device: str) -> None:
    log.info("detector: no synthetic start yet, training one on %d synthetic leaves", settings.leaves)
    count = max(2, settings.leaves // _PER_CULTIVAR)
    leaves = SynthSettings(
        preset=settings.preset,
        cultivars=count,
        train_per_cultivar=2,
        test_per_cultivar=_PER_CULTIVAR - 2,
        size=settings.image_size,
    )
    source = synthesize(
        folder / "leaves", leaves, seed=20211129
    )  # a seed that nobody uses by chance for data that is measured
    found = read_boxes(str(source / "labels"))
    rules, boxes_of = decide_rules(set(found.labels()), "auto"), dict(found.entries)
    for path in sorted((source / "images").iterdir()):
        image = decode(path.read_bytes())
        boxes = to_regions(boxes_of[path.stem], image.shape[1], image.shape[0], rules)
        write_example(folder / "yolo", path.stem, image, boxes, REGIONS, settings.image_size)
    plan = TrainingPlan(weights, settings.image_size, settings.epochs, batch=16)

    def told(epoch: int, losses: dict[str, float]) -> None:
        if epoch % 5 == 0 or epoch == settings.epochs:
            log.info("detector on synthetic leaves: epoch %d/%d  box %.3f", epoch, settings.epochs, losses["box_loss"])

    net = train_detector(folder / "yolo", folder / "work", REGIONS, plan, on_epoch=told, device=device)
    info = {"pretrain": settings.model_dump()}
    Detector(net, weights, REGIONS, settings.image_size, {"vein": 1, "contour": 2}, info).save(folder / "model")


def _keep(store: Store, model: Path) -> None:
    """model.json last: it says that the rest is whole."""
    store.write_bytes("weights.safetensors", (model / "weights.safetensors").read_bytes())
    store.write_bytes("model.json", (model / "model.json").read_bytes())
