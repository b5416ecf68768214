"""The commands that documents and messages name, found in their text, so that no new one is missed."""

from __future__ import annotations

import ast
import re
import shlex
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from ufgvc.commands import COMMANDS
from ufgvc.core.config import Settings
from ufgvc.methods import names

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
FLAG = re.compile(r"(?<![\w`/(-])--([a-z][a-z0-9.-]*[a-z0-9*])")
HOLE = "HOLE"  # what an f-string fills in
ANYWHERE = frozenset(("config", "help", "version", "quiet", "json", "tyro-print-completion", "tyro-write-completion"))


@dataclass(frozen=True)
class Typed:
    """words: what is to be typed after `ufgvc`."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def snippets(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of everything that a Markdown text shows as code: indented and fenced blocks line by line, and
    `spans`."""
    prose: list[str] = []
    fence, previous, joined, began = False, "", "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        fenced = line.lstrip().startswith("```")
        block = fence or (
            line.startswith("    ") and (previous.startswith("    ") or not previous.strip()) and bool(line.strip())
        )
        if fenced:
            fence = not fence
        elif block:
            began, joined = (began, joined) if joined else (number, "")
            joined += line.strip().removesuffix("\\")
            if not line.endswith("\\"):
                yield began, joined
                joined = ""
        prose.append("" if block or fenced else line)
        previous = line
    for paragraph in re.finditer(r"(?:.+\n)+", "\n".join(prose) + "\n"):
        for span in re.finditer(r"`([^`]+)`", paragraph[0]):
            yield 1 + "\n".join(prose).count("\n", 0, paragraph.start() + span.start()), span[1].replace("\n", " ")


def words_of(code: str) -> list[str]:
    code = re.sub(r"\s#\s.*", "", code)
    code = re.sub(r"\[(--[^\]]*)\]", r"\1", code).replace("[flags]", "").replace("<", "").replace(">", "")
    try:
        return shlex.split(code)
    except ValueError:
        return code.split()


def command_in(code: str) -> tuple[str, ...] | None:
    """The words after `ufgvc` of a line of code; None if it is another program's."""
    words = list(takewhile(lambda word: word != "|", words_of(code)))  # not the program that reads the output
    for place, word in enumerate(words):
        first = place == 0 or words[place - 1] == "--" or "=" in words[0]
        if word == "ufgvc" and first and words[place + 1 :]:
            return tuple(words[place + 1 :])
        if word != "-m" or place + 1 >= len(words):
            continue
        if words[place + 1] == "ufgvc" and words[place + 2 :]:
            return tuple(words[place + 2 :])
        if (job := re.fullmatch(r"jobs\.(\w+)", words[place + 1])) and job[1] in COMMANDS.names():
            return job[1], *words[place + 2 :]
    if words and words[0] in COMMANDS.names() and any(word.startswith("--") for word in words[1:]):
        return tuple(words)
    return None


def documented() -> list[Typed]:
    found = []
    for document in DOCUMENTS:
        for line, code in snippets(document.read_text(encoding="utf-8")):
            if command := command_in(code):
                found.append(Typed(f"{document.relative_to(ROOT)}:{line}", command))
    return found


@cache
def messages() -> tuple[tuple[str, str], ...]:
    """(file:line, text) of every string of the program, what an f-string fills in being HOLE."""
    found = []
    for path in sorted([*(ROOT / "ufgvc").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]):
        name, waiting = path.relative_to(ROOT), deque([ast.parse(path.read_text(encoding="utf-8"))])
        while waiting:
            node = waiting.popleft()
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((f"{name}:{node.lineno}", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
                found.append((f"{name}:{node.lineno}", "".join(parts)))
            else:
                waiting.extend(ast.iter_child_nodes(node))
    return tuple(found)


def advised() -> list[Typed]:
    """Every command that stands between backticks in a string of the program."""
    found = []
    for where, text in messages():
        for span in re.finditer(r"`([^`]+)`", text):
            if command := command_in(span[1].replace("\n", " ")):
                found.append(Typed(where, command))
    return found


@cache
def flags_of(command: str) -> frozenset[str]:
    """Every flag that a command knows, whichever the method, without its dashes."""
    found = set(ANYWHERE)
    by_method = "options" in COMMANDS.get(command).settings().model_fields
    for method in names() if by_method else ["mask_guided"]:
        for flag, is_switch in _flags(COMMANDS.get(command).settings(method)):
            found |= {flag, _negated(flag)} if is_switch else {flag}
    return frozenset(found)


def _flags(model: type[Settings], before: str = "") -> Iterator[tuple[str, bool]]:
    for name, field in model.model_fields.items():
        flag = f"{before}{name.replace('_', '-')}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _flags(field.annotation, f"{flag}.")
        else:
            yield flag, field.annotation is bool


def _negated(flag: str) -> str:
    section, dot, name = flag.rpartition(".")
    return f"{section}{dot}no-{name}"


def known(flag: str, flags: frozenset[str] | set[str]) -> bool:
    """Whether there is such a flag, or a section of that name (`--options`, `--options.*`)."""
    return flag in flags or any(each.startswith(f"{flag.removesuffix('.*')}.") for each in flags)
