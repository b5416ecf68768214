"""Initial weights of a detector, trained on synthetic leaves once and kept with the runs."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from torch import Tensor

from ufgvc.core.config import short_key
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import open_store
from ufgvc.data.images import decode
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.boxes import read_boxes
from ufgvc.regions.annotated import write_example
from ufgvc.regions.detector import Detector, load_detector
from ufgvc.regions.settings import SyntheticInitSettings, YoloModel
from ufgvc.regions.yolo import YoloConfig, train_yolo
from ufgvc.synthetic import SynthSettings, synthesize

log = logging.getLogger(__name__)
_VERSION = 1  # raise it when the synthetic leaves or this training change
_PER_CULTIVAR = 4
_SEED = 20211129  # unlikely to be the seed of synthetic leaves that a detector is evaluated on


def synthetic_weights(runs: str, model: YoloModel, settings: SyntheticInitSettings, device: str) -> dict[str, Tensor]:
    """The tensors of `synthetic_detector`."""
    return synthetic_detector(runs, model, settings, device).net.state_dict()


def synthetic_detector(runs: str, model: YoloModel, settings: SyntheticInitSettings, device: str) -> Detector:
    """A detector trained on synthetic leaves; trains it if <runs>/_detectors/<key>/ does not exist."""
    key = short_key({"settings": settings.model_dump(), "weights": model, "version": _VERSION})
    store = open_store(runs).child("_detectors", key)
    with tempfile.TemporaryDirectory(prefix="ufgvc-pretrain-") as name:
        folder = Path(name)
        if store.exists("model.json"):
            store.download(folder / "model")
        else:
            _train(folder, model, settings, device)
            for file in ("weights.safetensors", "model.json"):  # model.json last: with it the folder is complete
                store.write_bytes(file, (folder / "model" / file).read_bytes())
        return load_detector(folder / "model", device)


def _train(folder: Path, model: YoloModel, settings: SyntheticInitSettings, device: str) -> None:
    log.info("detector: training initial weights on %d synthetic leaves", settings.leaves)
    leaves = SynthSettings(
        preset=settings.preset,
        cultivars=max(2, settings.leaves // _PER_CULTIVAR),
        train_per_cultivar=2,
        test_per_cultivar=_PER_CULTIVAR - 2,
        size=settings.image_size,
    )
    source = synthesize(folder / "leaves", leaves, seed=_SEED)
    found = read_boxes(str(source / "labels"))
    rules, boxes_of = choose_rules(set(found.labels()), "auto"), dict(found.entries)
    for path in sorted((source / "images").iterdir()):
        image = decode(path.read_bytes())
        boxes = to_regions(boxes_of[path.stem], image.shape[1], image.shape[0], rules)
        write_example(folder / "yolo", path.stem, image, boxes, PAPER_REGIONS, settings.image_size)
    config = YoloConfig(model, settings.image_size, settings.epochs, batch_size=16)

    def on_epoch(epoch: int, losses: dict[str, float]) -> None:
        if epoch % 5 == 0 or epoch == settings.epochs:
            log.info("detector on synthetic leaves: epoch %d/%d  box %.3f", epoch, settings.epochs, losses["box_loss"])

    net = train_yolo(folder / "yolo", folder / "work", PAPER_REGIONS, config, on_epoch=on_epoch, device=device)
    info = {"pretrain": settings.model_dump()}
    Detector(net, model, PAPER_REGIONS, settings.image_size, {"vein": 1, "contour": 2}, info).save(folder / "model")
