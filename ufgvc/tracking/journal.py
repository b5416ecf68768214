"""What a run has to tell MLflow, kept with the run: written before it is sent, so that nothing is lost while the server is away.

journal/run.json              who the run is: name, experiment, parameters, tags, its start, MLflow's id once it has one
journal/steps/<step>.json     the metrics of one step (an object each: object stores cannot append)
journal/sent/<step>           empty: MLflow has this step
journal/artifacts/...         files that could not be sent
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufgvc.core.errors import DamagedFile
from ufgvc.core.storage import Store


@dataclass(frozen=True)
class Journal:
    """The journal of one run. It has one writer: rank 0."""

    store: Store

    def identity(self) -> dict[str, Any] | None:
        """What run.json says; None if this journal was never begun."""
        try:
            return dict(self.store.read_json("run.json"))
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise DamagedFile(
                error.what, where=error.where, fix="delete the journal folder, or start with --fresh"
            ) from None

    def keep_identity(self, identity: Mapping[str, Any]) -> None:
        self.store.write_json("run.json", dict(identity))

    def append(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Adds the metrics of a step; whether there is anything new to send.

        A value that is there already stays: what a retry finds again (its speed, say) must not become a second row of the same step.
        """
        known = self.read(step)
        fresh = {name: float(value) for name, value in metrics.items() if name not in known}
        if not fresh:
            return False
        merged = {name: _plain(value) for name, value in {**known, **fresh}.items()}
        self.store.write_json(_step(step), {"step": step, "metrics": merged})
        if self.store.exists(_mark(step)):
            self.store.delete(_mark(step))
        return True

    def read(self, step: int) -> dict[str, float]:
        """The metrics of a step; {} if it has none."""
        try:
            return {name: float(value) for name, value in self.store.read_json(_step(step))["metrics"].items()}
        except FileNotFoundError:
            return {}

    def steps(self) -> list[int]:
        return sorted(_number(name) for name in self.store.list("steps"))

    def pending(self) -> list[int]:
        """Steps that MLflow does not have yet, in order."""
        sent = {_number(name) for name in self.store.list("sent")}
        return [step for step in self.steps() if step not in sent]

    def mark_sent(self, step: int) -> None:
        self.store.write_bytes(_mark(step), b"")

    def forget_sent(self) -> None:
        """Every step counts as not sent: MLflow has lost the run."""
        self.store.delete_tree("sent")

    def keep_bytes(self, name: str, data: bytes) -> None:
        self.store.write_bytes(f"artifacts/{name}", data)

    def keep_folder(self, folder: Path, name: str) -> None:
        self.store.upload(folder, f"artifacts/{name}")

    def artifacts(self) -> list[str]:
        """Names of the files that wait to be sent."""
        return [name.removeprefix("artifacts/") for name in self.store.list("artifacts")]

    def artifact(self, name: str) -> bytes:
        return self.store.read_bytes(f"artifacts/{name}")

    def drop_artifact(self, name: str) -> None:
        self.store.delete(f"artifacts/{name}")


def _plain(value: float) -> float | str:
    """JSON has no infinities and no NaN: they are kept as text that float() reads."""
    return value if math.isfinite(value) else str(value)


def _step(step: int) -> str:
    return f"steps/{step:010d}.json"


def _mark(step: int) -> str:
    return f"sent/{step:010d}"


def _number(name: str) -> int:
    return int(name.rsplit("/", 1)[-1].removesuffix(".json"))
