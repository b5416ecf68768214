"""A saved model needs only the packages that its requirements name."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.factories import encoded
from ufgvc import methods
from ufgvc.models.format import save_model

CLASSES = ("amber", "birch", "cedar")
# Every other installed package is hidden, as in a new environment with the model's requirements.
PREDICT = """
import importlib.machinery, json, sys
hidden = set(json.loads(sys.argv[3]))

class Hidden:  # a spec that cannot be loaded: libraries may ask whether there is one
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in hidden else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}")

    def exec_module(self, module):
        raise AssertionError

sys.meta_path.insert(0, Hidden())
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
table = model.predict(pandas.DataFrame({"image": [open(sys.argv[2], "rb").read()]}))

print(table["cultivar"][0])
"""


def test_a_served_model_imports_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = methods.build("mask_guided", len(CLASSES), backbone="shufflenet_v2_x0_5")
    save_model(tmp_path / "model", made, CLASSES, {"resize": 64, "crop": 64})
    (tmp_path / "leaf.jpg").write_bytes(encoded())
    lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    named = {line.partition("==")[0] for line in lines}
    hidden = _modules_outside(_with_dependencies(named))
    assert {"ray", "psutil", "ultralytics", "tyro"} <= hidden
    command = [sys.executable, "-c", PREDICT, str(tmp_path / "model"), str(tmp_path / "leaf.jpg")]
    done = subprocess.run([*command, json.dumps(sorted(hidden))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] in CLASSES


def _with_dependencies(names: set[str]) -> set[str]:
    """The packages and all that they require without an extra, by normalised name."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform or Python
            continue
        waiting += [re.split(r"[ ;<>=!~\[(]", each)[0] for each in required if "extra ==" not in each]
    return found


def _modules_outside(packages: set[str]) -> set[str]:
    """Importable names of installed packages that are not among these."""
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & packages and module != "ufgvc"
    }
