"""The journal of a run: what MLflow is sent is written to the run folder first, so that nothing is lost.

journal/run.json           name, experiment, parameters, tags and start of the run, MLflow's id, number of lines sent
journal/metrics.jsonl      one line for each time that metrics were logged: {"step": ..., "metrics": {name: value}}
journal/artifacts/...      files that could not be sent yet
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufgvc.core.appending import append_text
from ufgvc.core.errors import DamagedFile
from ufgvc.core.storage import Store

METRICS = "metrics.jsonl"
IDENTITY = "run.json"


@dataclass(frozen=True)
class Line:
    """Metrics that were logged for a step."""

    step: int
    metrics: dict[str, float]

    def to_json(self) -> str:
        """The line in the file. JSON has no infinity and no NaN: they are text, which float() reads."""
        metrics = {name: value if math.isfinite(value) else str(value) for name, value in self.metrics.items()}
        return json.dumps({"step": self.step, "metrics": metrics}) + "\n"


@dataclass
class Journal:
    """The journal of one run. Only one process writes it, so it reads the lines once: rank 0, or the driver."""

    store: Store
    _lines: list[Line] | None = None
    _appends: bool = False  # whether the file is whole and can be appended to
    _known: dict[int, set[str]] = field(default_factory=dict)  # metrics that a step has

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
        if self._lines is None:
            self._keep(self._load())
        return list(self._lines or [])

    def _load(self) -> list[Line]:
        try:
            text = self.store.read_text(METRICS)
        except FileNotFoundError:
            return []
        complete, _, half = text.rpartition("\n")  # half a line: the process was killed
        rows = [json.loads(line) for line in complete.splitlines()]
        self._appends = self.store.is_local and not half
        return [Line(row["step"], {name: float(value) for name, value in row["metrics"].items()}) for row in rows]

    def append(self, steps: Mapping[int, Mapping[str, float]]) -> bool:
        """Adds a line for each step with the metrics that it does not have yet; False if they have all of them.

        The first value stays: a retry may measure another (images per second), which must not become a second row of
        the same step.
        """
        lines, added = self.read_lines(), list[Line]()
        for step, metrics in steps.items():
            known = self._known.get(step, set())
            new = {name: float(value) for name, value in metrics.items() if name not in known}
            if new:
                added.append(Line(step, new))
        if not added:
            return False
        if self._appends:
            append_text(self.store, METRICS, _to_text(added))
        else:
            self.store.write_text(METRICS, _to_text([*lines, *added]))
        self._keep(added)
        self._appends = self.store.is_local
        return True

    def _keep(self, lines: list[Line]) -> None:
        self._lines = [*(self._lines or []), *lines]
        for line in lines:
            self._known.setdefault(line.step, set()).update(line.metrics)

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


def _to_text(lines: list[Line]) -> str:
    return "".join(line.to_json() for line in lines)
