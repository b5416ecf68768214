"""A pytest plugin that writes the result of each test as a line of JSON when it ends, so that a run that is cut off
leaves results.

`pytest -p cluster.gpu.pytest_results`, with the path of the file in UFGVC_GPU_RESULTS.
"""

from __future__ import annotations

import json
import os
from typing import Any

LINES = 12  # last lines of a failure that are kept


def pytest_runtest_logreport(report: Any) -> None:
    """Writes the outcome of each test as a line of JSON (a hook of pytest)."""
    if report.when != "call" and report.outcome == "passed":
        return
    row = {"name": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.outcome == "failed" and report.when != "call":
        row["outcome"] = "error"
    if report.outcome == "failed":
        row["message"] = "\n".join(str(report.longrepr).splitlines()[-LINES:])
    elif report.outcome == "skipped":
        row["message"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    _write(row)


def pytest_collectreport(report: Any) -> None:
    """Reports a file that cannot be imported, whose tests would otherwise be missing without notice."""
    if report.outcome == "failed":
        message = "\n".join(str(report.longrepr).splitlines()[-LINES:])
        _write({"name": report.nodeid, "outcome": "error", "seconds": 0.0, "message": message})


def _write(row: dict[str, Any]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the controller gets all reports and writes
        return
    with open(os.environ["UFGVC_GPU_RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
