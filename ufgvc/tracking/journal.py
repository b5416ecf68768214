"""The journal of a run: what MLflow is sent is written to the run folder first, so that nothing is lost.

journal/run.json           name, experiment, parameters, tags and start of the run, MLflow's id, number of lines sent
journal/metrics.jsonl      one line for each time that metrics were logged: {"step": ..., "metrics": {name: value}}
journal/artifacts/...      files that could not be sent yet
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufgvc.core.errors import DamagedFile
from ufgvc.core.storage import Store

METRICS = "metrics.jsonl"
IDENTITY = "run.json"


@dataclass(frozen=True)
class Line:
    """Metrics that were logged for a step."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Journal:
    """The journal of one run. Only one process writes it: rank 0, or the driver."""

    store: Store

    def read_identity(self) -> dict[str, Any] | None:
        """The content of run.json; None if the journal does not exist yet. DamagedFile if it cannot be parsed."""
        try:
            return dict(self.store.read_json(IDENTITY))
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            fix = "delete the journal folder, or start with --fresh"
            raise DamagedFile(error.what, where=error.where, fix=fix) from None

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Replaces run.json."""
        self.store.write_json(IDENTITY, dict(identity))

    def read_lines(self) -> list[Line]:
        """All logged metrics, in the order of logging."""
        try:
            text = self.store.read_text(METRICS)
        except FileNotFoundError:
            return []
        rows = map(json.loads, text.splitlines())
        return [Line(row["step"], {name: float(value) for name, value in row["metrics"].items()}) for row in rows]

    def append(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Adds a line with the metrics that the step does not have yet; False if it has all of them.

        The first value stays: a retry may measure another (images per second), which must not become a second row of
        the same step.
        """
        lines = self.read_lines()
        known = {name for line in lines if line.step == step for name in line.metrics}
        new = {name: float(value) for name, value in metrics.items() if name not in known}
        if not new:
            return False
        lines.append(Line(step, new))
        # Object stores cannot append. JSON has no infinity and no NaN: they are written as text, which float() reads.
        rows = [{"step": line.step, "metrics": _to_json(line.metrics)} for line in lines]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        self.store.write_text(METRICS, text)
        return True

    def write_artifact(self, name: str, data: bytes) -> None:
        """Keeps a file until it is sent."""
        self.store.write_bytes(f"artifacts/{name}", data)

    def write_artifacts(self, folder: Path, name: str) -> None:
        """Keeps the files of a local folder, below `name`, until they are sent."""
        self.store.upload(folder, f"artifacts/{name}")

    def list_artifacts(self) -> list[str]:
        """Names of the files that were not sent yet."""
        return [name.removeprefix("artifacts/") for name in self.store.list("artifacts")]

    def read_artifact(self, name: str) -> bytes:
        """The content of a file that was not sent yet."""
        return self.store.read_bytes(f"artifacts/{name}")

    def delete_artifact(self, name: str) -> None:
        """Forgets a file that was sent."""
        self.store.delete(f"artifacts/{name}")


def _to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
