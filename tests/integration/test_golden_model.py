"""A model, and answers, as a version of the program wrote them once (`tests/golden/model`): they hold for every later
version.

The folder is what `ufgvc train --data tests/golden/leaves --method resnet50 --options.backbone shufflenet_v2_x0_5
--train.init none --train.epochs 40 ...` and `ufgvc calibrate` left, without the wheel below code/, which nothing here
installs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.golden.trainings import HERE
from ufgvc.models.format import upgrade
from ufgvc.models.mlflow_files import write_mlflow_files
from ufgvc.models.model import load_model

MODEL, PHOTOGRAPHS = HERE / "model", HERE / "photographs"
CLASSES = ("Cotton-1", "Cotton-2", "Cotton-3")
TEMPERATURE = 1.6538062842966208
# photograph: what it is called, the probability of each class, ood_score
ANSWERS = {
    "leaf-1.png": ("Cotton-1", (0.5110145386, 0.0226201955, 0.4663652659), 0.25515742),
    "leaf-2.png": ("Cotton-2", (0.0014251426, 0.9659255819, 0.0326492755), 0.30796775),
    "unknown.png": ("unknown", (0.0000551290, 0.9973172525, 0.0026276185), 0.46459424),
}


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    return [(PHOTOGRAPHS / name).read_bytes() for name in ANSWERS]


def check(table: pd.DataFrame) -> None:
    assert table.cultivar.tolist() == [called for called, _, _ in ANSWERS.values()]
    for (_, chances, _), probability, top in zip(ANSWERS.values(), table.probability, table.top5, strict=True):
        found = {entry["cultivar"]: entry["probability"] for entry in json.loads(top)}
        assert [found[name] for name in CLASSES] == pytest.approx(list(chances), rel=1e-4, abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert probability == max(found.values())


def test_it_loads_and_answers_as_it_did(photographs: list[bytes]) -> None:
    model = load_model(str(MODEL))
    assert model.classes == CLASSES
    assert model.info["method"] == "resnet50"
    check(model.predict(photographs))
    ood_score = model.score([model.read(photograph) for photograph in photographs])[1]
    assert ood_score.tolist() == pytest.approx([strange for _, _, strange in ANSWERS.values()], rel=1e-4)
    assert model.is_known(ood_score).tolist() == [True, True, False]


def test_its_model_json_is_upgraded() -> None:
    info = load_model(str(MODEL)).info
    assert info["format"] == 2
    assert info["input"] == {"resize": 64, "size": 64}
    assert info["validation"] == "last"
    assert info["recipe"]["eval_view"] == "resize"
    assert "selection" not in info | info["metrics"]
    assert info["calibration"]["coverage"] == 0.95
    assert info["calibration"]["num_images"] == 18
    assert upgrade(info) == info


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("mask_guided", {"reading": "paper", "guide": "mask"}, {"variant": "paper", "control": {"guide": "mask"}}),
        ("region_tokens", {"guide": "mask", "depth": 2}, {"control": {"guide": "mask"}, "depth": 2}),
        ("leaf_traits", {"trunk": "whole"}, {"control": {"trunk": "whole"}}),
        ("resnet50", {"guide": "mask"}, {"guide": "mask"}),
    ],
)
def test_options_of_format_1_are_renamed(method: str, old: dict[str, object], new: dict[str, object]) -> None:
    assert upgrade({"format": 1, "method": method, "options": old, "input": {}})["options"] == new


def test_without_its_calibration_it_is_surer_and_knows_everything(photographs: list[bytes], tmp_path: Path) -> None:
    """As a model was written before there was `calibrate`."""
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "known.safetensors").unlink()
    info = json.loads((MODEL / "model.json").read_text(encoding="utf-8"))
    del info["calibration"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(info), encoding="utf-8")
    table = load_model(str(tmp_path / "model")).predict(photographs)
    assert table.cultivar.tolist() == ["Cotton-1", "Cotton-2", "Cotton-2"]
    heated = [[chance**TEMPERATURE for chance in chances] for _, chances, _ in ANSWERS.values()]
    assert table.probability.tolist() == pytest.approx([max(row) / sum(row) for row in heated], rel=1e-4)


def test_mlflow_loads_it_once_this_version_has_described_it(photographs: list[bytes], tmp_path: Path) -> None:
    """MLflow loads a model with the code that the model brings along, which the fixture lacks."""
    import mlflow.pyfunc

    shutil.copytree(MODEL, tmp_path / "model")
    write_mlflow_files(tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert [column["name"] for column in model.metadata.signature.inputs.to_dict()] == ["image"]
    check(model.predict(pd.DataFrame({"image": photographs})))
