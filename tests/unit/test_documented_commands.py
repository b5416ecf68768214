"""Every command and flag that a document or a message of ours names is one that the program takes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import (
    ANYWHERE,
    DOCUMENTS,
    FLAG,
    HOLE,
    ROOT,
    Typed,
    advised,
    command_in,
    documented,
    flags_of,
    known,
    messages,
    snippets,
)
from ufgvc.cli import parse
from ufgvc.commands import COMMANDS
from ufgvc.core.errors import UserError

# What a document puts where a person's own word belongs; another word in capitals is taken as it is.
WORDS = {
    "N": "2",
    "NAME": "mask_guided",
    "short": "bcnn",
    "...": "s3://bucket/x",
}  # short: the example of docs/adding-a-method.md
# Flags of other programs (git, mlflow, ray, docker, pip), and of ours that are no commands of `ufgvc`.
FOREIGN = frozenset(
    ["always", "dirty", "abbrev", "exclude", "host", "backend-store-uri", "artifact-uri", "dst-path", "working-dir"]
)
FOREIGN |= {
    "entrypoint-num-gpus",
    "build-arg",
    "dry-run",
    "folder",
    "pretrain",
    "tests-seconds",
    "commit",
    "s3",
    "allowed-hosts",
}
LABELS = ("ufgvc/spot", "ufgvc/may-use-mlflow", "ufgvc/may-use-serve")  # of Kubernetes
STYLES = (
    "ufgvc/reports/style.py",
    "ufgvc/reports/figures.py",
    "ufgvc/reports/leaf_map.py",
)  # CSS: its variables begin with two dashes
DOCUMENTED, ADVISED = documented(), advised()


def once(found: list[Typed]) -> list[Typed]:
    """The first of those that say the same."""
    return list({typed.words: typed for typed in reversed(found)}.values())[::-1]


def filled(words: tuple[str, ...], folder: Path) -> list[str]:
    """The command with its placeholders filled in and with what it needs besides."""
    command, *rest = words
    if rest[-1:] == ["..."] and not rest[-2:][0].startswith("--"):  # and so on
        rest.pop()
    rest = [WORDS.get(word, word.replace(HOLE, "2")) for word in rest]
    rest = [
        "box" if before == "--mask-kind" and word == "2" else word
        for before, word in zip(["", *rest], rest, strict=False)
    ]
    for place, word in enumerate(rest[:-1]):
        if word == "--config" and not rest[place + 1].startswith("jobs/configs/"):
            rest[place + 1] = str(folder / "own.yaml")
            Path(rest[place + 1]).touch()
    for alone, value in (("--config", str(folder / "own.yaml")), ("--boxes", "/tmp/boxes"), ("--model", "/tmp/model")):
        if rest and rest[-1] == alone:
            Path(folder / "own.yaml").touch()
            rest.append(value)
    fields = COMMANDS.get(command).settings("mask_guided").model_fields
    needed = [
        name
        for name, field in fields.items()
        if field.is_required() and f"--{name}" not in rest and "--help" not in rest
    ]
    return [command, *rest, *(text for name in needed for text in (f"--{name}", f"/tmp/{name}"))]


def check(typed: Typed, folder: Path) -> None:
    """Fails unless the command line gives settings, or shows its help."""
    commands = COMMANDS.names() if typed.words[0] == "COMMAND" else typed.words[:1]
    for command in commands:
        arguments = filled((command, *typed.words[1:]), folder)
        try:
            parse(COMMANDS.get(command), arguments[1:])
        except SystemExit as stopped:
            if stopped.code:
                pytest.fail(f"{typed} is refused")
        except UserError as error:
            pytest.fail(f"{typed} is refused: {error}")


@pytest.mark.parametrize("typed", once(DOCUMENTED), ids=str)
def test_a_documented_command_is_understood(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if typed.words[0].startswith("--"):
        assert typed.words[0].removeprefix("--") in ANYWHERE
        return
    check(typed, tmp_path)


@pytest.mark.parametrize("typed", once(ADVISED), ids=str)
def test_a_command_that_a_message_advises_is_understood(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if typed.words[0] not in COMMANDS.names():
        flags = {word.removeprefix("--") for word in typed.words if word.startswith("--")}
        typed = Typed(
            typed.where, (next(name for name in COMMANDS.names() if flags <= flags_of(name)), *typed.words[1:])
        )
    check(typed, tmp_path)


def named_flags() -> Iterator[tuple[str, str]]:
    for where, text in messages():
        if not where.startswith(STYLES):
            yield from ((where, flag) for flag in FLAG.findall(text.replace("`", " ")))
    for document in DOCUMENTS:
        for line, code in snippets(document.read_text(encoding="utf-8")):
            if code.startswith("--"):
                yield from ((f"{document.relative_to(ROOT)}:{line}", flag) for flag in FLAG.findall(code))


def test_every_flag_that_is_named_is_there() -> None:
    flags = set().union(*(flags_of(command) for command in COMMANDS.names()))
    wrong = [f"{where}: --{flag}" for where, flag in named_flags() if flag not in FOREIGN and not known(flag, flags)]
    assert wrong == []


def test_what_the_parser_of_documents_finds() -> None:
    text = "Say `ufgvc synth\n--out x`, `predict --model M`.\n\n"
    text += "    ufgvc train \\\n        --data D   # a word\n    pip install ufgvc x\n"
    text += "\n```sh\nray job submit -- python -m jobs.mask --mask-kind box\n```\n"
    found = [(line, command_in(code)) for line, code in snippets(text)]
    commands = [
        (1, ("synth", "--out", "x")),
        (2, ("predict", "--model", "M")),
        (4, ("train", "--data", "D")),
        (9, ("mask", "--mask-kind", "box")),
    ]
    assert sorted(pair for pair in found if pair[1]) == commands
    assert {typed.words[0] for typed in DOCUMENTED} >= {
        "COMMAND",
        "bench",
        "benchmark",
        "detect",
        "ingest",
        "pipeline",
        "predict",
        "promote",
    }
    assert len(ADVISED) > 40


def programs() -> list[tuple[str, str]]:
    """(where, code) of every line of code in the documents: make, cluster/local.py, cluster.gpu.run among them."""
    found = []
    for document in DOCUMENTS:
        for line, code in snippets(document.read_text(encoding="utf-8")):
            found.append((f"{document.relative_to(ROOT)}:{line}", re.sub(r"\s#\s.*", "", code)))
    return found


def test_every_target_of_make_and_every_path_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = [
        f"{where}: {code}"
        for where, code in programs()
        if (made := re.match(r"make ([a-z-]+)", code)) and made[1] not in targets
    ]
    paths = re.compile(r"(?<![\w/.<*])((?:ufgvc|jobs|cluster|tests)/[\w./-]*\w)(?![\w<])")
    missing = [f"{where}: {path}" for where, code in programs() for path in paths.findall(code) if not exists(path)]
    assert (wrong, missing) == ([], [])


def exists(path: str) -> bool:
    """A file, folder or module of the project, an example of a document, or a taint or label of Kubernetes."""
    others = path.endswith(("methods/short.py", "configs/short.yaml")) or path in LABELS
    return others or (ROOT / path).exists() or (ROOT / f"{path}.py").exists()


@pytest.mark.parametrize("program", [["cluster/local.py"], ["-m", "cluster.gpu.run"]], ids=" ".join)
def test_the_flags_of_our_other_programs(program: list[str]) -> None:
    name = " ".join(program)
    lines = [
        code for _, code in programs() if re.match(rf"python3? {re.escape(name)}\b", code.removeprefix('eval "$('))
    ]
    assert lines
    commands = {word for code in lines for word in re.findall(rf"{re.escape(name)} ([a-z]+)", code)}
    shown = ""
    for command in [[], *([command] for command in sorted(commands))]:
        done = subprocess.run(
            [sys.executable, *program, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        shown += done.stdout
    assert [flag for code in lines for flag in FLAG.findall(code) if f"--{flag}" not in shown] == []
