"""SIGTERM and Control-C: what a process does, and what its run on MLflow says afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ufgvc.core.process import Stopped, restore_signal_handlers, sigterm_as_interrupt
from ufgvc.tracking.runs import NullRun, finish_run_on_exit

PROGRAM = """
import os, sys, time
from ufgvc import cli, commands
def work(settings):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), 15)  # some senders say it twice
        time.sleep(0.2)
        print("cleared up", flush=True)
commands.COMMANDS._known["sync"] = commands.Command("waits", commands.COMMANDS.get("sync").settings, work)
raise SystemExit(cli.main(["sync", "--runs", "/tmp/x"]))
"""


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


def test_a_command_that_is_told_to_end_clears_up_and_says_so() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert out == "cleared up\n"
    assert err == "stopped; the same command goes on from the last checkpoint\n"
    assert process.returncode == 143


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def test_sigterm_is_ours_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), sigterm_as_interrupt():
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "code", "means"), [(signal.SIGTERM, 15, Stopped), (signal.SIGINT, 0, KeyboardInterrupt)]
)
def test_a_library_that_answers_signals_by_leaving(
    number: signal.Signals, code: int, means: type[BaseException]
) -> None:
    """As ray.init does for SIGTERM and Ray Train for Control-C."""
    before = signal.getsignal(number)

    def library() -> None:
        signal.signal(number, lambda *_: sys.exit(code))
        send(number)

    with pytest.raises(means) as caught, restore_signal_handlers():
        library()
    assert type(caught.value) is means
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("code", "means"), [("15", Stopped), ("0", KeyboardInterrupt)])
def test_rays_core_tells_the_exit_in_words(code: str, means: type[BaseException]) -> None:
    leaving = SystemExit(1)
    leaving.ray_terminate_msg = f"SystemExit is raised (sys.exit is called). Exit code: {code}."  # type: ignore[attr-defined]
    with pytest.raises(means) as caught, restore_signal_handlers():
        raise leaving
    assert type(caught.value) is means


def test_a_library_that_knows_control_c_only_hears_of_sigterm() -> None:
    heard: list[int] = []

    def library() -> None:
        signal.signal(signal.SIGINT, lambda number, frame: sys.exit(heard.append(number) or 0))  # type: ignore[func-returns-value]
        send(signal.SIGTERM)

    with pytest.raises(Stopped), sigterm_as_interrupt(), restore_signal_handlers():
        library()
    assert heard == [signal.SIGINT]


def test_sigterm_that_rays_core_hands_on_as_control_c_is_known() -> None:
    def core() -> None:
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(Stopped), sigterm_as_interrupt():
        core()


def test_another_exit_stays_what_it_is() -> None:
    with pytest.raises(SystemExit) as caught, restore_signal_handlers():
        sys.exit(3)
    assert caught.value.code == 3


def test_threads_have_no_signals_to_keep() -> None:
    done: list[str] = []

    def work() -> None:
        with sigterm_as_interrupt(), restore_signal_handlers():
            done.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["worked"]


class Remembering(NullRun):
    def __init__(self) -> None:
        self.ends: list[str] = []

    def finish(self, status: str = "FINISHED") -> None:
        self.ends.append(status)


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (Stopped(), "KILLED"), (ValueError("ours"), "FAILED"), (SystemExit(1), "FAILED")],
)
def test_a_run_says_how_it_ended(error: BaseException, status: str) -> None:
    run = Remembering()
    with pytest.raises(type(error)) as caught, finish_run_on_exit(run):
        raise error
    assert caught.value is error
    assert run.ends == [status]


def test_a_run_that_came_to_its_end_is_finished() -> None:
    run = Remembering()
    with finish_run_on_exit(run):
        assert run.ends == []
    assert run.ends == ["FINISHED"]
