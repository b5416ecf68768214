"""The program and the package as a whole: names of commands, help, a process of its own, imports, public functions."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ufgvc
from tests.command_line import refused
from tests.documented import ROOT
from ufgvc.cli import main
from ufgvc.commands import COMMANDS


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "tain", "--data", "/tmp/x")
    assert message.startswith("ufgvc tain: there is no command named 'tain'")
    assert all(name in message for name in COMMANDS.names())


def test_a_process_of_its_own(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ufgvc", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    done = run("nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "ufgvc nope: there is no command named 'nope'"
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_help_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-h"]) == main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS.names())
    assert main([]) == 2


@pytest.mark.parametrize("name", COMMANDS.names())
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    output = capsys.readouterr()
    assert stopped.value.code == 0
    fields = COMMANDS.get(name).settings("mask_guided").model_fields
    assert all(f"--{field.replace('_', '-')}" in output.out for field in fields)
    assert output.err == ""


PUBLIC = ["ingest", "detect", "mask", "train", "evaluate", "predict", "load_model"]


def test_importing_the_package_is_quick() -> None:
    program = "import time, sys; start = time.process_time(); import ufgvc; print(time.process_time() - start); "
    program += "print(sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = done.stdout.splitlines()
    assert float(seconds) < 0.3
    assert heavy == "[]"


def test_ray_tasks_and_controllers_do_not_import_what_they_do_not_need() -> None:
    """Each is a process of its own: torch takes 1.6 CPU seconds, and torchvision 1.8 more."""
    program = (
        "import sys, ufgvc.data.ingest, ufgvc.data.stream, ufgvc.regions.exact_masks; print('torch' in sys.modules); "
    )
    program += "import ufgvc.training.controller; print('torch' in sys.modules); "
    program += "import ufgvc.training.distributed; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False", "False"]


@pytest.mark.parametrize("name", ufgvc.__all__)
def test_the_public_functions(name: str) -> None:
    assert name in dir(ufgvc)
    public = getattr(ufgvc, name)
    if name != "__version__":
        assert public.__doc__
    if name in PUBLIC:
        assert "context" in inspect.signature(public).parameters or name == "ingest"
        assert f"ufgvc.{name}(" in str(ufgvc.__doc__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ufgvc.nothing  # noqa: B018
