"""A method of another package that is not installed, or whose module raises when it is imported."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import ufgvc
from tests.golden.trainings import HERE
from ufgvc import methods
from ufgvc.core.errors import UserError
from ufgvc.methods import plugins


def test_without_the_package_there_is_one_message(tmp_path: Path) -> None:
    model = shutil.copytree(HERE / "model", tmp_path / "model")
    about = json.loads((model / "model.json").read_text())
    changed = about | {"method": "short", "package": {"name": "short-leaves", "version": "0.3"}}
    (model / "model.json").write_text(json.dumps(changed))
    ended = ufgvc("predict", "--source", HERE / "photographs", "--model", model, "--out", tmp_path / "out")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        f"ufgvc predict: {model}: its method short comes from the package short-leaves, which is not installed here",
        "  -> pip install short-leaves==0.3",
    ]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the metadata of an installed distribution `short-leaves`, whose module a test writes."""
    about = tmp_path / "short_leaves-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: short-leaves\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nshort = short_leaves\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._entry_points.cache_clear()
    yield tmp_path
    plugins._entry_points.cache_clear()
    sys.modules.pop("short_leaves", None)


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        ("1 / 0", ZeroDivisionError, "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('no licence\\nfound')", RuntimeError, "RuntimeError: no licence found"),
        ("def broken(:", SyntaxError, "SyntaxError: invalid syntax (short_leaves.py, line 1)"),
        ("{}['missing']", KeyError, "KeyError: 'missing'"),
    ],
    ids=["arithmetic", "two lines", "syntax", "key"],
)
def test_a_module_that_raises_is_one_message(module: str, kind: type[Exception], message: str, site: Path) -> None:
    (site / "short_leaves.py").write_text(module)
    ended = ufgvc("train", "--data", site / "none", "--runs", site / "runs", "--method", "short")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        f"ufgvc train: method short of short-leaves==0.3: its module 'short_leaves' cannot be imported: {message}",
        "  -> correct the package, or install another version; `python -c 'import short_leaves'` shows where",
    ]
    with pytest.raises(UserError) as raised:
        methods.build("short", 3)
    assert isinstance(raised.value.__cause__, kind)
    assert methods.build("resnet50", 3, init="none", backbone="squeezenet1_1").name == "resnet50"
