"""What `ufgvc serve` refuses before it starts anything: one message, exit code 2."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command_line import ufgvc
from tests.golden.trainings import HERE
from ufgvc.core.errors import UserError
from ufgvc.serving import preflight
from ufgvc.serving.limits import digest
from ufgvc.serving.run import absolute_source, check_room
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

MODEL = str(HERE / "model")
WORD = "a-long-random-word"


class Started(Exception):
    """Ray would start now."""


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object) -> None:
        raise Started

    monkeypatch.setattr("ufgvc.serving.run.ray_session", start)


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def refusal(*flags: object) -> str:
    ended = ufgvc("serve", "--model", MODEL, "--tracking.uri", "off", *flags)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("ufgvc serve: ")
    assert "\n  -> " in ended.err
    return ended.err


def test_with_a_model_and_a_free_port_it_starts(free_port: Callable[[], int], tmp_path: Path) -> None:
    for more in ((), ("--host", "0.0.0.0", "--token-file", token_file(tmp_path, f"{WORD}\n"))):
        with pytest.raises(Started):
            ufgvc("serve", "--model", MODEL, "--tracking.uri", "off", "--port", free_port(), *more)


def test_a_port_in_use(busy_port: int) -> None:
    message = refusal("--port", busy_port)
    assert f"--host 127.0.0.1 --port {busy_port}: another program listens there already" in message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "leaf.example"])
def test_another_address_needs_a_token(host: str) -> None:
    assert "so it needs a token" in refusal("--host", host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert preflight.token_digest(ServiceSettings(host=host)) is None


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    path = token_file(tmp_path, WORD)
    assert "this machine has no such address" in refusal("--host", "192.0.2.1", "--token-file", path)


def token_file(folder: Path, text: str) -> Path:
    path = folder / "token"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), (" \n", "is empty"), ("short", "16 characters"), (f"{WORD} two", "one word")],
)
def test_an_unfit_token(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal("--token-file", token_file(tmp_path, text))


def test_a_token_that_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no such file" in refusal("--token-file", tmp_path / "none")
    assert "is a folder" in refusal("--token-file", tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff" * 20)
    assert "is not plain text" in refusal("--token-file", tmp_path / "bytes")


def test_the_token_itself_is_not_kept(tmp_path: Path) -> None:
    path = token_file(tmp_path, f"{WORD}\n")
    assert preflight.read_token(str(path)) == digest(WORD)
    assert WORD.encode() not in digest(WORD)


def test_no_such_model(free_port: Callable[[], int], tmp_path: Path) -> None:
    assert "not there" in refusal("--model", tmp_path / "none", "--port", free_port())
    (tmp_path / "runs").mkdir()
    for uri, message in (
        ("models:/x@champion", "MLflow knows no such model"),
        ("models:/x", "is not a model's address"),
    ):
        ended = ufgvc("serve", "--model", uri, "--runs", tmp_path / "runs", "--port", free_port())
        assert ended.code == 2
        assert message in ended.err


def test_mlflow_that_does_not_answer(free_port: Callable[[], int]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    ended = ufgvc("serve", "--model", "models:/x@champion", "--tracking.uri", address, "--port", free_port())
    assert ended.code == 2
    assert f"nothing listens at {address}" in ended.err


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "python_multipart" else name)
    message = refusal()
    assert "are not installed (python_multipart)" in message
    assert "'.[serve]'" in message


def test_more_replicas_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufgvc.serving.run.alive_nodes", lambda: [{"CPU": 3.0, "GPU": 1.0}])
    assert check_room(ServiceSettings(replicas=3), can_use_gpu=True) == "cpu"  # there are fewer GPUs than replicas
    assert check_room(ServiceSettings(replicas=1), can_use_gpu=True) == "cuda"
    assert check_room(ServiceSettings(replicas=1), can_use_gpu=False) == "cpu"
    with pytest.raises(UserError, match="room for 3 replicas with 1 CPU each"):
        check_room(ServiceSettings(replicas=4), can_use_gpu=True)
    with pytest.raises(UserError, match="1 of 2 GPUs"):
        check_room(ServiceSettings(replicas=2, device="gpu"), can_use_gpu=True)


def test_places_are_absolute_for_the_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_source("model", Context()).uri == str(tmp_path / "model")
    named = absolute_source("models:/x@champion", Context())
    assert named.context.tracking.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    off = absolute_source("runs:/1/model", Context(tracking=TrackingSettings(uri="off")))
    assert off.context.tracking.uri == "off"


@pytest.mark.parametrize(
    ("uri", "moves"), [("models:/x@champion", True), ("models:/x/3", False), ("runs:/1/model", False), ("a@b", False)]
)
def test_only_an_alias_moves(uri: str, moves: bool) -> None:
    assert ModelSource(uri).moves is moves
