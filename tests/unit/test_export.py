"""Every method as an ONNX file: what onnxruntime computes is what torch does, for any number of images."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.test_methods import CLASSES, SIDE, small
from ufgvc.core.errors import UserError
from ufgvc.methods import names
from ufgvc.models import onnx as onnx_file
from ufgvc.models.model import ExportSettings, LoadedModel, export, export_to_onnx, load_model
from ufgvc.models.onnx import compare, to_onnx, with_onnx_net

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
# torch's exporter takes time for every layer, and AlexNet has the fewest; a ResNet is exported with the plain method.
ALEXNET = ("contrast_views", "mask_guided", "region_tokens")
# Large graphs, half a minute each. The others have the same layers but for NTS-Net's proposals and the traits of
# leaf_traits; the linear probe is exported with regions in test_region_finder.py.
SLOW = (
    "linear_probe",
    "part_probe",
    "contrast_views",
    "dcl",
    "improved_bcnn",
    "inception_v3",
    "leaf_traits",
    "maskcov",
    "mobilenet_v2",
    "mpn_cov",
    "nts_net",
    "vgg16",
)


def loaded(name: str) -> LoadedModel:
    method = small(name, **({"backbone": "alexnet"} if name in ALEXNET else {}))
    method.net.eval()
    side = max(SIDE, method.min_side)
    return LoadedModel(method, tuple("abcde"[:CLASSES]), {"resize": side, "size": side}, info_of(method, side))


def info_of(method, side: int) -> dict:
    return {
        "method": method.name,
        "options": method.options,
        "mirror": method.recipe.mirror,
        "classes": list("abcde"[:CLASSES]),
        "input": {"resize": side, "size": side},
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names()]
)
def test_every_method_exports_and_says_what_torch_says(name: str) -> None:
    model = loaded(name)
    exported, parity = export_to_onnx(model)
    assert parity.holds
    side = int(model.input["size"])
    for count in (1, 3, 5):
        images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            (wanted, seen), (found, seen_too) = (
                model.method.predict_with_features(images),
                exported.method.predict_with_features(images),
            )
        assert found.shape == (count, CLASSES)
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1, float(wanted.abs().max())))
        np.testing.assert_allclose(seen_too, seen, atol=1e-4 * float(seen.abs().max()))
    assert wanted.std(dim=0).max() > 0, "logits that no image changes prove little"


class Toy(nn.Module):
    """The mean colour through a layer; the mirror image has another value."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, CLASSES)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = images * torch.linspace(0, 1, images.shape[3])
        return {"features": features, "logits": self.classifier(features.mean(dim=(2, 3)))}


@pytest.fixture
def toy() -> LoadedModel:
    model = loaded("resnet50")
    torch.manual_seed(0)
    recipe = model.method.recipe.model_copy(update={"mirror": True})
    method = replace(model.method, net=Toy().eval(), recipe=recipe)
    return replace(model, method=method, info=info_of(method, SIDE))


def test_a_folder_with_the_exported_model_loads_and_travels(toy: LoadedModel, tmp_path: Path) -> None:
    parity = export(toy, str(tmp_path), ExportSettings(opset=20))
    assert parity.images == 11
    found = load_model(str(tmp_path))
    assert found.exported
    assert found.info["onnx"]["opset"] == 20
    assert found.info["onnx"]["difference"] == parity.difference
    images = [np.random.default_rng(k).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for k in range(3)]
    wanted = toy.logits(images)
    np.testing.assert_allclose(found.logits(images), wanted, atol=1e-5)  # mirrored views are averaged, and only once
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.logits(images), found.logits(images))
    with pytest.raises(UserError, match="exported model already"):
        export_to_onnx(found)


def test_an_exported_net_that_is_wrong_is_refused(
    toy: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = to_onnx(toy.method, SIDE)
    with torch.no_grad():
        toy.net.classifier.bias[0] += 0.01
    parity = compare(toy.method, with_onnx_net(toy.method, content), SIDE)
    assert parity.difference == pytest.approx(0.01, rel=1e-2)
    assert not parity.holds
    monkeypatch.setattr(onnx_file, "to_onnx", lambda *_: content)
    with pytest.raises(UserError, match="does not compute what torch does"):
        export(toy, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Unexportable(Toy):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if float(images.sum()) > 0.5:  # depends on the values: no graph holds that
            return super().forward(images)
        return super().forward(images * 2)


def test_what_torch_cannot_export_is_told_with_its_reason(toy: LoadedModel) -> None:
    with pytest.raises(UserError, match=r"torch cannot export it: \w+"):
        to_onnx(replace(toy.method, net=Unexportable().eval()), SIDE)


def test_missing_packages_and_damaged_files_are_told(
    toy: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(toy, str(tmp_path / "out"))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds the weights of a trained model"):
        export(toy, str(tmp_path))
    images = [np.zeros((SIDE, SIDE, 3), np.uint8)]
    (tmp_path / "out" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match="onnxruntime cannot load it"):
        load_model(str(tmp_path / "out")).logits(images)
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="needs the packages"):
        to_onnx(toy.method, SIDE)
    with pytest.raises(UserError, match="needs the packages"):
        load_model(str(tmp_path / "out")).logits(images)
