"""Builds, loads, trains and scores YOLOv5 networks with an anchor-free head; the only module that imports ultralytics.

The library is restricted: no downloads, no telemetry, no integrations, no settings outside of a temporary folder, and
no pickled models of ours.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.regions.settings import YoloModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class YoloConfig:
    """How a network is trained.

    image_size: longest side in pixels.  learning_rate: peak of AdamW's.  mosaic: share of images composed of four.
    """

    model: YoloModel = "yolov5n"
    image_size: int = 480
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    mosaic: float = 0.0
    seed: int = 0


def build_net(model: YoloModel, num_regions: int) -> nn.Module:
    """A new network; its random weights come from torch's global generator."""
    _ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    net: nn.Module = DetectionModel(f"{model}.yaml", nc=num_regions, verbose=False)  # type: ignore[no-untyped-call]
    return net


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a detector's folder, a state dict or a checkpoint of ultralytics (.pt).

    A checkpoint is a pickle, which can run code: only read your own. UserError if the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(
            "there is no such file of detector weights", where=str(path), fix="give a file, or use `init: synthetic`"
        )
    if path.is_dir():
        path = path / "weights.safetensors"
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    except Exception as error:  # the errors of safetensors, zip, pickle and ultralytics have no common base
        reason = str(error).partition("\n")[0] or type(error).__name__
        fix = "give a .safetensors file, or a .pt file of ultralytics"
        raise UserError(f"holds no weights that can be read ({reason})", where=str(path), fix=fix) from error


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # the published checkpoints are pickled models, which torch refuses with various errors
        _ultralytics()
        from ultralytics.nn.tasks import load_checkpoint

        return dict(load_checkpoint(str(path))[0].float().state_dict())  # type: ignore[no-untyped-call]


