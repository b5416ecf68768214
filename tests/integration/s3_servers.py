"""Two S3 servers for tests, and a client of their own that sees the keys as they are."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "ufgvc-test-key", "ufgvc-test-secret"


def use_server(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in (
        "AWS_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return url


def new_bucket(url: str) -> str:
    bucket = f"leaf-{uuid.uuid4().hex[:8]}"
    client_of(url).create_bucket(Bucket=bucket)
    return bucket


def client_of(url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )


def keys_in(url: str, bucket: str) -> list[str]:
    return sorted(each["Key"] for each in client_of(url).list_objects_v2(Bucket=bucket).get("Contents", []))


@contextlib.contextmanager
def start_middle(port: int, folder: Path, options: list[str]) -> Iterator[str]:
    """tests/integration/s3_middle.py in a process of its own; its log is requests.log, and its faults are read from
    faults.json.
    """
    files = ["--log", str(folder / "requests.log"), "--faults", str(folder / "faults.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.s3_middle", "--port", str(port), *files, *options]
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)
