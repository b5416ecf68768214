"""What `ufgvc bench` reports: growth of costs, where larger sets would be kept, and the report in all its forms."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from ufgvc.bench import growth, report
from ufgvc.bench.machine import describe_machine
from ufgvc.bench.processes import tree_memory
from ufgvc.bench.report import BenchReport, format_number
from ufgvc.bench.timing import Measurement, Spread
from ufgvc.data.cache import choose_cache, decoded_size

CPU = torch.device("cpu")


@pytest.mark.parametrize("power", [0.5, 1.0, 1.3, 2.0])
def test_the_exponent_of_fixed_and_growing_cost_is_found(power: float) -> None:
    rows = (48, 480, 4800)
    assert growth.exponent(rows, [7 + 0.01 * n**power for n in rows]) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("values", [(5, 5, 5), (5, 4, 9), (1, 2, 2), (1, 1.1, 1e9)])
def test_no_exponent_where_the_values_do_not_tell_one(values: tuple[float, ...]) -> None:
    assert growth.exponent((48, 480, 4800), values) is None


def test_the_memory_of_a_tree_counts_what_children_hold() -> None:
    import subprocess
    import sys

    code = "import sys; held = b'x' * (200 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert 200 << 20 < tree_memory(psutil.Process(child.pid)) < 400 << 20
        process = psutil.Process(child.pid)
        child.stdin.close()
    assert tree_memory(process) == 0


@pytest.mark.parametrize("rows", [10_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize(("gpu", "disk"), [(None, 10**11), (140 * 10**9, 10**13), (10**13, 0)])
def test_where_a_set_would_be_kept_is_what_training_would_choose(
    rows: int, gpu: int | None, disk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (gpu, gpu))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=disk))
    device = torch.device("cuda" if gpu else "cpu")
    chosen = choose_cache("auto", rows, 512, 2, device, tmp_path)
    rates = report.Rates(2e5, 100.0, 50.0, "case", 40.0, gpu, disk)
    assert report.cache_location(rows, rates) == {"device": "on the GPU", "host": "on disk", "none": "streamed"}[chosen]


def test_a_streamed_epoch_is_held_back_by_the_slower_of_decoding_and_the_step() -> None:
    fast_step = report.Rates(2e5, decode=100.0, train=1000.0, case="", predict=None, device_memory=None, disk=0)
    assert report._epoch_cells(360_000, "streamed", fast_step) == ("60 min", "decoding")
    assert report._epoch_cells(360_000, "on disk", fast_step) == ("6 min", "the step")
    assert report._epoch_cells(10, "streamed", report.Rates(2e5, None, 9.0, "", None, None, 0)) == (None, None)
    cells = {row[0]: row[1] for row in report.sizing_rows(fast_step)}
    assert cells["decoded set, 512 px with masks"] == report.format_bytes(decoded_size(10_000, 512, 2)) == "8.52 GB"
    assert cells["predict once"] is None


def test_the_report_says_the_same_in_all_its_forms() -> None:
    spread = Spread(1234.5, 1200, 1300)
    row = Measurement("ours", spread, "images/s", "theirs", Spread(2, 1.9, 2.1))
    report = BenchReport(
        describe_machine(CPU), {}, "ufgvc bench", measured={"Reading": [row]}, notes={"Reading": "A note."}
    )
    assert "| ours | 1,234 | 1,200 to 1,300 | images/s | 2 | 1.9 to 2.1 | theirs |" in report.to_markdown()
    assert "A note." in report.to_markdown()
    assert json.loads(report.json_text())["measured"]["Reading"][0]["ratio"]["median"] == 2
    assert "no GPU" in report.machine_line()
    assert [format_number(value) for value in (0.01234, 12.345, 12345.6)] == ["0.0123", "12.3", "12,346"]
