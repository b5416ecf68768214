"""The region detector: YOLOv5 with the anchor-free head of ultralytics. The only file that imports ultralytics.

The library is kept to itself: no downloads, no telemetry, no integrations, no settings outside a temporary folder, no
pickled models of ours. Its weights are saved as safetensors and the network is built again from its description.
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
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.core.text import parse_json
from ufgvc.core.types import Box
from ufgvc.regions.boxes import suppress
from ufgvc.regions.letterbox import Pixels, letterbox
from ufgvc.regions.settings import Weights

FORMAT = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """How a detector is trained. learning_rate: of AdamW at its peak. mosaic: share of images put together from four."""

    weights: Weights = "yolov5n"
    image_size: int = 480
    epochs: int = 100
    batch: int = 8
    learning_rate: float = 2e-3
    mosaic: float = 0.0
    seed: int = 0


@dataclass
class Detector:
    """A trained network with what is needed to use it.

    image_size: longest side in pixels that the network sees.  most: boxes of each region on one leaf.  info: fingerprints, metrics.
    """

    net: nn.Module
    weights: Weights
    regions: tuple[str, ...]
    image_size: int
    most: dict[str, int]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: str) -> Detector:
        self.net.to(device)
        return self

    @torch.inference_mode()
    def predict(
        self, images: Sequence[Pixels], confidence: float = 0.001, overlap: float = 0.7, most: int = 300
    ) -> list[list[Box]]:
        """Boxes of each (H, W, 3) uint8 RGB image in its own pixels, best first: at most `most` of each region."""
        if not images:
            return []
        fitted = [letterbox(image, self.image_size) for image in images]
        batch = torch.from_numpy(np.stack([pixels for pixels, *_ in fitted])).to(self.device)
        answer = self.net(batch.permute(0, 3, 1, 2).float() / 255)
        raw = (answer[0] if isinstance(answer, tuple) else answer).float().cpu().numpy()  # (B, 4 + regions, cells)
        placed = zip(raw, images, fitted, strict=True)
        found = []
        for values, image, (_, (scale_x, scale_y), left, top) in placed:
            centre, size, scores = values[:2].T, values[2:4].T, values[4:].T
            corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
            corners = (corners - [left, top, left, top]) / [scale_x, scale_y, scale_x, scale_y]
            height, width = image.shape[:2]
            corners = np.clip(corners, 0, [width, height, width, height])
            found.append(self._best(corners, scores, confidence, overlap, most))
        return found

    def _best(
        self, corners: NDArray[Any], scores: NDArray[Any], confidence: float, overlap: float, most: int
    ) -> list[Box]:
        found: list[Box] = []
        for index, region in enumerate(self.regions):
            chosen = np.flatnonzero(scores[:, index] >= confidence)
            for k in suppress(corners[chosen], scores[chosen, index], overlap, most):
                x0, y0, x1, y1 = (float(v) for v in corners[chosen[k]])
                if x1 > x0 and y1 > y0:
                    found.append(Box(region, x0, y0, x1, y1, float(scores[chosen[k], index])))
        return sorted(found, key=lambda box: -box.score)

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors and model.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()}
        save_file(state, folder / "weights.safetensors")
        about: dict[str, Any] = {
            "format": FORMAT,
            "kind": "regions",
            "weights": self.weights,
            "regions": list(self.regions),
        }
        about |= {"image_size": self.image_size, "most": self.most, "info": self.info}
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_detector(folder: Path, device: str = "cpu") -> Detector:
    """A detector that `Detector.save` wrote. UserError if the folder holds none."""
    try:
        about = parse_json((folder / "model.json").read_bytes(), str(folder / "model.json"))
        state = load_file(folder / "weights.safetensors")
    except SafetensorError as error:
        where = str(folder / "weights.safetensors")
        raise UserError(f"is damaged: {error}", where=where, fix="run `ufgvc detect --fresh`") from None
    except FileNotFoundError as error:
        raise UserError(f"holds no detector ({error})", where=str(folder), fix="run `ufgvc detect` first") from None
    if about.get("kind") != "regions" or about.get("format") != FORMAT:
        raise UserError(
            "is not a region detector that this version reads", where=str(folder), fix="run `ufgvc detect` again"
        )
    net = build_net(about["weights"], len(about["regions"]))
    net.load_state_dict(state)
    detector = Detector(
        net.eval(), about["weights"], tuple(about["regions"]), about["image_size"], about["most"], about["info"]
    )
    return detector.to(device)


def build_net(weights: Weights, regions: int) -> nn.Module:
    """A fresh YOLOv5 network for so many regions. Random weights come from torch's global generator."""
    _ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    net: nn.Module = DetectionModel(f"{weights}.yaml", nc=regions, verbose=False)  # type: ignore[no-untyped-call]
    return net


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a state dict, or a checkpoint of ultralytics (.pt; a pickle: only trust your own)."""
    if not path.exists():
        raise UserError(
            "there is no such file of detector weights", where=str(path), fix="give a file, or use `init: synthetic`"
        )
    if path.is_dir():
        path = path / "weights.safetensors"
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    except Exception as error:  # safetensors, zip, pickle and ultralytics have no common base
        reason = str(error).partition("\n")[0] or type(error).__name__
        fix = "give a .safetensors file, or a .pt file of ultralytics"
        raise UserError(f"holds no weights that can be read ({reason})", where=str(path), fix=fix) from error


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # the published checkpoints are pickled models, which the safe reader refuses in several ways
        _ultralytics()
        from ultralytics.nn.tasks import load_checkpoint

        return dict(load_checkpoint(str(path))[0].float().state_dict())  # type: ignore[no-untyped-call]


def train_detector(
    data: Path,
    work: Path,
    regions: Sequence[str],
    plan: TrainingPlan,
    start: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Trains on a YOLO folder (`data`/images, `data`/labels) and returns the averaged (EMA) network of the last epoch.

    No epoch is chosen by a score: leaves that are measured later have no say. start: tensors to begin with; those whose name and
    shape fit are taken. on_epoch(epoch from 1, {loss name: mean}) after each. work: a folder that may be thrown away afterwards.
    """
    _ultralytics()
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Trainer(DetectionTrainer):  # the library offers no other way to keep its loop from saving pickles
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
            net = build_net(plan.weights, len(regions))
            if start is not None:
                taken = _take_fitting(net, start)
                log.info("detector starts from %d of %d tensors", taken, len(net.state_dict()))
            return net

        def validate(self) -> tuple[dict[str, float], float]:
            return {}, 0.0

        def save_model(self) -> bool:
            return False

        def final_eval(self) -> None:
            return None

    (data / "data.yaml").write_text(
        json.dumps(
            {"path": str(data.resolve()), "train": "images", "val": "images", "names": dict(enumerate(regions))}
        ),
        encoding="utf-8",
    )
    threads = torch.get_num_threads()
    trainer = Trainer(overrides=_overrides(data, work, plan, device))

    def started(_: Any) -> None:
        if device == "cpu":  # the library leaves one core unused
            torch.set_num_threads(cpu_count())

    def ended(state: Any) -> None:
        parts = {str(name): float(value) for name, value in (state.tloss or {}).items()}
        if not np.isfinite(sum(parts.values())):
            raise UserError(
                f"the detector's loss became {parts} in epoch {state.epoch + 1}",
                fix="lower `learning_rate` (0.001) or raise `batch`",
            )
        if on_epoch:
            on_epoch(state.epoch + 1, parts)

    trainer.callbacks = {event: [] for event in trainer.callbacks}  # drops every integration of the library
    trainer.add_callback("on_train_start", started)
    trainer.add_callback("on_train_epoch_end", ended)
    try:
        trainer.train()  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    assert trainer.ema is not None
    net: nn.Module = trainer.ema.ema.float().eval()
    for attribute in ("args", "criterion"):  # training's own belongings
        if hasattr(net, attribute):
            delattr(net, attribute)
    return net.requires_grad_(False)


