"""Credentials that a machine gets from its role, and credentials that expire while a job runs.

Only rclone's server checks keys.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.s3_servers import KEY, SECRET, new_bucket, start_middle, use_server
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store


@pytest.fixture
def bucket(rclone_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A bucket on a server whose keys this process does not have."""
    use_server(rclone_endpoint, monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return new_bucket(rclone_endpoint)


@dataclass
class Machine:
    keys: Path
    log: Path

    def give(self, key: str, seconds: float) -> None:
        self.keys.write_text(json.dumps({"key": key, "secret": SECRET, "token": "session-77", "seconds": seconds}))


@pytest.fixture
def machine(
    free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., object]
) -> Machine:
    machine, port = Machine(tmp_path / "keys.json", tmp_path / "metadata.log"), free_port()
    program = str(Path(__file__).with_name("fake_metadata.py"))
    serve([sys.executable, program, str(port), str(machine.keys), str(machine.log)], f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}/")
    return machine


def test_the_role_of_a_machine_reads_and_writes(bucket: str, machine: Machine) -> None:
    machine.give(KEY, 3600)
    for number in range(3):
        store = open_store(f"s3://{bucket}/place")
        store.write_bytes(f"{number}", b"leaf")
        assert store.read_bytes(f"{number}") == b"leaf"
    assert len(store.list()) == 3
    asked = [line for line in machine.log.read_text().splitlines() if line.endswith("leaf-role")]
    assert len(asked) == 1  # once a process


def test_a_machine_without_a_role(bucket: str, machine: Machine) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no credentials were found.*\n.*AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{bucket}/place").list()
    assert time.monotonic() - started < 5


def test_no_metadata_service_is_not_waited_for_long(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that swallows packets, as 169.254.169.254 does outside a cloud."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://192.0.2.1/")
    store, started = open_store(f"s3://{bucket}/place"), time.monotonic()
    for act in (store.list, lambda: store.read_bytes("a"), lambda: store.write_bytes("a", b"")):
        with pytest.raises(UserError, match="no credentials were found"):
            act()
    assert time.monotonic() - started < 6


def test_the_role_of_a_container_whose_keys_come_to_their_end(
    bucket: str,
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., object],
) -> None:
    def give(key: str, minutes: float) -> None:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
        answer = {
            "AccessKeyId": key,
            "SecretAccessKey": SECRET,
            "Token": "t",
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        (tmp_path / "role").write_text(json.dumps(answer))

    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    serve([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)], url)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}role")
    give("old-key-77", 12)  # botocore asks for new ones a quarter of an hour before the end
    store = open_store(f"s3://{bucket}/place")
    with pytest.raises(UserError, match="access key is not known"):
        store.list()
    give(KEY, 60)
    store.write_bytes("a", b"leaf")
    assert store.read_bytes("a") == b"leaf"


@pytest.fixture(scope="module")
def server(
    rclone_endpoint: str, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of a server that stands before rclone's, and the file of its faults."""
    folder = tmp_path_factory.mktemp("middle")
    with start_middle(free_port(), folder, ["--upstream", rclone_endpoint]) as url:
        yield url, folder / "faults.json"


@pytest.fixture
def middle(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of faults of the server that is used."""
    url, faults = server
    faults.write_text("[]")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return faults


def _write_keys(folder: Path, key: str) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")


ACTIONS: dict[str, Callable[..., object]] = {
    "read": lambda store: store.read_bytes("a"),
    "open": lambda store: store.open_input("a").read(),
    "list": lambda store: store.list(),
    "size": lambda store: store.size("a"),
    "write": lambda store: store.write_bytes("a", b"leaf"),
    "delete": lambda store: store.delete("b"),
}


@pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS)
def test_keys_that_expire_in_the_middle_are_read_anew(
    bucket: str, middle: Path, act: Callable[..., object], tmp_path: Path
) -> None:
    """As `aws sso login` or a company's tool writes them into the file of credentials."""
    _write_keys(tmp_path, KEY)
    store = open_store(f"s3://{bucket}/place")
    store.write_bytes("a", b"leaf")
    middle.write_text(json.dumps([{"status": 400, "code": "ExpiredToken", "key": KEY}]))
    with pytest.raises(UserError, match=r"credentials have expired.*\n.*aws sso login"):
        act(store)
    _write_keys(tmp_path, "other-key-77")  # other keys than before: they are tried, whatever the server makes of them
    with pytest.raises(UserError, match="access key is not known"):
        act(store)
    _write_keys(tmp_path, KEY)
    middle.write_text(json.dumps([{"status": 400, "code": "ExpiredToken", "key": "other-key-77"}]))
    act(store)


def test_a_role_whose_keys_are_taken_back_early(bucket: str, machine: Machine, middle: Path) -> None:
    machine.give("old-key-77", 3600)
    middle.write_text(json.dumps([{"status": 400, "code": "ExpiredToken", "key": "old-key-77"}]))
    store = open_store(f"s3://{bucket}/place")
    with pytest.raises(UserError, match="credentials have expired"):
        store.write_bytes("a", b"leaf")
    machine.give(KEY, 3600)
    store.write_bytes("a", b"leaf")
    assert store.read_bytes("a") == b"leaf"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "RequestTimeTooSkewed", r"clock differs.*\n.*NTP"),
        (400, "InvalidToken", r"session token.*\n.*AWS_SESSION_TOKEN"),
        (400, "TokenRefreshRequired", "expired"),
        (403, "AccountProblem", "access is refused"),
        (400, "AuthorizationHeaderMalformed", r"another region.*\n.*AWS_DEFAULT_REGION"),
    ],
)
def test_each_refusal_is_explained(
    bucket: str, middle: Path, status: int, code: str, message: str, tmp_path: Path
) -> None:
    _write_keys(tmp_path, KEY)
    store = open_store(f"s3://{bucket}/place")
    middle.write_text(json.dumps([{"status": status, "code": code}]))
    for name, act in ACTIONS.items():
        with pytest.raises(UserError, match=message) as caught:
            act(store)
        assert f"s3://{bucket}/place" in str(caught.value), name
