"""A method of another package: the example of docs/adding-a-method.md, installed as a distribution of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT
from tests.factories import three_cultivars

pytestmark = pytest.mark.slow  # tests/unit/test_plugin_message.py has a package that is not there
PAGE = ROOT / "docs" / "adding-a-method.md"

SAVE = """
import sys
from pathlib import Path
import torch
from ufgvc import methods
from ufgvc.methods.method import METHODS
from ufgvc.models.format import save_model
assert methods.names()[-1] == "short" and "short" not in METHODS.names(), "it is imported only when it is asked for"
torch.manual_seed(0)
built = methods.build("short", 3, backbone="squeezenet1_1", length_weight=0.5)
save_model(Path(sys.argv[1]), built, ("amber", "birch", "cedar"), {"resize": 32, "size": 32})
"""
PREDICT = """
import sys
from ufgvc import load_model
model = load_model(sys.argv[1])
print(model.method.name, model.method.loss_weights["length"], len(model.predict(sys.argv[2:])))
"""
SERVE = """
import sys
from pathlib import Path
import mlflow.pyfunc
import pandas as pd
image = Path(sys.argv[2]).read_bytes()
print(len(mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.DataFrame({"image": [image]}))))
"""


def install(folder: Path, module: str, version: str = "0.3") -> str:
    """A folder with the distribution `short-leaves`, whose only module has this code. Returns it."""
    source, target = folder / "source", folder / "site"
    source.mkdir(parents=True)
    (project,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (source / "pyproject.toml").write_text(project.replace('"0.3"', f'"{version}"'), encoding="utf-8")
    (source / "short_leaves.py").write_text(module, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)
    return str(target)


def example() -> str:
    """The module that the page shows."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if '@method("short"' in block)


def run(site: str | None, *words: object) -> subprocess.CompletedProcess[str]:
    """A process that finds the packages of a folder besides ours."""
    path = os.pathsep.join([*([site] if site else []), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    return install(tmp_path_factory.mktemp("plugin"), example())


@pytest.fixture(scope="module")
def model(site: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    saved = run(site, "-c", SAVE, folder)
    assert saved.returncode == 0, saved.stderr
    return folder


@pytest.fixture(scope="module")
def photograph() -> Path:
    return min((ROOT / "tests" / "golden" / "photographs").iterdir())


def test_a_saved_model_names_the_package_that_it_needs(model: Path, site: str, photograph: Path) -> None:
    assert '"package": {\n    "name": "short-leaves",\n    "version": "0.3"\n  }' in (model / "model.json").read_text()
    assert "short-leaves==0.3" in (model / "requirements.txt").read_text().splitlines()
    predicted = run(site, "-c", PREDICT, model, photograph)
    assert predicted.stdout == "short 0.5 1\n", predicted.stderr
    served = run(site, "-c", SERVE, model, photograph)
    assert served.stdout.splitlines()[-1:] == ["1"], served.stderr


def test_without_the_package_there_is_one_message(model: Path, photograph: Path, tmp_path: Path) -> None:
    words = ("-m", "ufgvc", "predict", "--source", photograph, "--model", model, "--out", tmp_path / "out")
    done = run(None, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"ufgvc predict: {model}: its method short comes from the package short-leaves, which is not installed here",
        "  -> pip install short-leaves==0.3",
    ]


def test_another_version_is_a_warning(model: Path, photograph: Path, tmp_path: Path) -> None:
    newer = install(tmp_path, example(), version="0.4")
    done = run(newer, "-c", PREDICT, model, photograph)
    assert done.stdout == "short 0.5 1\n"
    assert f"{model} was made with short-leaves==0.3, and short-leaves==0.4 is installed" in done.stderr


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import no_such_package", "its module 'short_leaves' cannot be imported: No module named 'no_such_package'"),
        ("1 / 0", "its module 'short_leaves' cannot be imported: ZeroDivisionError: division by zero"),
        ("", "its module 'short_leaves' registers no method of that name"),
    ],
    ids=["cannot be imported", "raises", "registers nothing"],
)
def test_a_broken_package_disturbs_no_other_method(module: str, message: str, tmp_path: Path) -> None:
    broken = install(tmp_path, module)
    places = ("-m", "ufgvc", "train", "--data", tmp_path / "none", "--runs", tmp_path / "runs")
    wrong = run(broken, *places, "--method", "short")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"ufgvc train: method short of short-leaves==0.3: {message}\n")
    other = run(broken, *places, "--method", "resnet50")
    assert "holds no data set" in other.stderr
    unknown = run(broken, *places, "--method", "shrt")
    assert "there is no method named 'shrt'" in unknown.stderr
    assert "vgg16, short\n" in unknown.stderr


def test_training_with_the_command(site: str, tmp_path: Path) -> None:
    """The workers of a local Ray session find the package as their driver does."""
    three_cultivars(str(tmp_path / "data"))
    quick = ("--options.backbone", "squeezenet1_1", "--train.init", "none", "--train.epochs", 1)
    sizes = ("--train.resize", 40, "--train.crop", 32, "--train.batch-size", 3, "--tracking.uri", "off")
    places = ("--data", tmp_path / "data", "--runs", tmp_path / "runs", "--method", "short")
    done = run(site, "-m", "ufgvc", "train", *places, *quick, *sizes)
    assert done.returncode == 0, done.stderr
    model = Path(done.stdout.strip().rpartition("model ")[2])
    assert '"name": "short-leaves"' in (model / "model.json").read_text()
