"""Parts of a batch are scored at the same time, by networks that share their weights, and say what one network says."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.golden.trainings import HERE
from ufgvc.core.storage import Store, open_store
from ufgvc.evaluation import predictor
from ufgvc.evaluation.predictor import Predictor, predict_in_threads, share_weights
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.methods import build
from ufgvc.models.model import LoadedModel, load_model

PHOTOGRAPHS = HERE / "photographs"
LEAVES = 24


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Copies of two leaves in turn, one file that is not a photograph, and one that is missing from the folder."""
    for number in range(LEAVES):
        shutil.copy(PHOTOGRAPHS / f"leaf-{1 + number % 2}.png", tmp_path / f"{number:02d}.png")
    (tmp_path / "05.png").write_bytes(b"not a photograph")
    return open_store(str(tmp_path))


def model_with_maps() -> LoadedModel:
    """A model whose network keeps the maps of a forward pass until it has finished."""
    torch.manual_seed(0)
    options = {"backbone": "shufflenet_v2_x0_5", "stages": [2]}
    method = build("linear_probe", num_classes=3, init="none", **options)
    return LoadedModel(method, ("a", "b", "c"), {"resize": 64, "size": 64}, {})


@pytest.mark.parametrize("kept_maps", [False, True])
@pytest.mark.parametrize("batch_size", [3, 8, 24])
def test_the_threads_say_what_one_network_says_in_the_same_order(
    store: Store, two_cores: None, batch_size: int, kept_maps: bool
) -> None:
    model = model_with_maps() if kept_maps else load_model(str(HERE / "model"))
    names = [f"{number:02d}.png" for number in range(LEAVES + 1)]
    wanted = Predictor(store, model, 3, "cpu")({"path": names}).to_pylist()
    parts = list(predict_in_threads(store, names, model, PredictSettings(batch_size=batch_size), "cpu"))
    assert max(part.num_rows for part in parts) <= max(batch_size // 2, 3)
    found = [row for part in parts for row in part.to_pylist()]
    assert [row["path"] for row in found] == names
    assert [row["path"] for row in found if row["reason"]] == ["05.png", "24.png"]
    for row, other in zip(found, wanted, strict=True):
        assert {**row, "probabilities": 0, "ood_score": 0, "relative_length": 0, "distances": 0} == {
            **other,
            **{"probabilities": 0, "ood_score": 0, "relative_length": 0, "distances": 0},
        }
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        assert row["ood_score"] == pytest.approx(other["ood_score"], rel=1e-3)
    assert torch.get_num_threads() == 2


def test_a_copy_shares_the_weights_and_no_state() -> None:
    model = model_with_maps()
    other = share_weights(model)
    for one, two in zip(model.net.state_dict().items(), other.net.state_dict().items(), strict=True):
        assert one[0] == two[0]
        assert one[1].data_ptr() == two[1].data_ptr()
    assert not {id(each) for each in model.net.modules()} & {id(each) for each in other.net.modules()}
    with torch.inference_mode():
        model.net.eval()(torch.zeros(1, 3, 64, 64))
        kept = model.net.eval()(torch.zeros(1, 3, 64, 64))["logits"]
        assert torch.equal(other.net.eval()(torch.zeros(1, 3, 64, 64))["logits"], kept)


def test_a_method_of_another_package_is_used_by_one_thread(
    store: Store, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with_maps()
    plugin = replace(model, method=replace(model.method, name="theirs"))
    monkeypatch.setattr(predictor, "package_of", lambda name: name if name == "theirs" else None)
    names = [f"{number:02d}.png" for number in range(LEAVES)]
    parts = list(predict_in_threads(store, names, plugin, PredictSettings(batch_size=8), "cpu"))
    assert [part.num_rows for part in parts] == [8, 8, 8]


def test_every_core_belongs_to_a_part(store: Store, two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    used, score, both = list[int](), Predictor.score, threading.Barrier(2)

    def watched(self: Predictor, photographs: list[predictor.Photograph]) -> pa.Table:
        used.append(torch.get_num_threads())
        if len(used) <= 2:
            both.wait(20)
        return score(self, photographs)

    monkeypatch.setattr(Predictor, "score", watched)
    names = [f"{number:02d}.png" for number in range(LEAVES)]
    list(predict_in_threads(store, names, model_with_maps(), PredictSettings(batch_size=8), "cpu"))
    assert set(used) == {1, 2}
