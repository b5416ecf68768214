"""A saved model behind `mlflow models serve`, and what it may not need."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.integration.served_models import CLASSES, INPUT, photograph, post
from ufgvc import methods
from ufgvc.core.errors import UserError
from ufgvc.models.format import save_model
from ufgvc.models.model import LoadedModel, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    method = methods.build("mask_guided", len(CLASSES), backbone="shufflenet_v2_x0_5")
    method.net.eval()
    save_model(path := tmp_path_factory.mktemp("model") / "model", method, CLASSES, INPUT)
    # A network that nobody trained names one cultivar for all: this last layer names photograph k cultivar k.
    with torch.no_grad():
        first = load_model(str(path))
        embedding = method.net(first.view([first.read(photograph(seed)) for seed in range(len(CLASSES))]))["embedding"]
        method.net.classifier.weight.copy_(10 * torch.linalg.pinv(embedding.double().T))
        if method.net.classifier.bias is not None:
            method.net.classifier.bias.zero_()
    save_model(path, method, CLASSES, INPUT)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(str(folder))


def test_a_saved_model_answers_as_the_network_did(folder: Path, model: LoadedModel) -> None:
    photographs = [photograph(seed) for seed in range(5)]
    images = [model.read(each) for each in photographs]
    together = model.logits(images, batch_size=2)
    assert together.shape == (5, 7)
    assert together.dtype == np.float32
    x = torch.from_numpy(np.stack(images))[:, 8:72, 8:72].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(together, model.net(x)["logits"].numpy(), rtol=1e-3, atol=1e-4)
    table = model.predict(photographs)
    assert table.cultivar.tolist() == CLASSES[:5]
    top = json.loads(table.top5[0])
    assert [len(json.loads(text)) for text in table.top5] == [5] * 5
    assert top[0] == {"cultivar": table.cultivar[0], "probability": table.probability[0]}
    assert [entry["probability"] for entry in top] == sorted((entry["probability"] for entry in top), reverse=True)


def test_a_photograph_is_set_upright_as_its_file_says(model: LoadedModel) -> None:
    plain, turned = model.read(photograph(1, "PNG")), model.read(photograph(1, "PNG", orientation=3))
    assert np.array_equal(turned, plain[::-1, ::-1])


def test_predicting_needs_neither_ray_nor_the_detector(folder: Path) -> None:
    heavy = ("ray", "ultralytics", "boto3", "skimage", "sklearn", "scipy", "matplotlib")
    blocked = f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
    load = f"from ufgvc.models.pyfunc import _load_pyfunc\n_load_pyfunc({str(folder)!r})\n"
    code = f"{blocked}{load}print('loaded', 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "loaded False", done.stderr


@pytest.mark.slow
def test_mlflow_loads_the_code_that_the_model_brings_along(folder: Path, model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "leaf.jpg").write_bytes(photograph(3))
    code = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
row = model.predict(pandas.DataFrame({"image": [open("leaf.jpg", "rb").read()]})).iloc[0]
import ufgvc
print(ufgvc.__file__, row.cultivar, "ray" in sys.modules, sep="|")
"""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=clean)
    assert done.returncode == 0, done.stderr
    file, cultivar, ray = done.stdout.strip().split("|")
    assert Path(file).is_relative_to(folder / "code")
    assert (cultivar, ray) == (CLASSES[3], "False")
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.split('+')[0]}" in requirements
    assert not [line for line in requirements if line.startswith(("ray", "ultralytics", "ufgvc"))]


def test_damaged_and_missing_models_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not there"):
        load_model(str(tmp_path / "none"))
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(UserError, match="holds no model"):
        load_model(str(tmp_path))
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged"):
        load_model(str(tmp_path))


def test_mlflow_serves_the_model_over_http(
    folder: Path,
    model: LoadedModel,
    serve: Callable[..., subprocess.Popen[bytes]],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    # MLflow calls uvicorn by its name, so the environment's programs must be found as in an activated one.
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    serve(command, f"{url}/ping", log=tmp_path / "serve.log", env=environment, within=180)
    photographs = [photograph(seed) for seed in range(3)]
    texts = [base64.b64encode(each).decode() for each in photographs]
    wanted = model.predict(photographs)
    bodies = (
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"inputs": [{"image": text} for text in texts]},
        {"instances": [{"image": text} for text in texts]},
    )
    for body in bodies:
        status, answers = post(url, body)
        assert status == 200, (next(iter(body)), answers)
        assert [answer["cultivar"] for answer in answers] == wanted.cultivar.tolist(), next(iter(body))
        np.testing.assert_allclose([answer["probability"] for answer in answers], wanted.probability, atol=1e-4)
        assert len(json.loads(answers[0]["top5"])) == 5
    status, answer = post(url, {"dataframe_records": [{"image": texts[0]}, {"image": texts[1][:400]}]})
    assert status == 400
    assert "image of row 1: is truncated" in answer
