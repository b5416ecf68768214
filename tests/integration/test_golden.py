"""The numbers that trainings gave when golden.json was written. A change that means to change them writes it anew and
says so: `python -m tests.golden.trainings --write`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.trainings import GOLDEN, METHODS, differences, machine, train

golden = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", METHODS)
def test_a_training_gives_the_numbers_that_it_gave(name: str, ray_local: None, tmp_path: Path) -> None:
    known = golden["trainings"][name]
    found = train(name, tmp_path)
    assert list(differences(found, known)) == []
    if golden["machine"] == machine():
        assert found["weights"] == known["weights"], "the same numbers from weights that differ in some bit"


def test_a_difference_is_seen() -> None:
    known = golden["trainings"]["resnet50"]
    changed = json.loads(json.dumps(known))
    changed["epochs"][1]["loss"] *= 1 + 1e-4
    del changed["test"]["logits"][0]
    assert [line.split(":")[0] for line in differences(changed, known)] == [".epochs[1].loss", ".test.logits"]
    assert list(differences(known, known)) == []
