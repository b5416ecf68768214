"""Refusals that pass, answers that are cut off, and single objects that may not be read."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

from tests.integration.s3_servers import client_of, new_bucket, start_middle, use_server
from ufgvc.core import s3_client
from ufgvc.core.errors import UnreadableFile, UserError
from ufgvc.core.storage import Store, open_store

ACTIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read_bytes("a"),
    "open": lambda store: store.open_input("a").read(),
    "list": lambda store: store.list(),
    "size": lambda store: store.size("a"),
    "write": lambda store: store.write_bytes("b", bytes(100)),
    "write much": lambda store: store.write_bytes("b", bytes(17 << 20)),
    "delete": lambda store: store.delete("b"),
}


@pytest.fixture(scope="module")
def server(
    s3_endpoint: str, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of a server that stands before moto's, and the file of its faults."""
    folder = tmp_path_factory.mktemp("middle")
    with start_middle(free_port(), folder, ["--upstream", s3_endpoint]) as url:
        yield url, folder / "faults.json"


@pytest.fixture
def middle(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of faults of the server that is used."""
    url, faults = server
    faults.write_text("[]")
    use_server(url, monkeypatch)
    return faults


@pytest.fixture
def store(middle: Path, s3_endpoint: str) -> Store:
    store = open_store(f"s3://{new_bucket(s3_endpoint)}/place")
    store.write_bytes("a", b"leaf")
    return store


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time between one attempt and the next, botocore's and ours; there are as many attempts."""
    delay = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: delay(self, context) / 10)
    waits = {kind: tuple(pause / 10 for pause in pauses) for kind, pauses in s3_client._WAITS.items()}
    monkeypatch.setattr(s3_client, "_WAITS", waits)


def faulty(middle: Path, *faults: dict[str, object]) -> None:
    middle.write_text(json.dumps(faults))


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (429, "TooManyRequests"), (429, ""), (500, "InternalError"), (503, "SlowDown"), (502, "")],
)
def test_a_refusal_that_passes(
    store: Store, middle: Path, status: int, code: str, act: Callable[[Store], object]
) -> None:
    faulty(middle, {"status": status, "code": code, "times": 2})
    act(store)
    faulty(middle)
    assert store.read_bytes("a") == b"leaf"


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("read", [lambda store: store.read_bytes("big"), lambda store: store.open_input("big").read()])
def test_an_answer_that_is_cut_off(store: Store, middle: Path, read: Callable[[Store], bytes]) -> None:
    data = bytes(range(256)) * 1000
    store.write_bytes("big", data)
    faulty(middle, {"status": 200, "method": "GET", "path": "big", "times": 2, "cut": 1000})
    assert read(store) == data


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (503, "SlowDown", r"slow down.*\n.*later"),
        (500, "InternalError", r"fails.*\n.*later"),
        # It is tried again as 503 is, which test_a_refusal_that_passes shows, and says the same.
        pytest.param(429, "", r"slow down.*\n.*later", marks=pytest.mark.slow),
    ],
)
def test_a_refusal_that_stays(
    store: Store, middle: Path, status: int, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = open_store(store.uri)
    faulty(middle, {"status": status, "code": code})
    for name in ("read", "write"):
        with pytest.raises(UserError, match=message) as caught:
            ACTIONS[name](store)
        assert not isinstance(caught.value, UnreadableFile)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("AccessDenied", "access is refused"),
        ("InvalidObjectState", r"Glacier.*\n.*restore"),
        ("KMS.DisabledException", "KMS"),
    ],
)
def test_one_object_that_may_not_be_read(store: Store, middle: Path, code: str, message: str) -> None:
    for name in "bc":
        store.write_bytes(name, b"leaf")
    faulty(middle, {"status": 403, "code": code, "path": "/a"})
    for name in ("read", "open", "size"):
        with pytest.raises(UserError if name == "size" else UnreadableFile, match=message) as caught:
            ACTIONS[name](store)
        assert f"{store.uri}/a" in str(caught.value)
    assert store.read_bytes("b") == b"leaf"


def test_an_archived_object(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto answers as S3 does."""
    use_server(s3_endpoint, monkeypatch)
    bucket = new_bucket(s3_endpoint)
    client_of(s3_endpoint).put_object(Bucket=bucket, Key="a", Body=b"leaf", StorageClass="GLACIER")
    for act in (
        lambda: open_store(f"s3://{bucket}").read_bytes("a"),
        lambda: open_store(f"s3://{bucket}").open_input("a").read(),
    ):
        with pytest.raises(UnreadableFile, match=r"archived \(Glacier\).*\n.*restore"):
            act()


def test_many_objects_that_may_not_be_read_take_no_time_each(store: Store, middle: Path) -> None:
    faulty(middle, {"status": 403, "code": "AccessDenied"})
    started = time.monotonic()
    for number in range(60):
        with pytest.raises(UnreadableFile):
            store.read_bytes(f"{number}")
    assert time.monotonic() - started < 20


def _drawn(folder: Path, target: Store) -> list[str]:
    from ufgvc.synthetic import SynthSettings, synthesize

    synthesize(folder, SynthSettings(cultivars=2, train_per_cultivar=2, test_per_cultivar=2, size=64), seed=3)
    target.upload(folder)
    return [name for name in target.list() if name.startswith("images/")]


@pytest.mark.usefixtures("short_waits")
def test_one_unreadable_photograph_is_one_rejected_row(
    ray_local: None, store: Store, middle: Path, tmp_path: Path
) -> None:
    from ufgvc import methods
    from ufgvc.data.ingest import IngestSettings, ingest
    from ufgvc.evaluation.predict import predict
    from ufgvc.models.format import save_model

    made = methods.build("resnet50", 2, init="none", backbone="shufflenet_v2_x0_5")
    model = tmp_path / "model"
    save_model(model, made, ("ash", "birch"), {"resize": 40, "size": 32}, {"data": "none"}, {})
    source = store.child("src")
    names = _drawn(tmp_path / "drawn", source)
    denied, archived = names[0], names[1]
    faulty(
        middle,
        {"status": 403, "code": "AccessDenied", "method": "GET", "path": denied},
        {"status": 403, "code": "InvalidObjectState", "method": "GET", "path": archived},
    )
    result = predict(f"{source.uri}/images", str(model), str(tmp_path / "out"))
    assert (result.predicted, result.rejected) == (len(names) - 2, 2)
    rows = {
        row["path"]: row["reason"]
        for row in csv.DictReader(io.StringIO((tmp_path / "out" / "rejected.csv").read_text()))
    }
    assert "access is refused" in rows[denied.removeprefix("images/")]
    assert "archived" in rows[archived.removeprefix("images/")]
    with pytest.raises(UserError, match="access is refused"):
        ingest(source.uri, str(tmp_path / "data"))
    ingest(source.uri, str(tmp_path / "data"), settings=IngestSettings(on_bad_image="skip"))
    rejected = (tmp_path / "data" / "rejected.csv").read_text()
    assert f"{denied},access is refused" in rejected
    assert archived in rejected
