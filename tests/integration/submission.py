"""A folder with the repository's files and nothing else, a stack of cluster/local.py, and jobs submitted from the one
to the other.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def copy_of_the_repository(folder: Path) -> Path:
    """What a fresh clone holds: the files here without those that .gitignore names."""
    ignored = [line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.strip()]
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", *ignored))
    return folder


def local(checkout: Path, *arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python cluster/local.py ...` of a checkout, by somebody whose home is `home`."""
    return subprocess.run(
        [sys.executable, "cluster/local.py", *arguments],
        cwd=checkout,
        env=plain_environment(home) | variables,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


def plain_environment(home: Path) -> dict[str, str]:
    """Ours without what names a cluster, a server or a key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Running:
    """A stack that is up.  folder: its own.  checkout: where jobs are submitted from.  exports: what env.sh says."""

    folder: Path
    checkout: Path
    home: Path
    exports: dict[str, str]

    @classmethod
    def up(cls, checkout: Path, folder: Path, home: Path, *flags: str) -> Running:
        done = local(checkout, "up", "--folder", str(folder), "--quiet", *flags, home=home)
        assert done.returncode == 0, done.stderr
        lines = [shlex.split(line)[1] for line in done.stdout.splitlines()]
        return cls(folder, checkout, home, dict(line.split("=", 1) for line in lines))

    def local(self, command: str) -> subprocess.CompletedProcess[str]:
        return local(self.checkout, command, "--folder", str(self.folder), home=self.home)

    def ray_job(self, *arguments: str, timeout: float = 500) -> str:
        """`ray job ...`; what it printed. It must succeed."""
        done = self.try_ray_job(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def try_ray_job(self, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        environment = plain_environment(self.home) | self.exports
        command = [str(BIN / "ray"), "job", *arguments]
        return subprocess.run(
            command, cwd=self.checkout, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def submit(self, *command: str) -> str:
        """`ray job submit --working-dir . -- ...` to its end, which must be a good one; the job's log."""
        return self.ray_job("submit", "--working-dir", ".", "--", *command)

    def ask(self, path: str, token: str | None = None, body: Any = None) -> bytes:
        """What Ray's dashboard answers."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.exports['RAY_API_SERVER_ADDRESS']}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """MLflow's runs of an experiment, as its server tells them."""
        known = self._mlflow(f"experiments/get-by-name?experiment_name={experiment}")["experiment"]["experiment_id"]
        found: list[dict[str, Any]] = self._mlflow("runs/search", {"experiment_ids": [known]}).get("runs", [])
        return found

    def metric(self, run_id: str, name: str) -> list[int]:
        """The steps at which MLflow has a metric of a run."""
        rows = self._mlflow(f"metrics/get-history?run_id={run_id}&metric_key={name}")["metrics"]
        return sorted(int(row["step"]) for row in rows)

    def _mlflow(self, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        url = f"{self.exports['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
        with urllib.request.urlopen(
            urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=30
        ) as answer:
            return json.load(answer)


def wait_until(ready: Callable[[], object], what: str, within: float = 480) -> None:
    deadline = time.monotonic() + within
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {within:.0f} s"
        time.sleep(0.2)
