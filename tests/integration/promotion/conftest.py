"""Fixtures of a promotion: models that are right on chosen leaves, one registry, and a data set for each test."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.integration.promotion.registered import CLASSES, LABELS, LEAVES, SIZE, Field, photograph
from ufgvc import methods
from ufgvc.models.format import save_model


@pytest.fixture(scope="package")
def doctored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes a model that names the test leaves of a data set rightly but for those that are listed."""
    torch.manual_seed(0)
    method = methods.build("resnet50", len(CLASSES), init="none", backbone="squeezenet1_1")
    method.net.eval()
    images = [np.asarray(Image.open(io.BytesIO(photograph(i)))) for i in range(LEAVES)]
    view = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        embedding = method.net(view)["embedding"].double()
    exact = torch.linalg.pinv(embedding)

    def write(wrong: Sequence[int], data: str, classes: Sequence[str] = CLASSES, **info: Any) -> str:
        answers = torch.tensor([(label + (i in wrong)) % len(CLASSES) for i, label in enumerate(LABELS)])
        wanted = torch.nn.functional.one_hot(answers, len(CLASSES)).double()
        with torch.no_grad():
            method.net.classifier.weight.copy_(20 * (exact @ wanted).T)
        folder = tmp_path_factory.mktemp("model") / "model"
        marks = {"data": data, "masks": "5" * 64}
        save_model(folder, method, classes, {"resize": SIZE, "size": SIZE}, marks, {}, {"mask_kind": "box", **info})
        return str(folder)

    return write


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of runs, with one registry for all tests: each has a data set and a model of its own."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


@pytest.fixture
def field(request: pytest.FixtureRequest, tmp_path: Path, runs: str, doctored: Callable[..., str]) -> Field:
    return Field(re.sub(r"\W+", "-", request.node.name)[5:45], tmp_path, runs, doctored)
