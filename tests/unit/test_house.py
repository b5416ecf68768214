"""The shape and the words of the code: file and function sizes, retired words, links between documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in ("ufgvc", "jobs", "cluster") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "cluster").rglob("*.md")])
# Reports as a past version wrote them, and the upgrade of models of the first format.
EXEMPT = ("CHANGELOG.md", "docs/results/bench", "docs/results/gpu", "ufgvc/models/format.py")
# Words of the first versions that readers had to learn; docs/glossary.md and CHANGELOG.md have what replaced them.
RETIRED = re.compile(
    r"\btold\b|\bbeside\b|\bstrange|\bcontestants?\b|\bcrown|\bcautions?\b|\bverdicts?\b|\bkicker\b|\bspoken\b|\bin_words\b"
    r"|\b(?:quiet_data|test_view|train_view|center_view|made_from|each_once|give_memory_back|send_nothing_home)\b"
    r"|\b(?:kept_signals|yield_idle_threads|of_the_result|runs_uri|ray_settings|at_once)\b"
    r"|\b(?:FolderWriter|StopByWord|SearchStory|Suggester|Contest|Luck|Away|Gone)\b"
)


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", CODE, ids=names(CODE))
def test_files_and_functions_are_short(path: Path) -> None:
    assert count_lines(path) <= 300
    assert {name: lines for name, lines in functions(path) if lines > 60} == {}


def test_test_files_are_short() -> None:
    lines = {name: count_lines(path) for name, path in zip(names(TESTS), TESTS, strict=True)}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_no_retired_word() -> None:
    files = [*CODE, *MARKDOWN, *(ROOT / "jobs").rglob("*.yaml"), *(ROOT / "cluster").rglob("*.yaml")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word[0]}"
        for path in files
        if not path.relative_to(ROOT).as_posix().startswith(EXEMPT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for word in RETIRED.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", MARKDOWN, ids=names(MARKDOWN))
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)|(?:src|href)=\"([^\"#]+)", text)
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert count_lines(ROOT / "README.md") < 150
