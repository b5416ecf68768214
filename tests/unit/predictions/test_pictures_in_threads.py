"""Pictures are drawn by two threads; a network that keeps maps of its pass is used by one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ufgvc.core.storage import open_store
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.methods import build
from ufgvc.models.format import save_model
from ufgvc.models.model import load_model
from ufgvc.reports.predicted_pictures import PictureMaker, make_pictures
from ufgvc.runtime.session import RaySettings


def test_two_threads_draw_what_one_draws(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    paths = [f"{number}.jpg" for number in range(16)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (48, 56, 3), np.uint8)).save(photographs / path)
    method = build("linear_probe", num_classes=3, init="none", backbone="resnet18")
    save_model(tmp_path / "model", method, ["a", "b", "c"], {"resize": 40, "size": 32})
    model, store = load_model(str(tmp_path / "model")), open_store(photographs)
    settings = PredictSettings(batch_size=2, max_actors=0, device="cpu")
    wanted = PictureMaker(store, model, "cpu")({"path": paths}).to_pylist()
    for _ in range(3):
        assert list(make_pictures(store, paths, model, settings, RaySettings())) == wanted
