"""SIGTERM and Control-C: how a process ends, and the status of its run on MLflow afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ufgvc.core.process import Stopped, restore_signal_handlers, sigterm_as_interrupt
from ufgvc.tracking.runs import NullRun, finish_run_on_exit

PROGRAM = """
import os, sys, time
from ufgvc import cli
from ufgvc.commands import sync
def work(settings, context):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), 15)  # some senders send it twice
        time.sleep(0.2)
        print("cleaned up", flush=True)
sync.run = work
raise SystemExit(cli.main(["sync", "--runs", "/tmp/x"]))
"""


@pytest.fixture(autouse=True)
def restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_terminated_command_cleans_up_and_says_so() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert out == "cleaned up\n"
    assert err == "stopped; the same command continues from the last checkpoint\n"
    assert process.returncode == 143


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def test_sigterm_is_handled_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), sigterm_as_interrupt():
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "code", "expected"), [(signal.SIGTERM, 15, Stopped), (signal.SIGINT, 0, KeyboardInterrupt)]
)
def test_a_library_that_handles_signals_by_exiting(
    number: signal.Signals, code: int, expected: type[BaseException]
) -> None:
    """As ray.init does for SIGTERM and Ray Train for Control-C."""
    before = signal.getsignal(number)

    def library() -> None:
        signal.signal(number, lambda *_: sys.exit(code))
        send(number)

    with pytest.raises(expected) as caught, restore_signal_handlers():
        library()
    assert type(caught.value) is expected
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("code", "expected"), [("15", Stopped), ("0", KeyboardInterrupt)])
def test_the_exit_code_in_the_message_of_rays_core(code: str, expected: type[BaseException]) -> None:
    leaving: Any = SystemExit(1)
    leaving.ray_terminate_msg = f"SystemExit is raised (sys.exit is called). Exit code: {code}."
    with pytest.raises(expected) as caught, restore_signal_handlers():
        raise leaving
    assert type(caught.value) is expected


def test_sigterm_reaches_a_library_that_handles_control_c_only() -> None:
    received: list[int] = []

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        sys.exit(0)

    def library() -> None:
        signal.signal(signal.SIGINT, handler)
        send(signal.SIGTERM)

    with pytest.raises(Stopped), sigterm_as_interrupt(), restore_signal_handlers():
        library()
    assert received == [signal.SIGINT]


def test_sigterm_that_rays_core_turns_into_control_c_is_recognised() -> None:
    def core() -> None:
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(Stopped), sigterm_as_interrupt():
        core()


def test_other_exits_do_not_change() -> None:
    with pytest.raises(SystemExit) as caught, restore_signal_handlers():
        sys.exit(3)
    assert caught.value.code == 3


def test_in_threads_signals_are_left_alone() -> None:
    done: list[str] = []

    def work() -> None:
        with sigterm_as_interrupt(), restore_signal_handlers():
            done.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["worked"]


class RecordedRun(NullRun):
    def __init__(self) -> None:
        self.statuses: list[str] = []

    def finish(self, status: str = "FINISHED") -> None:
        self.statuses.append(status)


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (Stopped(), "KILLED"), (ValueError("ours"), "FAILED"), (SystemExit(1), "FAILED")],
)
def test_the_status_of_a_run_after_an_error(error: BaseException, status: str) -> None:
    run = RecordedRun()
    with pytest.raises(type(error)) as caught, finish_run_on_exit(run):
        raise error
    assert caught.value is error
    assert run.statuses == [status]


def test_the_status_of_a_run_without_an_error() -> None:
    run = RecordedRun()
    with finish_run_on_exit(run):
        assert run.statuses == []
    assert run.statuses == ["FINISHED"]
