"""`ufgvc bench`: what this machine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.bench.settings import BenchSettings
from ufgvc.commands.fields import HasRay, HasSeed
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place, WrittenPlace
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.bench.report import BenchReport


class Bench(HasRay, HasSeed, BenchSettings):
    """Settings of `ufgvc bench`."""

    out: WrittenPlace = "bench"
    """local folder for bench.json, bench.md and growth.png"""
    source: Place | None = None
    """your own photographs, a folder or a URI; default: synthetic ones (1200 x 900 JPEG, about 200 KB)"""


def run(settings: Bench, context: Context) -> BenchReport:
    """Measures the machine and prints the tables."""
    from ufgvc.bench.run import bench
    from ufgvc.reports.tables import show_tables

    report = bench(select_fields(BenchSettings, settings), context)
    print(report.machine_line())
    for table in report.tables():
        show_tables([table])
        print(f"{table.note}\n" if table.note else "")
    print(f"{report.seconds:.0f} s; the same as files: {settings.out}/bench.md, bench.json")
    return report
