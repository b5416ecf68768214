"""Tab completion: the script for bash, as a shell uses it."""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT
from ufgvc.commands import COMMANDS

SECONDS = 20.0  # of a CPU, to write the script, which is done once: torch's import takes most of it
TAB_SECONDS = 1.0  # of a CPU, at each tab


def cpu_seconds() -> float:
    """Of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "ufgvc", "--tyro-print-completion", "bash"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert cpu_seconds() - before < SECONDS
    assert done.stderr == ""
    path = tmp_path_factory.mktemp("completion") / "ufgvc"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word of a command line."""
    typed = shlex.join(words)
    program = f"source {shlex.quote(str(script))}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}\n"
    program += 'COMPREPLY=(); _tyro_ufgvc; printf "%s\\n" "${COMPREPLY[@]}"\n'
    before = cpu_seconds()
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert cpu_seconds() - before < TAB_SECONDS
    assert done.stderr == ""
    return done.stdout.split()


def test_commands(script: Path) -> None:
    assert set(complete(script, "ufgvc", "")) >= set(COMMANDS.names())
    assert complete(script, "ufgvc", "stat") == ["status"]
    assert "\ncomplete -F _tyro_ufgvc ufgvc\n" in script.read_text(encoding="utf-8").replace("-o filenames ", "")


def test_flags_and_choices(script: Path) -> None:
    assert complete(script, "ufgvc", "train", "--meth") == ["--method"]
    assert complete(script, "ufgvc", "train", "--train.epo") == ["--train.epochs"]
    assert set(complete(script, "ufgvc", "mask", "--mask-kind", "")) == {"box", "luminance", "structure", "exact"}
    assert complete(script, "ufgvc", "mask", "--mask-kind", "lu") == ["luminance"]


@pytest.mark.parametrize("flag", ["--config", "--quiet", "--json"])
def test_the_flags_of_the_program_itself(flag: str, script: Path) -> None:
    for command in ("sync", "pipeline"):
        assert complete(script, "ufgvc", command, flag) == [flag]
