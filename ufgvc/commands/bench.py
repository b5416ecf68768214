"""What a machine can do: bench."""

from __future__ import annotations

from typing import Any

from ufgvc.commands.command import command
from ufgvc.commands.fields import made
from ufgvc.core.config import Settings, select_fields


def _bench(method: str) -> type[Settings]:
    from ufgvc.bench.settings import BenchSettings
    from ufgvc.runtime.session import RaySettings

    return made("Bench", (BenchSettings,), ray=(RaySettings, RaySettings()))


@command("bench", "measure what this machine can do, each figure beside what one would use instead", _bench)
def bench(settings: Any) -> None:
    from ufgvc.bench.run import bench as run
    from ufgvc.bench.settings import BenchSettings
    from ufgvc.reports.tables import show_tables

    report = run(select_fields(BenchSettings, settings), settings.ray)
    print(report.machine_line())
    for table in report.tables():
        show_tables([table])
        print(f"{table.note}\n" if table.note else "")
    print(f"{report.seconds:.0f} s; the same as files: {settings.out}/bench.md, bench.json")
