"""docs/tutorial.md as a newcomer follows it: its commands in its order, on small drawn leaves of a telephone.

What a block of output shows must be printed like this, but for numbers, keys and the method that was chosen.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from tests.command_line import Ended, ufgvc
from tests.documented import ROOT
from tests.integration.service import ask_for_prediction, started
from ufgvc.synthetic import SynthSettings, synthesize

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALL = ("--budget", "0.01", "--train.resize", "64", "--train.crop", "64")
# Flags, besides those of the page, with which a command takes seconds.
QUICK: dict[str, tuple[str, ...]] = {
    "audit": ("--side", "64", "--folds", "2", "--repeats", "1"),
    "suggest": ("--pretrain.leaves", "8", "--pretrain.image-size", "64", "--pretrain.epochs", "1"),
    "train": SMALL,
    "pipeline": SMALL,
    "calibrate": ("--folds", "2"),
    "evaluate": ("--cam-leaves", "2", "--region-leaves", "0"),
}
# Each command, and the one that `ufgvc status` names after it.
ORDER = [
    ("ingest", "train"), ("status", "train"), ("audit", "train"), ("train", "calibrate"), ("calibrate", "evaluate"),
    ("evaluate", "promote"), ("pipeline", "promote"), ("promote", "predict"), ("predict", "predict"),
    ("serve", "predict"), ("suggest", "predict"), ("ingest", "predict"), ("status", "predict"),
]  # fmt: skip
SAME = {"audit": 3, "train": 1, "predict": 2}  # lines whose form is the same for all leaves; of other commands all
NAMES = ("Amalia", "Benno", "Carla")


def take_photographs(folder: Path) -> None:
    """photographs/<cultivar>/ and new-leaves/: half as HEIC, half as JPEG that EXIF turns; and boxes/ that a person
    drew on four of them.
    """
    settings = SynthSettings(cultivars=3, train_per_cultivar=4, test_per_cultivar=3, size=96)
    drawn = synthesize(folder / "drawn", settings, seed=5) / "images"
    (folder / "boxes").mkdir()
    (folder / "boxes" / "classes.txt").write_text("vein\ncontour\n")
    for number, path in enumerate(sorted(drawn.iterdir()), start=1001):
        cultivar, leaf, _ = path.stem.split("_")
        target = folder / ("new-leaves" if leaf == "7" else f"photographs/{NAMES[int(cultivar) - 1]}")
        target.mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        if number % 2:
            pillow_heif.from_pillow(image).save(target / f"IMG_{number}.HEIC", quality=95)
        else:
            exif = Image.Exif()
            exif[0x0112] = 6
            turned = image.transpose(Image.Transpose.ROTATE_90)
            turned.save(target / f"IMG_{number}.JPG", quality=95, exif=exif.tobytes())
    for photograph in sorted((folder / "photographs" / "Amalia").iterdir())[:4]:
        (folder / "boxes" / f"{photograph.stem}.txt").write_text("0 0.5 0.5 0.1 0.8\n1 0.5 0.5 0.8 0.8\n")


def steps() -> Iterator[tuple[str, str]]:
    """(a line to be typed, the output that the page shows below it)."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for (kind, text), (following, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        lines = text.splitlines() if kind == "sh" else []
        for line in lines:
            yield line, shown if line == lines[-1] and following == "text" else ""


def form_of(text: str, folder: Path) -> list[str]:
    """The lines of an output without what differs from run to run."""
    text = text.replace(f"{folder}/", "").replace("part_probe", "METHOD").replace("linear_probe", "METHOD")
    text = re.sub(r" and http://\S+ answer,", " answers,", text)  # a machine without a network has one address
    text = re.sub(r", \d+ of them unknown \(`known` is false\)", "", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "KEY", text)
    return [re.sub(r"\d+(\.\d+)*", "N", line) for line in text.splitlines()]


@dataclass
class Newcomer:
    """Types lines in a folder.  order: each command, and the next one that `ufgvc status` names."""

    folder: Path
    port: int
    variables: dict[str, str] = field(default_factory=dict)
    order: list[tuple[str, str]] = field(default_factory=list)

    def type(self, line: str, shown: str) -> None:
        """Runs a line, and checks that it prints what the page shows."""
        if re.match(r"[A-Z]+=", line):
            name, _, path = line.partition("=")
            assert form_of(path, self.folder) == form_of(self.variables["trained"], self.folder)
            self.variables[f"${name}"] = self.variables["trained"]
        elif line.startswith("ufgvc "):
            self._type_command(*(self.variables.get(word, word) for word in shlex.split(line)[1:]), shown=shown)
        else:
            subprocess.run(line, shell=True, check=True, cwd=self.folder, capture_output=True)

    def _type_command(self, name: str, *words: str, shown: str) -> None:
        text = self._serve(list(words)) if name == "serve" else self._run(name, *words).out
        if name == "train":
            self.variables["trained"] = text.strip().rpartition("model ")[2]
        printed = form_of(text, self.folder)
        for line in form_of(shown, self.folder)[: SAME.get(name)]:
            assert line in printed, f"ufgvc {name} prints {text}"
        assert "Last result" not in text
        (following,) = re.findall(r"^next: ufgvc (\w+)", self._run("status", "--data", "leaves").out, re.MULTILINE)
        self.order.append((name, following))

    def _run(self, name: str, *words: str) -> Ended:
        ended = ufgvc(name, *words, *QUICK.get(name, ()))
        assert ended.code == 0, ended.text
        return ended

    def _serve(self, words: list[str]) -> str:
        """The service answers one photograph for who has the token."""
        log, url = self.folder / "serve.log", f"http://127.0.0.1:{self.port}/predict"
        leaf = min((self.folder / "new-leaves").glob("*.HEIC"))
        with started(words, self.port, log, self.folder):
            assert ask_for_prediction(url, leaf.read_bytes(), leaf.name)[0] == 401
            token = (self.folder / "token").read_text().strip()
            status, answer = ask_for_prediction(url, leaf.read_bytes(), leaf.name, token)
            deadline = time.monotonic() + 60
            while "Control-C" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.2)  # its first line comes a moment after its first answer
        assert status == 200, answer
        assert answer["model"]["calibrated"]
        assert answer["predictions"][0]["candidates"][0]["cultivar"] in NAMES
        return log.read_text()


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("BROWSER", "true")  # the program that --show starts
    take_photographs(tmp_path)
    newcomer = Newcomer(tmp_path, free_port())
    for line, shown in steps():
        newcomer.type(line, shown)
    assert newcomer.order == ORDER
    for page in ("audit/audit.html", "predictions/predictions.html"):
        assert (tmp_path / page).is_file()
    assert len(list((tmp_path / "next" / "images").rglob("*.jpg"))) == 9, "every training leaf is suggested"
