"""What a person reads when storage refuses: each message names the remedy and no secret.

Only rclone's server checks keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.s3_servers import SECRET, new_bucket, use_server
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store


@pytest.fixture
def strict(rclone_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only rclone refuses a wrong key."""
    return use_server(rclone_endpoint, monkeypatch)


@pytest.fixture(params=["moto", "rclone"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return use_server(
        request.getfixturevalue("s3_endpoint" if request.param == "moto" else "rclone_endpoint"), monkeypatch
    )


ACTIONS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read_bytes("a"),
    "open": lambda store: store.open_input("a"),
    "write": lambda store: store.write_bytes("a", b"1"),
    "list": lambda store: store.list(),
    "exists": lambda store: store.exists("a"),
    "size": lambda store: store.size("a"),
    "delete": lambda store: store.delete("a"),
    "delete_tree": lambda store: store.delete_tree("a"),
}
every_action = pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS)


@every_action
def test_a_bucket_that_is_not_there(endpoint: str, act: Callable[[Store], object]) -> None:
    with pytest.raises(UserError, match="no such bucket") as caught:
        act(open_store("s3://leaf-that-nobody-made/place"))
    assert "s3://leaf-that-nobody-made/place" in str(caught.value)


@every_action
@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong-secret-77"), ("AWS_ACCESS_KEY_ID", "wrong-key-77")]
)
def test_refused_credentials(
    strict: str, variable: str, value: str, act: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(strict)
    open_store(f"s3://{bucket}").write_bytes("a", b"kept")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match="AWS_") as caught:
        act(open_store(f"s3://{bucket}"))
    message = str(caught.value)
    assert f"s3://{bucket}" in message
    assert "wrong-secret-77" not in message
    assert SECRET not in message
    assert "\n" not in caught.value.what
    monkeypatch.undo()
    use_server(strict, monkeypatch)
    assert open_store(f"s3://{bucket}").read_bytes("a") == b"kept"


def test_the_message_says_which_key_is_wrong(strict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket(strict)
    with monkeypatch.context() as changed:
        changed.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-77")
        with pytest.raises(UserError, match=r"secret key is wrong.*\n.*AWS_SECRET_ACCESS_KEY"):
            open_store(f"s3://{bucket}").write_bytes("credentials/Bucket", b"1")
    with monkeypatch.context() as changed:
        changed.setenv("AWS_ACCESS_KEY_ID", "wrong-key-77")
        with pytest.raises(UserError, match=r"access key is not known.*\n.*AWS_ACCESS_KEY_ID"):
            open_store(f"s3://{bucket}").write_bytes("credentials/Bucket", b"1")


def test_no_credentials_at_all(strict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = new_bucket(strict)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no credentials were found.*\n.*AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{bucket}").write_bytes("a", b"1")
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{bucket}").list()


def test_a_profile(strict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bucket = new_bucket(strict)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    keys = f"aws_access_key_id = ufgvc-test-key\naws_secret_access_key = {SECRET}\n"
    file.write_text(
        f"[default]\naws_access_key_id = nobody-here\naws_secret_access_key = nothing-here\n\n[field]\n{keys}"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "field")
    store = open_store(f"s3://{bucket}/p")
    store.write_bytes("a", b"1")
    store.write_bytes("b", b"2")
    store.delete("a")
    assert (store.list(), store.read_bytes("b")) == (["b"], b"2")
    monkeypatch.setenv("AWS_PROFILE", "forest")
    with pytest.raises(UserError, match="AWS_PROFILE"):
        open_store(f"s3://{bucket}/p").write_bytes("c", b"1")


@pytest.mark.parametrize("action", ["write", "list", "delete"])
def test_a_server_that_is_not_there(action: str, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    use_server(f"http://127.0.0.1:{free_port()}", monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"does not answer.*\n.*AWS_ENDPOINT_URL"):
        ACTIONS[action](open_store("s3://leaf/place"))


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "nonsense", "ftp://127.0.0.1:9000"])
def test_an_endpoint_that_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
        open_store("s3://leaf/place")
