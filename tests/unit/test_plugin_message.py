"""A saved model whose method comes from a package that is not installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.command_line import ufgvc
from tests.golden.trainings import HERE


def test_without_the_package_there_is_one_message(tmp_path: Path) -> None:
    model = shutil.copytree(HERE / "model", tmp_path / "model")
    about = json.loads((model / "model.json").read_text())
    changed = about | {"method": "short", "package": {"name": "short-leaves", "version": "0.3"}}
    (model / "model.json").write_text(json.dumps(changed))
    ended = ufgvc("predict", "--source", HERE / "photographs", "--model", model, "--out", tmp_path / "out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        f"ufgvc predict: {model}: its method short comes from the package short-leaves, which is not installed here",
        "  -> pip install short-leaves==0.3",
    ]
