"""Which runtime names photographs: onnxruntime where its export pays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_frozen import probe
from ufgvc.core.errors import UserError
from ufgvc.evaluation.predict import choose_runtime
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.models.model import LoadedModel
from ufgvc.runtime.session import RaySettings

HERE = RaySettings()
MANY = 10**6


@pytest.fixture
def model() -> LoadedModel:
    return LoadedModel(probe(), ("a", "b", "c"), {"resize": 64, "size": 64}, {})


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[LoadedModel]:
    """The models that were exported; an export gives the model with another name."""
    found: list[LoadedModel] = []

    def export(model: LoadedModel, on_cpu: bool) -> tuple[LoadedModel, Any]:
        found.append(model)
        return replace(model, info={**model.info, "onnx": {}}), type("Parity", (), {"summary": lambda self: "same"})()

    monkeypatch.setattr("ufgvc.models.model.export_to_onnx", export)
    return found


@pytest.mark.parametrize(
    ("photographs", "settings", "ray", "exported"),
    [
        (MANY, {}, HERE, True),
        (3, {}, HERE, False),
        (3, {"runtime": "onnx"}, HERE, True),
        (MANY, {"runtime": "torch"}, HERE, False),
        (MANY, {}, RaySettings(address="ray://head:10001"), False),
    ],
)
def test_auto_exports_for_many_photographs_on_this_machine(
    model: LoadedModel,
    exports: list[LoadedModel],
    photographs: int,
    settings: dict[str, Any],
    ray: RaySettings,
    exported: bool,
) -> None:
    chosen = choose_runtime(model, "runs/x", photographs, PredictSettings(device="cpu", **settings), ray)
    assert (chosen is not model) is exported
    assert len(exports) == exported


def test_a_network_that_cannot_be_exported(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto goes on with torch; who asks for onnx is told."""

    def refuse(model: LoadedModel, on_cpu: bool) -> None:
        raise UserError("torch cannot export it")

    monkeypatch.setattr("ufgvc.models.model.export_to_onnx", refuse)
    assert choose_runtime(model, "runs/x", MANY, PredictSettings(device="cpu"), HERE) is model
    with pytest.raises(UserError, match="cannot export"):
        choose_runtime(model, "runs/x", MANY, PredictSettings(device="cpu", runtime="onnx"), HERE)
