"""The champion loads where this project has never been: in a new virtual environment with what the model itself
names.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.integration.served_models import CLASSES, INPUT, photograph
from ufgvc import methods
from ufgvc.evaluation.model_card import model_card
from ufgvc.models.format import save_model
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import register
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.tracking.versions import find_version, set_champion

ROOT = Path(__file__).resolve().parents[2]
NAME = "ufgvc-tiny"
# As in the card, with the photograph's name as an argument.
LOAD = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/ufgvc-tiny@champion")
import ufgvc  # the package that the model carries
table = model.predict(pandas.DataFrame({"image": [open(sys.argv[1], "rb").read()]}))
print(json.dumps({"ufgvc": ufgvc.__file__, "ray": "ray" in sys.modules, **table.iloc[0].to_dict()}))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_champion_answers_in_a_new_environment(
    serve: Callable[..., subprocess.Popen[bytes]], free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    server += ["--artifacts-destination", str(tmp_path / "served")]
    serve(server, f"{url}/health", log=tmp_path / "server.log", within=300)
    torch.manual_seed(0)
    made = methods.build("mask_guided", len(CLASSES), backbone="shufflenet_v2_x0_5")
    made.net.eval()
    save_model(tmp_path / "ours", made, CLASSES, INPUT)
    wanted = load_model(str(tmp_path / "ours")).predict([photograph(1)])
    tracking = TrackingSettings(uri=url)
    version = register(str(tmp_path / "ours"), NAME, {}, Context(tracking=tracking))
    set_champion(
        find_version(f"models:/{NAME}/{version}", NAME, Context(tracking=tracking)), None, Context(tracking=tracking)
    )
    shutil.rmtree(tmp_path / "ours")

    there = tmp_path / "environment"
    venv.create(there, with_pip=True)
    work, empty = tmp_path / "work", tmp_path / "empty"
    work.mkdir()
    empty.mkdir()
    (tmp_path / "leaf.jpg").write_bytes(photograph(1))
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_REGISTRY_URI")
    }
    clean |= {"PATH": f"{there / 'bin'}{os.pathsep}{os.environ['PATH']}", "MLFLOW_TRACKING_URI": url}
    clean |= {"PIP_CACHE_DIR": str(ROOT / ".venv" / "var" / "pip"), "MLFLOW_DISABLE_TELEMETRY": "true"}

    def run(folder: Path, *command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    # The commands of the card, but for MLflow's version: the model's own, so that it is not installed twice.
    card = model_card({"classes": CLASSES}, MEASURED, {}).to_markdown(NAME, str(version))
    first, download, install = card.partition("```sh\n")[2].partition("\n```")[0].splitlines()
    assert first == "pip install mlflow"
    run(work, "bash", "-c", f"{first}=={importlib.metadata.version('mlflow')}")
    run(work, "bash", "-c", f"{download} && {install}")
    row = json.loads(run(empty, "python", "-c", LOAD, str(tmp_path / "leaf.jpg")).strip().splitlines()[-1])
    assert not Path(row["ufgvc"]).is_relative_to(ROOT), "the checkout's package, not the model's"
    assert not Path(row["ufgvc"]).is_relative_to(there)
    assert row["ray"] is False
    assert row["cultivar"] == wanted.cultivar[0]
    assert row["probability"] == pytest.approx(wanted.probability[0], abs=1e-5)
    assert json.loads(row["top5"])[0]["cultivar"] == wanted.cultivar[0]
    assert (
        "No module named"
        in subprocess.run(
            [str(there / "bin" / "python"), "-c", "import ray"],
            env=clean,
            capture_output=True,
            text=True,
            check=False,
            cwd=empty,
        ).stderr
    )
    assert list(empty.iterdir()) == []
    shutil.rmtree(there)  # gigabytes


MEASURED = {
    "dataset": "tiny",
    "models": {
        "this model": {"accuracy": {"k": 1, "n": 2, "value": 0.5, "low": 0.1, "high": 0.9}, "balanced_accuracy": 0.5}
    },
}
