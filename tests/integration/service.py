"""A registered model of two versions, and `ufgvc serve` in a process of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import torch
from PIL import Image

from tests.integration.served_models import CLASSES, INPUT, photograph
from ufgvc import methods
from ufgvc.data.images import decode
from ufgvc.data.resize import encode_thumbnail
from ufgvc.models.format import save_model
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.models.training_leaves import TrainingLeaves
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import CHAMPION, register_folder, registry_client

ROOT = Path(__file__).parents[2]
NAME = "ufgvc-served"
SECOND = [f"second {name}" for name in CLASSES]  # the names of version 2
BOUNDARY = "a-boundary"


def heic(seed: int) -> bytes:
    """`photograph` as HEIC, nearly without loss."""
    image = Image.fromarray(decode(photograph(seed, "PNG")))
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=100, chroma=444)
    return buffer.getvalue()


@dataclass(frozen=True)
class Registered:
    """folder: of version 1.  context: of the registry, whose versions 1 and 2 differ in the names of the cultivars."""

    folder: Path
    context: Context

    def model(self) -> LoadedModel:
        return load_model(str(self.folder))

    def promote(self, version: str) -> None:
        with registry_client(self.context) as (client, _):
            client.set_registered_model_alias(NAME, CHAMPION, version)


def register_models(root: Path) -> Registered:
    """A network that names photograph k cultivar k, with its seven photographs as training leaves."""
    torch.manual_seed(0)
    method = methods.build("mask_guided", len(CLASSES), backbone="shufflenet_v2_x0_5")
    method.net.eval()
    photographs = [photograph(seed, "PNG") for seed in range(len(CLASSES))]
    save_model(root / "plain", method, CLASSES, INPUT)
    plain = load_model(str(root / "plain"))
    images = [plain.read(each) for each in photographs]
    with torch.no_grad():
        outputs = method.net(plain.view(images))
        method.net.classifier.weight.copy_(10 * torch.linalg.pinv(outputs["embedding"].double().T))
        if method.net.classifier.bias is not None:
            method.net.classifier.bias.zero_()
        features = method.pool_features(outputs).numpy()
    thumbnails = [encode_thumbnail(decode(each), 128) for each in photographs]
    labels = np.arange(len(CLASSES))
    leaves = TrainingLeaves.of_features(features, labels, [f"leaf-{i}" for i in labels], thumbnails)
    context = Context(runs=str(root / "runs"))
    for folder, names, alias in (("one", CLASSES, CHAMPION), ("two", SECOND, None)):
        save_model(root / folder, method, names, INPUT, leaves=leaves)
        register_folder(str(root / folder), NAME, {}, context, alias)
    return Registered(root / "one", context)


@dataclass(frozen=True)
class Service:
    """A service that runs.  url: without a slash at the end."""

    url: str
    process: subprocess.Popen[bytes]
    registered: Registered

    def get(self, path: str) -> tuple[int, str]:
        """The status and the text."""
        return _ask(urllib.request.Request(self.url + path))

    def predict(self, content: bytes, query: str = "", name: str = "leaf.jpg") -> tuple[int, Any]:
        """The status and the JSON of an answer to one file."""
        return ask_for_prediction(f"{self.url}/predict{query}", content, name)

    def version(self) -> str:
        """Which version of the model answers."""
        return str(json.loads(self.get("/health")[1])["model"]["version"])


def ask_for_prediction(url: str, content: bytes, name: str, token: str = "") -> tuple[int, Any]:
    """The status and the JSON of an answer to one file, sent as a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    status, text = _ask(urllib.request.Request(url, body, headers))
    return status, json.loads(text)


def _ask(request: urllib.request.Request) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def serving(registered: Registered, port: int, log: Path, *flags: str) -> Iterator[Service]:
    """The service of the champion, on loopback; it is ended with SIGTERM."""
    words = ["--model", f"models:/{NAME}@{CHAMPION}", "--runs", registered.context.runs, *flags]
    with started(words, port, log) as process:
        yield Service(f"http://127.0.0.1:{port}", process, registered)


@contextmanager
def started(words: list[str], port: int, log: Path, folder: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    """`ufgvc serve` with these words, in a folder, when it answers on this machine; it is ended with SIGTERM."""
    command = [sys.executable, "-m", "ufgvc", "serve", *words, "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "RAY_ADDRESS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True, cwd=folder
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 143, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, within: float = 400) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if _ask(urllib.request.Request(url))[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"no answer within {within:.0f} s: {log.read_text()}")


def damaged(seed: int) -> bytes:
    """A photograph that is cut off, or has bytes of another value, or was no photograph at all."""
    rng = np.random.default_rng(seed)
    whole = [photograph(1, "JPEG"), photograph(1, "PNG"), photograph(1, "WEBP"), photograph(1, "TIFF"), heic(1)][
        seed % 5
    ]
    if seed % 3 == 0:
        return whole[: int(rng.integers(1, len(whole) // 2))]
    if seed % 3 == 1:
        return bytes(rng.integers(0, 256, 500, dtype=np.uint8))
    changed = bytearray(whole)
    for place in rng.integers(0, len(whole), 200):
        changed[place] = int(rng.integers(0, 256))
    return bytes(changed)