def _overrides(data: Path, work: Path, plan: TrainingPlan, device: str) -> dict[str, Any]:
    return {
        "model": f"{plan.weights}.yaml",
        "data": str(data / "data.yaml"),
        "project": str(work.resolve()),
        "name": "training",
        "exist_ok": True,
        "epochs": plan.epochs,
        "batch": plan.batch,
        "nbs": plan.batch,  # one step a batch: a few dozen leaves make few steps as it is
        "imgsz": plan.image_size,
        "seed": plan.seed,
        "device": device,
        "optimizer": "AdamW",
        "lr0": plan.learning_rate,
        "cos_lr": True,
        "warmup_epochs": min(3.0, plan.epochs / 10),
        "warmup_bias_lr": 0.0,
        "pretrained": False,
        "amp": False,
        "workers": 0,
        "cache": False,  # a few small files; and its progress bars cannot be switched off
        "plots": False,
        "val": False,
        "save": False,
        "patience": 0,
        "verbose": False,
        "deterministic": True,
        # A leaf is photographed flat, upright and alone: small turns and shifts, and light that changes.
        "degrees": 8.0,
        "translate": 0.08,
        "scale": 0.25,
        "fliplr": 0.5,
        "flipud": 0.0,
        "hsv_h": 0.015,
        "hsv_s": 0.5,
        "hsv_v": 0.3,
        "mosaic": plan.mosaic,
        "close_mosaic": max(1, int(plan.epochs * 0.4)),
    }


def _take_fitting(net: nn.Module, start: Mapping[str, Tensor]) -> int:
    own = net.state_dict()
    fitting = {name: value for name, value in start.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) // 2:
        raise UserError(
            f"only {len(fitting)} of {len(own)} tensors fit this detector",
            where="init",
            fix="use weights of the same size",
        )
    net.load_state_dict({**own, **fitting})
    return len(fitting)


@functools.cache
def _ultralytics() -> ModuleType:
    """The library, imported once a process with everything that reaches outside switched off."""
    folder = Path(tempfile.mkdtemp(prefix="ufgvc-yolo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    import matplotlib

    fonts = folder / "Ultralytics"
    fonts.mkdir()
    # It looks for this file by its name and would fetch it from the network.
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", fonts / "Arial.ttf")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ |= {
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
    }
    # It replaces these by its own for the whole process; they are put back.
    opened, saved = Image.open, torch.save
    import ultralytics
    from ultralytics.utils import LOGGER, SETTINGS

    Image.open, torch.save = opened, saved
    if before is None:  # it would hold every later child process to one thread
        os.environ.pop("OMP_NUM_THREADS", None)
    switches = ("mlflow", "raytune", "clearml", "comet", "dvc", "neptune", "hub", "tensorboard", "wandb", "sync")
    SETTINGS.update({name: False for name in switches if name in SETTINGS})  # type: ignore[no-untyped-call]
    LOGGER.setLevel(logging.WARNING)
    return ultralytics
