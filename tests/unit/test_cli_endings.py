"""How a command ends: its exit code, a mistake, an error of the program, control-C, and a reader that has gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.command_line import refused
from tests.documented import ROOT
from ufgvc.cli import main
from ufgvc.commands.fields import CommandSettings
from ufgvc.core.errors import UserError


@pytest.fixture
def outside_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


class Nothing(CommandSettings):
    """No required setting."""


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `ufgvc mask` need no flag and fail with the error."""

    def run(settings: object, context: object) -> None:
        raise error

    monkeypatch.setattr("ufgvc.commands.mask.Mask", Nothing)
    monkeypatch.setattr("ufgvc.commands.mask.run", run)


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_command_may_have_an_exit_code_of_its_own(
    code: int | None, outside_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ufgvc.commands.mask.Mask", Nothing)
    monkeypatch.setattr("ufgvc.commands.mask.run", lambda settings, context: {"of": code})
    if code is not None:
        monkeypatch.setattr("ufgvc.commands.mask.exit_code", lambda settings, result: result["of"], raising=False)
    assert main(["mask"]) == (code or 0)


def run_without_a_reader(program: list[str], unbuffered: bool) -> tuple[int, str]:
    """The exit code and standard error of a process whose output is closed, as by `| head`."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    try:
        done = subprocess.run(
            [sys.executable, *program],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
            env=environment,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr


# A process each. The overview is written by us, the help of a command by tyro; a long one takes the way of a short one.
@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["--help"], False),
        (["--help"], True),
        pytest.param(["train", "--help"], False, marks=pytest.mark.slow),  # imports torch, and is only longer
        pytest.param(["train", "--help"], True, marks=pytest.mark.slow),
        (["synth", "--help"], False),
        (["synth", "--help"], True),
    ],
)
def test_closed_output_ends_a_command_quietly(arguments: list[str], unbuffered: bool) -> None:
    assert run_without_a_reader(["-m", "ufgvc", *arguments], unbuffered) == (141, "")


def test_closed_output_is_not_a_broken_connection() -> None:
    program = (
        "import sys\n"
        "from ufgvc import cli\n"
        "from ufgvc.commands import sync\n"
        "def work(settings, context):\n"
        "    {}\n"
        "sync.run = work\n"
        "raise SystemExit(cli.main(['sync', '--runs', '/tmp/x']))\n"
    )
    assert run_without_a_reader(["-c", program.format("print('done')")], unbuffered=False) == (141, "")
    done = subprocess.run(
        [sys.executable, "-c", program.format("raise BrokenPipeError('the server hung up')")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "BrokenPipeError: the server hung up"


def test_an_error_in_the_program_keeps_its_traceback(outside_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(ZeroDivisionError("ours"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["mask"])
    program = (
        "from ufgvc import cli\n"
        "from ufgvc.commands import sync\n"
        "def fail(settings, context): raise ZeroDivisionError('ours')\n"
        "sync.run = fail\n"
        "raise SystemExit(cli.main(['sync', '--runs', '/tmp/x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: ours"


def test_a_mistake_found_deep_within_a_framework(
    outside_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = UserError("is empty", where="leaf.png", fix="remove it")
    _raising(wrapped, monkeypatch)
    assert refused(capsys, "mask") == "ufgvc mask: leaf.png: is empty -> remove it"


def test_control_c(outside_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _raising(KeyboardInterrupt(), monkeypatch)
    assert main(["mask"]) == 130
    assert "continues from the last checkpoint" in capsys.readouterr().err
