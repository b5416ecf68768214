"""`--quiet` and `--json`: what a command writes to standard output and to standard error."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import ufgvc
from tests.documented import ROOT
from ufgvc.commands import COMMANDS
from ufgvc.core.config import Settings
from ufgvc.core.output import Output, is_quiet, to_jsonable

# A command that prints, logs and warns, also from a child process, and returns a result.
PROGRAM = """
import logging, subprocess, sys, warnings
from ufgvc import cli
from ufgvc.commands import sync
from ufgvc.core.errors import UserError

def work(settings, context):
    print("sent 3", flush=True)
    subprocess.run([sys.executable, "-c", "print('of a child')"], check=True)
    logging.getLogger("ufgvc").info("a line of the log")
    logging.getLogger("other").warning("a warning")
    warnings.warn("an old setting")
    logging.getLogger("ufgvc").error("an error")
    if "fails" in settings.runs:
        raise UserError("holds nothing", where=settings.runs)
    return {"sent": 3}

sync.run = work
raise SystemExit(cli.main(sys.argv[1:]))
"""
NOISE = ("a line of the log", "a warning", "an old setting")


def run(*arguments: str, first: str | None = None) -> subprocess.CompletedProcess[str]:
    """`ufgvc [first] sync [arguments]`."""
    command = [sys.executable, "-c", PROGRAM, *([first] if first else []), "sync", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_without_flags() -> None:
    done = run("--runs", "/tmp/x")
    assert (done.returncode, done.stdout.splitlines()) == (0, ["sent 3", "of a child"])
    assert all(text in done.stderr for text in (*NOISE, "an error"))


@pytest.mark.parametrize("first", [None, "--quiet"])
def test_quiet_leaves_results_and_errors(first: str | None) -> None:
    done = run("--runs", "/tmp/x", *([] if first else ["--quiet"]), first=first)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["sent 3", "of a child"])
    assert not [text for text in NOISE if text in done.stderr]
    assert "an error" in done.stderr


def test_quiet_is_known_while_a_command_runs_and_not_after() -> None:
    assert not is_quiet()
    with Output(quiet=True).while_running():
        assert is_quiet()
    with Output(as_json=True).while_running():
        assert not is_quiet()
    assert not is_quiet()


def test_json_is_all_that_is_on_standard_output() -> None:
    done = run("--json", "--runs", "/tmp/x")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"sent": 3})
    assert len(done.stdout.splitlines()) == 1
    assert all(text in done.stderr for text in ("sent 3", "of a child", *NOISE, "an error"))


def test_both() -> None:
    done = run("--json", "--runs", "/tmp/x", "--quiet")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"sent": 3})
    (line,) = done.stderr.splitlines()
    assert line.endswith("an error")


def test_a_mistake_is_one_message_all_the_same() -> None:
    done = run("--runs", "/tmp/fails", "--json", "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "ufgvc sync: /tmp/fails: holds nothing"


def test_within_this_process_the_log_comes_back(tmp_path: Path) -> None:
    def refused(*flags: str) -> tuple[int, str]:
        ended = ufgvc("status", "--data", tmp_path, *flags)
        return ended.code, ended.out

    assert refused("--quiet") == refused("--json") == (2, "")
    assert logging.getLogger("ufgvc").isEnabledFor(logging.WARNING)
    assert sys.stdout.writable()


@pytest.mark.parametrize("name", COMMANDS.names())
def test_every_command_returns_its_result(name: str) -> None:
    run = import_module(f"ufgvc.commands.{name}").run
    assert inspect.signature(run).return_annotation not in (None, "None", inspect.Signature.empty)


class Chosen(Settings):
    """Some settings."""

    size: int = 3


@dataclass(frozen=True)
class Measured:
    values: np.ndarray
    chosen: Chosen
    best: np.float32
    names: frozenset[str]
    where: Path
    nothing: None = None


class Own:
    def to_json(self) -> dict[str, object]:
        return {"pair": (1, float("nan"))}


def test_results_as_json_values() -> None:
    measured = Measured(np.array([1.0, np.nan, np.inf]), Chosen(), np.float32(0.5), frozenset("ba"), Path("/x/ä"))
    assert to_jsonable({"a": measured, 3: [Own()], "yes": True}) == {
        "a": {
            "values": [1.0, None, None],
            "chosen": {"size": 3},
            "best": 0.5,
            "names": ["a", "b"],
            "where": "/x/ä",
            "nothing": None,
        },
        "3": [{"pair": [1, None]}],
        "yes": True,
    }


def test_the_object_is_one_line_with_the_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).show({"cultivar": "Grüner\nVeltliner"})
    assert capsys.readouterr().out == '{"cultivar": "Grüner\\nVeltliner"}\n'
    Output().show({"cultivar": 1})
    assert capsys.readouterr().out == ""
