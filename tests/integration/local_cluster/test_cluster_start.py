"""cluster/local.py before a stack is up: an interrupted or refused `up`, and what a job uploads of a checkout."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.stack import marked_processes, read_stack
from tests.integration.s3_servers import KEY, new_bucket
from tests.integration.submission import local, plain_environment, wait_until


@pytest.mark.slow
def test_an_up_that_is_stopped_leaves_nothing(checkout: Path, home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "cluster/local.py", "up", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, cwd=checkout, env=plain_environment(home), stderr=subprocess.PIPE, text=True)
    begun = lambda: (found := read_stack(tmp_path)) is not None and found.servers  # noqa: E731
    wait_until(lambda: begun() or process.poll() is not None, "the first part")
    assert process.poll() is None, process.communicate()[1]
    was = read_stack(tmp_path)
    assert was is not None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "interrupted; nothing of a new stack keeps running\n")
    assert not marked_processes(was.mark)
    assert not was.session.exists()
    assert read_stack(tmp_path) is None


def test_keys_that_the_s3_server_refuses_end_up_at_once(
    rclone_endpoint: str, checkout: Path, home: Path, tmp_path: Path
) -> None:
    bucket = new_bucket(rclone_endpoint)
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "wrong-secret-77", "AWS_DEFAULT_REGION": "us-east-1"}
    done = local(
        checkout, "up", "--folder", str(tmp_path), "--s3", rclone_endpoint, "--bucket", bucket, home=home, **keys
    )
    assert done.returncode == 2
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "wrong-secret-77" not in done.stderr
    assert "Traceback" not in done.stderr
    assert read_stack(tmp_path) is None


def test_the_upload_is_small_and_whole(checkout: Path, tmp_path: Path) -> None:
    """Packed by Ray's own function from a checkout that also holds runs and photographs."""
    from ray._private.runtime_env.packaging import create_package

    (checkout / "runs").mkdir(exist_ok=True)
    (checkout / "photographs").mkdir(exist_ok=True)
    for name in ("runs/checkpoint.pt", "photographs/leaf.jpg"):
        (checkout / name).write_bytes(b"0" * 2_000_000)
    (checkout / "vineyard.yaml").write_text("name: vineyard\n")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "there")
    assert package.stat().st_size < 2 * 2**20
    assert {name.split("/")[0] for name in names} == {"jobs", "ufgvc", "vineyard.yaml"}
    for code in (
        *checkout.glob("jobs/**/*.py"),
        *checkout.glob("ufgvc/**/*.py"),
        *checkout.glob("jobs/configs/*.yaml"),
    ):
        assert str(code.relative_to(checkout)) in names
