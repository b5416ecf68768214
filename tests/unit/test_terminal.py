"""What comes to a terminal: tables of at most 100 characters, and no noise of Ray's start."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.documented import ROOT
from tests.unit.benchmark_report.synthetic_benchmarks import RESAMPLES, whole_benchmark
from tests.unit.synthetic_searches import synthetic_search
from ufgvc.commands.benchmark import NOT_SHOWN
from ufgvc.evaluation.benchmark_summary import summarize
from ufgvc.evaluation.search_summary import summarize as summarize_search
from ufgvc.reports.benchmark_tables import benchmark_tables
from ufgvc.reports.search_tables import search_tables
from ufgvc.reports.tables import Table, show_tables, split_columns


def words(text: str) -> list[str]:
    return re.sub(r"[^\w.%+\u2212-]+", " ", text).split()


def check(tables: list[Table], without: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Every line fits, and no cell is cut."""
    for table in tables:
        show_tables([table], without)
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 100
        assert "…" not in shown
        columns = [i for i, name in enumerate(table.columns) if not name.startswith(without or ("\0",))]
        there = set(words(shown))
        assert [word for row in table.rows for i in columns for word in words(row[i] or "") if word not in there] == []
        assert [word for i in columns for word in words(table.columns[i]) if word not in there] == []


def test_tables_of_a_benchmark_fit(capsys: pytest.CaptureFixture[str]) -> None:
    record = whole_benchmark()
    tables = benchmark_tables(record, summarize(record, RESAMPLES))
    check(list(tables.values()), NOT_SHOWN, capsys)


def test_tables_of_a_search_fit(capsys: pytest.CaptureFixture[str]) -> None:
    record = synthetic_search(trials=8)
    check(list(search_tables(record, summarize_search(record)).values()), (), capsys)


def table(*widths: int, names: tuple[str, ...] = ()) -> Table:
    columns = names or tuple(f"c{i}" for i in range(len(widths)))
    return Table("Wide", columns, [["x" * width for width in widths]])


def test_a_table_that_fits_is_one() -> None:
    # Each column takes its cell and 3 characters, and the frame one more.
    assert split_columns(table(10, 10, 10), [0, 1, 2], 40) == [[0, 1, 2]]
    assert split_columns(table(10, 10, 10), [0, 1, 2], 39) == [[0, 1], [0, 2]]
    assert split_columns(table(10, 10, 10), [0, 2], 39) == [[0, 2]]


def test_a_p_value_stays_with_what_it_is_of() -> None:
    wide = table(10, 10, 10, 5, names=("Method", "Right", "Against it", "p"))
    assert split_columns(wide, [0, 1, 2, 3], 47) == [[0, 1], [0, 2, 3]]


def test_two_columns_that_do_not_fit_are_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    assert split_columns(table(80, 80, 5), [0, 1, 2], 100) == [[0, 1], [0, 2]]
    show_tables([Table("Long", ("Name", "Note"), [["a " * 40, "b " * 40]])])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert (shown.count("a "), shown.count("b ")) == (40, 40)


def test_the_line_of_ray_is_left_out_and_all_else_stays() -> None:
    program = (
        "import os, subprocess, sys\n"
        "from ufgvc.runtime.ray_stderr import LINE, without_level_line\n"
        "print('one', file=sys.stderr)\n"
        "with without_level_line():\n"
        "    os.write(2, b'[x I 1 1] logging.cc:303: ' + LINE + b' to 3\\n')\n"
        "    print('two', file=sys.stderr)\n"
        "    subprocess.run([sys.executable, '-c', 'import os; os.write(2, b\"of a child\\\\n\")'])\n"
        "    os.write(2, b'no end of line')\n"
        "print(' three', file=sys.stderr)\n"
        "with without_level_line():\n"
        "    raise ValueError('four')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stderr.splitlines()
    assert lines[:4] == ["one", "two", "of a child", "no end of line three"]
    assert lines[-1] == "ValueError: four"
    assert "RAY_BACKEND" not in done.stderr


def test_without_standard_error_ray_starts_all_the_same() -> None:
    program = "from ufgvc.runtime.ray_stderr import without_level_line\nwith without_level_line(): print('done')\n"
    command = f"{shlex.join([sys.executable, '-c', program])} 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize("command", ["--help", "synth --help"])
def test_help_for_a_reader_of_a_few_lines(command: str) -> None:
    """`set -o pipefail` shows how the first program of a pipe has ended."""
    line = f"set -o pipefail; {sys.executable} -m ufgvc {command} | head -2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode in (0, 141)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: ufgvc ")
