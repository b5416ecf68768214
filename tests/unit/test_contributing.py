"""The example of docs/adding-a-method.md, added verbatim to a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"`(?P<path>[\w/]+\.(?:py|yaml))`:\n\n```\w+\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.slow
def test_a_method_is_one_file_one_line_and_one_yaml(tmp_path: Path) -> None:
    for folder in ("ufgvc", "jobs", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    text = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = {match["path"]: match["text"] for match in BLOCK.finditer(text)}
    assert set(blocks) == {"ufgvc/methods/short.py", "ufgvc/methods/__init__.py", "jobs/configs/short.yaml"}
    assert blocks["ufgvc/methods/__init__.py"].count("\n") == 1
    for path, text in blocks.items():
        with open(tmp_path / path, "a", encoding="utf-8") as file:
            file.write(text)
    tests = ["tests/unit/test_methods.py", "tests/unit/test_search.py", "tests/unit/test_cli.py"]
    wanted = "short or all_has_every_method"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests, "-k", wanted]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 8, done.stdout  # the six of the contract, the YAML, the row of the benchmark
