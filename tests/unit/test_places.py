"""A file, a folder, a missing path, an empty folder and addresses, given to every flag that takes a place: an answer
or one message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_folder import made_once
from tests.places import KINDS, Reached, World, place_flags, without_work
from ufgvc.core.process import disable_telemetry

# Where the work may begin: with places that are written to, and with a flag that is not used this time.
WRITTEN = frozenset(("folder", "missing", "empty"))
GOOD = {"out": WRITTEN, "runs": WRITTEN, "tracking.artifacts": WRITTEN}
# Without tracking these neither read nor write there; and a method without regions needs no detector.
UNUSED = frozenset((command, "runs") for command in ("mask", "evaluate", "predict", "serve", "export", "audit"))
UNUSED |= {("pipeline", "detect.init"), ("pipeline", "detect.coco-weights")}


def rows() -> Iterator[object]:
    for command, flag in place_flags():
        for kind in KINDS:
            if kind != "photograph" or flag in ("source", "boxes"):
                yield pytest.param(command, flag, kind, id=f"{command} --{flag} {kind}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", autouse=True)
def _databases() -> Iterator[None]:
    """Every new database of MLflow is a copy of one: its 50 migrations take a second or two."""
    disable_telemetry()  # MLflow reads that when it is imported
    from mlflow.store.db import utils

    migrate = utils._initialize_tables

    def copy(engine: Any) -> None:
        template = made_once("mlflow.db", lambda path: migrate(utils.create_sqlalchemy_engine(f"sqlite:///{path}")))
        shutil.copy(template, engine.url.database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_work() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_work(patch)
        yield


@pytest.mark.parametrize(("command", "flag", "kind"), rows())
def test_an_answer_or_one_message(
    command: str, flag: str, kind: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = world.state()
    try:
        ended = world.run(command, flag, KINDS[kind].format(world.root))
    except Reached:
        name = "out" if (command, flag) in (("ingest", "data"), ("pipeline", "data")) else flag
        good = (
            kind in GOOD.get(name, ())
            or (command, flag) in UNUSED
            or (command, flag, kind) == ("predict", "source", "photograph")
        )
        assert good, "begins to work with a place that will not do"
    else:
        assert ended.code in (0, 2)
        if ended.code == 2:
            assert ended.err.count(f"ufgvc {command}: ") == 1
            assert ended.out == ""
    finally:
        after = world.state()
        new = [path for path in after if path not in before]
        for path in new:
            (world.root / path).unlink()
        shutil.rmtree(world.root / "new", ignore_errors=True)
        shutil.rmtree(world.root / "out", ignore_errors=True)
    assert {path: after.get(path) for path in before} == before, "something is lost"
    assert os.listdir(tmp_path) == [], "writes outside of the place"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.bin"])
@pytest.mark.parametrize(("command", "flag"), [("detect", "init"), ("detect", "coco-weights")])
def test_a_file_that_holds_no_weights(command: str, flag: str, name: str, world: World, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"these are no weights")
    ended = world.run(command, flag, str(tmp_path / name))
    assert ended.code == 2
    assert name in ended.err