def train_yolo(
    data: Path,
    work: Path,
    regions: Sequence[str],
    config: YoloConfig,
    init: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains on a YOLO data set (`data`/images, `data`/labels) and returns the EMA network after the last epoch.

    No epoch is selected by a score. work: a temporary folder.  init: initial tensors; those whose name and shape fit
    are used.  on_epoch(epoch from 1, {loss: mean}): called after each epoch. UserError if a loss is not finite.
    """
    names = {"path": str(data.resolve()), "train": "images", "val": "images", "names": dict(enumerate(regions))}
    (data / "data.yaml").write_text(json.dumps(names), encoding="utf-8")
    threads = torch.get_num_threads()
    trainer = _trainer_class()(_overrides(data, work, config, device), len(regions), config.model, init)

    def use_all_cores(_: Any) -> None:
        if device == "cpu":  # the library leaves one core unused
            torch.set_num_threads(cpu_count())

    def end_epoch(state: Any) -> None:
        losses = {str(name): float(value) for name, value in (state.tloss or {}).items()}
        if not np.isfinite(sum(losses.values())):
            raise UserError(
                f"the detector's loss became {losses} in epoch {state.epoch + 1}",
                fix="lower `learning_rate` (0.001) or raise `batch_size`",
            )
        if on_epoch:
            on_epoch(state.epoch + 1, losses)

    trainer.callbacks = {event: [] for event in trainer.callbacks}  # removes every integration of the library
    trainer.add_callback("on_train_start", use_all_cores)
    trainer.add_callback("on_train_epoch_end", end_epoch)
    try:
        trainer.train()
    finally:
        torch.set_num_threads(threads)
    net: nn.Module = trainer.ema.ema.float().eval()
    for attribute in ("args", "criterion"):  # only used in training
        if hasattr(net, attribute):
            delattr(net, attribute)
    return net.requires_grad_(False)


@functools.cache
def _trainer_class() -> Any:
    _ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):
        """Trains our network without validation and without saving pickles; the library has no settings for that."""

        def __init__(
            self, overrides: dict[str, Any], num_regions: int, model: YoloModel, init: Mapping[str, Tensor] | None
        ) -> None:
            self.num_regions, self.model_name, self.init = num_regions, model, init
            super().__init__(overrides=overrides)

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            net = build_net(self.model_name, self.num_regions)
            if self.init is not None:
                loaded = _load_fitting(net, self.init)
                log.info("detector: %d of %d tensors initialised", loaded, len(net.state_dict()))
            return net

        def validate(self) -> tuple[dict[str, float], float]:
            return {}, 0.0

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None:
            return None

    return Trainer


def average_precision(matches: Sequence[bool], scores: Sequence[float], num_true: int) -> float:
    """AP in [0, 1] as YOLOv5 computes it, so that it compares with the paper's figures; 0.995 at the most.

    matches: whether each detection is a true positive.  scores: of the detections.  num_true: boxes to be found, > 0.
    """
    if not matches:
        return 0.0
    _ultralytics()
    from ultralytics.utils.metrics import ap_per_class

    classes, targets = np.zeros(len(matches)), np.zeros(num_true)
    return float(ap_per_class(np.array(matches)[:, None], np.array(scores), classes, targets)[5][0, 0])


def _overrides(data: Path, work: Path, config: YoloConfig, device: str) -> dict[str, Any]:
    return {
        "model": f"{config.model}.yaml",
        "data": str(data / "data.yaml"),
        "project": str(work.resolve()),
        "name": "training",
        "exist_ok": True,
        "epochs": config.epochs,
        "batch": config.batch_size,
        "nbs": config.batch_size,  # an optimizer step for each batch: a few dozen images make few steps
        "imgsz": config.image_size,
        "seed": config.seed,
        "device": device,
        "optimizer": "AdamW",
        "lr0": config.learning_rate,
        "cos_lr": True,
        "warmup_epochs": min(3.0, config.epochs / 10),
        "warmup_bias_lr": 0.0,
        "pretrained": False,
        "amp": False,
        "workers": 0,
        "cache": False,  # the files are few and small, and its progress bars cannot be switched off
        "plots": False,
        "val": False,
        "save": False,
        "patience": 0,
        "verbose": False,
        "deterministic": True,
        # A leaf is photographed flat, upright and alone, so rotations and shifts are small; the light varies.
        "degrees": 8.0,
        "translate": 0.08,
        "scale": 0.25,
        "fliplr": 0.5,
        "flipud": 0.0,
        "hsv_h": 0.015,
        "hsv_s": 0.5,
        "hsv_v": 0.3,
        "mosaic": config.mosaic,
        "close_mosaic": max(1, int(config.epochs * 0.4)),
    }


def _load_fitting(net: nn.Module, init: Mapping[str, Tensor]) -> int:
    """Loads the tensors that fit by name and shape and returns their number. UserError if fewer than half do."""
    own = net.state_dict()
    fitting = {name: value for name, value in init.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) // 2:
        raise UserError(
            f"only {len(fitting)} of {len(own)} tensors fit this detector",
            where="init",
            fix="use weights of the same `model`",
        )
    net.load_state_dict({**own, **fitting})
    return len(fitting)


@functools.cache
def _ultralytics() -> ModuleType:
    """Imports the library with everything switched off that leaves this process."""
    folder = Path(tempfile.mkdtemp(prefix="ufgvc-yolo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import matplotlib

    fonts = folder / "Ultralytics"
    fonts.mkdir()
    # The library downloads a font of this name unless the file exists.
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", fonts / "Arial.ttf")
    omp_threads = os.environ.get("OMP_NUM_THREADS")
    os.environ |= {
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
    }
    # It replaces these functions in the whole process; restore them.
    image_open, torch_save = Image.open, torch.save
    import ultralytics
    from ultralytics.utils import LOGGER, SETTINGS

    Image.open, torch.save = image_open, torch_save
    if omp_threads is None:  # it sets the variable, which would limit every later child process to one thread
        os.environ.pop("OMP_NUM_THREADS", None)
    switches = ("mlflow", "raytune", "clearml", "comet", "dvc", "neptune", "hub", "tensorboard", "wandb", "sync")
    SETTINGS.update({name: False for name in switches if name in SETTINGS})  # type: ignore[no-untyped-call]
    LOGGER.setLevel(logging.WARNING)
    return ultralytics
