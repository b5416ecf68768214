"""What travels to a GPU host (cluster/gpu), and the whole call on a CPU in an environment like the host's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.gpu import pack, wheels
from cluster.gpu.paths import GpuCallError
from cluster.gpu.trainings import GREY_ROWS
from tests.integration.gpu_call import ROOT, call

# The packages of the host (its Python is 3.12), without those that travel.
HOST = (
    *(
        "torch==2.11.0",
        "torchvision==0.26.0",
        "timm",
        "safetensors",
        "numpy==2.5.*",
        "pandas",
        "pyarrow",
        "scipy",
        "scikit-learn",
    ),
    *(
        "scikit-image",
        "pillow",
        "opencv-python-headless",
        "matplotlib",
        "rich",
        "pyyaml",
        "filelock",
        "psutil",
        "onnx",
        "onnxruntime",
    ),
    *(
        "onnxscript",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "jinja2",
        "requests",
        "fsspec",
        "aiohttp",
    ),
)


RESULTS = {
    "tests.json",
    "bench.json",
    "bench.md",
    "trainings.json",
    "trainings.md",
    "log.txt",
    "summary.json",
    "summary.txt",
    "runs.tar.gz",
}


def test_a_pack_that_is_too_large_names_what_is(tmp_path: Path) -> None:
    folder = tmp_path / ".gpu" / "data"
    folder.mkdir(parents=True)
    (folder / "large.bin").write_bytes(bytes(3 << 20))
    (folder / "small.bin").write_bytes(bytes(1 << 20))
    assert pack.describe_size(folder, limit=4 << 20) == ".gpu/data: 4.0 MiB of at most 4"
    with pytest.raises(
        GpuCallError, match=r"4\.0 MiB, more than the 3 MiB .* largest: large\.bin 3\.0 MiB, small\.bin 1\.0 MiB"
    ):
        pack.describe_size(folder, limit=3 << 20)


def test_without_a_network_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(pack, "WHEELS", tmp_path / "wheels")
    assert pack.main(["wheels"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gpu-pack: pip could not fetch the wheels; is there a network? It said: ERROR")
    assert len(said.err.splitlines()) == 1


def test_wheels_are_fetched_again_only_when_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(what: list[str], folder: Path, host: bool = True) -> None:
        fetched.extend(what)
        for name, _, version in (each.partition("==") for each in what):
            (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_bytes(b"x")

    monkeypatch.setattr(wheels, "download", download)
    monkeypatch.setattr(wheels, "slim", lambda wheel: None)
    assert wheels.fill(tmp_path / "wheels")
    assert len(fetched) == len(wheels.NEEDED)
    assert not wheels.fill(tmp_path / "wheels")
    next((tmp_path / "wheels").glob("ray-*.whl")).write_bytes(b"half")
    assert wheels.fill(tmp_path / "wheels")
    assert len(fetched) == 2 * len(wheels.NEEDED)


def python312() -> str | None:
    """A Python like the host's; a shim of pyenv may be there without starting."""
    candidates = [shutil.which("python3.12"), *sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python"))]
    for path in filter(None, candidates):
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


@pytest.fixture(scope="session")
def host() -> str:
    """Python of an environment that holds what the host holds.

    Kept: it takes minutes and gigabytes. UFGVC_GPU_VENV names another.
    """
    folder = Path(os.environ.get("UFGVC_GPU_VENV") or ROOT / ".venv" / "var" / "gpu-host")
    python = folder / "bin" / "python"
    made = folder / "made"
    if not made.is_file() and not os.environ.get("UFGVC_GPU_VENV"):
        base = python312()
        if base is None:
            pytest.skip("there is no Python 3.12 on PATH or of pyenv, and the GPU host has that one")
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *HOST], check=True)
        made.touch()
    return str(python)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_whole_call_in_an_environment_like_the_hosts(host: str, tmp_path: Path) -> None:
    packed = subprocess.run(
        [sys.executable, "-m", "cluster.gpu.pack", "--product", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "is there a network" in packed.stderr:
        pytest.skip(f"what travels could not be fetched: {packed.stderr.strip()}")
    assert packed.returncode == 0, packed.stderr
    project = tmp_path / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    for name in ("wheels", "data"):  # each travels in a call of its own
        shutil.copytree(ROOT / ".gpu" / name, project / ".gpu" / name)
        if name == "wheels":
            code, said, out = call(project, tmp_path, "--dry", "--parts", "tests", "bench", python=host, within=2100)
            assert code == 0, said
            shutil.rmtree(project / ".gpu" / "wheels")  # they are installed by now
    counts = json.loads((out / "tests.json").read_text())["counts"]
    assert counts.get("passed", 0) > 0
    assert "failed" not in counts
    assert "|" in (out / "bench.md").read_text()
    assert json.loads((out / "bench.json").read_text())
    code, said, out = call(project, tmp_path, "--dry", "--parts", "trainings", python=host, within=1500)
    assert code == 0, said
    assert {path.name for path in out.iterdir()} == RESULTS
    summary = {each["name"]: each for each in json.loads((out / "trainings.json").read_text())}
    rows = len(yaml.safe_load((ROOT / "jobs" / "configs" / "gpu-real.yaml").read_text())["benchmark"]["methods"])
    assert {name: (each["state"], len(each["trainings"])) for name, each in summary.items()} == {
        "grape29": ("ok", 2 * rows), "grape5": ("ok", rows), "grape29-grey": ("ok", 2 * len(GREY_ROWS)),
    }  # fmt: skip
    cells = [cell for each in summary.values() for cell in each["trainings"]]
    assert all(
        cell["state"] == "done" and cell["correct"] <= cell["leaves"] and cell["images_per_second"] > 0
        for cell in cells
    )
    assert "benchmark.csv" in summary["grape5"]["reports"]
    assert "### table-II" in (out / "trainings.md").read_text()
    assert len(said) < 12_000
