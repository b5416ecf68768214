"""Every flag that takes a place, and a run of a command with a place that may not be usable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import QUICK_TRAINING, Ended, ufgvc
from tests.documented import ROOT
from tests.golden.trainings import HERE
from ufgvc.commands import COMMANDS
from ufgvc.core.config import Settings
from ufgvc.core.places import place_marker

SIZES = ("--train.batch-size", "6", "--train.resize", "40", "--train.crop", "32")
OFF = ("--tracking.uri", "off")
SMALL = ("--backbones", "resnet50=shufflenet_v2_x0_5")
# What each command needs besides: {} is the folder of tests.
BASE: dict[str, tuple[str, ...]] = {
    "bench": (
        "--out",
        "{}/out",
        "--parts",
        "step",
        "--methods",
        "resnet50",
        "--backbones",
        "shufflenet_v2_x0_5",
        "--sides",
        "32",
    ),
    "synth": (
        "--out",
        "{}/out",
        "--cultivars",
        "2",
        "--train-per-cultivar",
        "1",
        "--test-per-cultivar",
        "1",
        "--size",
        "64",
    ),
    "ingest": ("--source", "{}/photographs", "--data", "{}/out", "--split", "0.5"),
    "detect": ("--data", "{}/data", "--runs", "{}/runs", "--init", "none", "--num-annotated", "4", *OFF),
    "mask": ("--data", "{}/data", "--runs", "{}/runs", "--box-source", "annotated", *OFF),
    "suggest": ("--data", "{}/data", "--runs", "{}/runs", "--out", "{}/out", *OFF),
    "train": ("--data", "{}/data", "--runs", "{}/runs", *QUICK_TRAINING, *SIZES, *OFF),
    "evaluate": (
        "--data",
        "{}/data",
        "--runs",
        "{}/runs",
        "--model",
        "{}/model",
        "--cam-leaves",
        "0",
        "--region-leaves",
        "0",
        *OFF,
    ),
    "predict": ("--source", "{}/photographs", "--runs", "{}/runs", "--model", "{}/model", "--out", "{}/out", *OFF),
    "serve": ("--runs", "{}/runs", "--model", "{}/model", *OFF),
    "audit": ("--data", "{}/data", "--runs", "{}/runs", "--out", "{}/out", "--init", "none", *OFF),
    "export": ("--model", "{}/model", "--runs", "{}/runs", "--out", "{}/out", *OFF),
    "calibrate": ("--data", "{}/data", "--runs", "{}/runs", "--model", "{}/model", *OFF),
    "pipeline": (
        "--source",
        "{}/photographs",
        "--data",
        "{}/out",
        "--runs",
        "{}/runs",
        "--split",
        "0.5",
        *QUICK_TRAINING,
        *SIZES,
        *OFF,
    ),
    "promote": ("--data", "{}/data", "--runs", "{}/runs", "--model", "{}/model"),
    "status": ("--data", "{}/data", "--runs", "{}/runs", *OFF),
    "sync": ("--runs", "{}/runs", *OFF),
    "benchmark": ("--data", "{}/data", "--runs", "{}/runs", "--methods", "resnet50", *SMALL, "--init", "none", *OFF),
    "pretrain": ("--data", "{}/data", "--runs", "{}/runs", "--architectures", "mobilenet_v2", *OFF),
    "search": ("--data", "{}/data", "--runs", "{}/runs", *QUICK_TRAINING, *SIZES, *OFF),
}


# A flag has an effect only with these.
WITH = {
    ("mask", "source"): ("--mask-kind", "exact"),
    ("mask", "detector"): ("--box-source", "detected"),
    ("detect", "coco-weights"): ("--init", "coco"),
    ("pipeline", "detect.coco-weights"): ("--detect.init", "coco"),
}
KINDS = {
    "file": "{}/text",
    "photograph": "{}/photographs/a/0.png",
    "below a file": "{}/text/below",
    "folder": "{}/other",
    "missing": "{}/new/missing",
    "empty": "{}/empty",
    "s3://": "s3://",
    "http": "http://127.0.0.1:1/x",
    "models": "models:/x",
}


def place_flags() -> list[tuple[str, str]]:
    """(command, flag without its dashes) of every setting that is marked as a place; a new one comes by itself."""
    found = [(name, flag) for name in COMMANDS.names() for flag in _flags(COMMANDS.get(name).settings("resnet50"))]
    # Where a run is recorded, and how a file of settings is read, is the same for all commands.
    return [("train", "config"), *(pair for pair in found if pair[0] == "train" or not pair[1].startswith("tracking."))]


def _flags(settings: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in settings.model_fields.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _flags(field.annotation, f"{flag}.")
        elif place_marker(field):
            yield flag


@dataclass
class World:
    """A folder with everything that the commands read: photographs/, data/, model/ and runs/, and unusable places."""

    root: Path
    digests: dict[tuple[object, ...], str] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(cls, root: Path) -> World:
        shutil.copytree(HERE / "leaves", root / "data")
        shutil.copytree(HERE / "model", root / "model")
        for folder in ("photographs/a", "photographs/b", "empty", "other", "runs"):
            (root / folder).mkdir(parents=True)
        for number, path in enumerate(sorted((HERE / "photographs").glob("leaf-*.png"))):
            for name in "ab":
                shutil.copy(path, root / "photographs" / name / f"{number}.png")
        (root / "photographs" / "b" / "2.png").write_bytes((HERE / "photographs" / "unknown.png").read_bytes())
        (root / "photographs" / "b" / "0.png").unlink()
        shutil.copy(HERE / "photographs" / "unknown.png", root / "photographs" / "a" / "1.png")
        (root / "text").write_text("a file that somebody needs\n")
        (root / "other" / "kept.txt").write_text("a file that somebody needs\n")
        return cls(root)

    def state(self) -> dict[str, str]:
        """The digest of every file that a command may only read; computed again where the file has changed."""
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                place, is_at = os.path.relpath(path, self.root), os.stat(path)
                if place.startswith("runs/"):
                    continue
                key = (place, is_at.st_ino, is_at.st_size, is_at.st_mtime_ns, is_at.st_ctime_ns)
                if key not in self.digests:
                    self.digests[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                found[place] = self.digests[key]
        return found

    def run(self, command: str, flag: str, value: str) -> Ended:
        """The command with one of its places set to `value`."""
        arguments = [word.format(self.root) for word in BASE[command]]
        more = WITH.get((command, flag), ())
        for known in (f"--{flag}", *(word for word in more if word.startswith("--"))):
            if known in arguments:
                at = arguments.index(known)
                del arguments[at : at + 2]
        if flag.startswith("tracking."):
            del arguments[-2:]
        return ufgvc(command, *arguments, *more, f"--{flag}", f"other={value}" if flag == "compare" else value)


class Reached(Exception):
    """The work would begin now."""


@contextlib.contextmanager
def _work(*args: Any, **kwargs: Any) -> Iterator[None]:
    raise Reached
    yield


def _reached(*args: Any, **kwargs: Any) -> Any:
    raise Reached


def without_work(patch: pytest.MonkeyPatch) -> None:
    """Makes every command stop where its Ray session or its computation would begin, with Reached."""
    for path in sorted((ROOT / "ufgvc").rglob("*.py")):
        text, name = path.read_text(), ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for begin, instead in (("ray_session", _work), ("runs_in_process", _reached), ("train_in_process", _reached)):
            if re.search(rf"import .*\b{begin}\b", text):
                patch.setattr(importlib.import_module(name), begin, instead, raising=False)
    for function in (
        "regions.train_detector.train_yolo",
        "models.onnx.to_onnx",
        "bench.run.matrix_rates",
        "evaluation.score.scores_in_process",
        "evaluation.audit.leaves.scores_in_process",
    ):
        patch.setattr(f"ufgvc.{function}", _reached)
    patch.setattr("ufgvc.bench.steps.check_cases", lambda *args: [])
    patch.setattr("ufgvc.core.process.cpu_count", lambda: 1)  # `synth` draws in this process
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        patch.delenv(name, raising=False)
