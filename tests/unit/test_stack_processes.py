"""What `cluster/local.py down` ends, and what it leaves alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import launch
from cluster.launch import Launcher, StackSettings, free_ports
from cluster.stack import (
    Server,
    Stack,
    end_processes,
    marked_processes,
    read_stack,
    start_process,
    write_private,
)
from ufgvc.core.errors import UserError

SLEEP = "import time; time.sleep(60)"
# A server that leaves a child in a session of its own, as Ray's job supervisors do, and ignores SIGTERM.
STUBBORN = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True, env={{}})
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"test-{os.getpid()}-{request.node.name}"
    yield name
    end_processes(name, timeout=0.1)


def run(code: str, mark: str, folder: Path, name: str = "server") -> int:
    return start_process([sys.executable, "-u", "-c", code], dict(os.environ), mark, folder / f"{name}.log").pid


def text_in(file: Path) -> str:
    deadline = time.monotonic() + 20
    while not file.read_text():
        assert time.monotonic() < deadline, f"{file} stays empty"
        time.sleep(0.05)
    return file.read_text()


def test_what_was_started_ends_with_all_that_it_started(mark: str, tmp_path: Path) -> None:
    server = run(STUBBORN, mark, tmp_path)
    child = int(text_in(tmp_path / "server.log"))
    assert set(marked_processes(mark)) == {server}  # the child's environment is empty, and it is found all the same
    end_processes(mark, timeout=0.5)
    assert not marked_processes(mark)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_another_stack_and_an_unmarked_process_are_left_alone(mark: str, tmp_path: Path) -> None:
    run(SLEEP, mark, tmp_path, "ours")
    other = run(SLEEP, f"{mark}-other", tmp_path, "other")
    unmarked = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        end_processes(mark)
        assert not marked_processes(mark)
        assert set(marked_processes(f"{mark}-other")) == {other}
        assert unmarked.poll() is None
    finally:
        end_processes(f"{mark}-other")
        unmarked.kill()
        unmarked.wait()


def test_what_lost_its_server_is_asked_to_end_too(mark: str, tmp_path: Path) -> None:
    """As a raylet whose `ray start` was killed."""
    orphan = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('asked'))); "
        "print('ready'); time.sleep(60)"
    )
    server = run(
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-u', '-c', {orphan!r}]); time.sleep(60)",
        mark,
        tmp_path,
    )
    text_in(tmp_path / "server.log")
    psutil.Process(server).kill()
    psutil.Process(server).wait(60)  # while it still dies, its child counts as the child of a server
    end_processes(mark, timeout=60)
    assert not marked_processes(mark)
    assert (tmp_path / "server.log").read_text() == "ready\nasked\n"


def test_ports_are_free_and_different() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 32_000 for port in ports)


def test_a_port_is_given_once_though_its_server_does_not_listen_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_ports(1)[0]
    other = free_ports(1)[0]
    drawn = iter([first, other, *range(31_000, 32_000)])
    monkeypatch.setattr(random, "randrange", lambda *_: next(drawn))
    assert not {first, other} & set(free_ports(3))


def test_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("older, and open to all")
    file.chmod(0o644)
    write_private(file, "secret")
    assert (file.stat().st_mode & 0o777, file.read_text()) == (0o600, "secret")


@pytest.fixture
def launcher(tmp_path: Path, mark: str) -> Launcher:
    (tmp_path / "logs").mkdir()
    session = tmp_path / "session"
    session.mkdir()
    stack = Stack(
        folder=tmp_path,
        mark=mark,
        session=session,
        bucket="b",
        gcs="127.0.0.1:1",
        dashboard="http://127.0.0.1:2",
        nodes=1,
    )
    stack.write()
    settings = StackSettings(nodes=0, cpus=1, s3=None, bucket="b", mlflow_store=None, object_store_mb=100)
    return Launcher(stack, settings, {})


def begin(launcher: Launcher, code: str, tries: int = 1) -> None:
    launcher._start("mlflow", ["-u", "-c", code], {}, None, lambda server: False, tries)


def test_a_server_that_ends_names_its_log(launcher: Launcher) -> None:
    with pytest.raises(UserError, match="mlflow ended before it answered: no such database") as caught:
        begin(launcher, "import sys; sys.exit('trying\\nno such database')")
    assert caught.value.where == str(launcher.stack.folder / "logs" / "mlflow.log")


def test_a_server_that_never_answers_is_given_up(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "TIMEOUT", 1.0)
    with pytest.raises(UserError, match=r"mlflow did not answer within 1 s: waiting for a lock"):
        begin(launcher, "import time; print('waiting for a lock'); time.sleep(60)")


def test_a_server_is_tried_again_and_known_by_its_last_try(launcher: Launcher) -> None:
    tries = launcher.stack.folder / "tries"
    code = (
        f"import time; file = open({str(tries)!r}, 'a'); file.write('x'); file.close(); "
        f"time.sleep(len(open({str(tries)!r}).read()) - 1)"
    )
    ready = lambda server: tries.exists() and tries.read_text() == "xxx"  # noqa: E731
    launcher._start("ray head", ["-c", code], {}, None, ready, tries=3)
    stack = read_stack(launcher.stack.folder)
    assert stack is not None
    assert [server.name for server in stack.servers] == ["ray head"]


def test_the_folder_that_ray_had_is_gone_and_logs_of_a_failure_are_kept(launcher: Launcher) -> None:
    logs = launcher.stack.session / "0" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("why")
    launcher.stack.end(keep_logs=True)
    assert not launcher.stack.session.exists()
    assert (launcher.stack.folder / "logs" / "ray" / "0" / "raylet.out").read_text() == "why"
    assert read_stack(launcher.stack.folder) is None


def test_the_server_of_somebody_else_only_has_to_answer(launcher: Launcher) -> None:
    write_private(launcher.stack.token, "t")
    stack = launcher.stack.with_server(
        Server(name="s3", pid=None, url=f"http://127.0.0.1:{free_ports(1)[0]}", log=None)
    )
    assert stack.check() == {"s3": False}
