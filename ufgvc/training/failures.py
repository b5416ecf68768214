"""What ends a training of Ray Train, and what starts its workers again: mistakes of the user, lost nodes, and everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.train import PreemptionError, PreemptionInfo, UserCallback

from ufgvc.core.errors import user_error_in

# The other workers' connections break at once; that a node is gone Ray knows only after it has failed five checks, 3 s apart.
NOTICED_SECONDS = 60.0
IDLE = 4  # NodeDeathInfo.AUTOSCALER_DRAIN_IDLE: an autoscaler took away a node that nobody used


class EndAtMistakes(UserCallback):
    """Ends a run at the first UserError of a worker, by raising it in Ray Train's controller: a new start would only meet it again.

    A failure with which a node was lost (a spot machine that was taken away, a machine that broke down) does not count among
    `max_failures`. Ray itself leaves out only nodes whose end was announced to it. What else ends workers counts.

    checkpoints: the folder to name when its disk refuses: Ray Train copies in the background, and its error names no file.
    lost: of `lost_nodes`, before the run.
    """

    def __init__(
        self,
        checkpoints: str | None = None,
        lost: frozenset[str] = frozenset(),
        noticed_seconds: float = NOTICED_SECONDS,
    ) -> None:
        self.checkpoints, self.lost, self.noticed_seconds = checkpoints, lost, noticed_seconds

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for error in worker_exceptions.values():
            mistake = user_error_in(error, self.checkpoints)
            if mistake is not None:
                raise mistake
        if any(_announced(error) for error in worker_exceptions.values()):
            return  # Ray does not count it
        new = self._newly_lost()
        if new:
            self.lost |= new
            # Ray Train counts this one apart, without a limit.
            ranks = sorted(worker_exceptions)
            raise PreemptionError(
                PreemptionInfo(deadline_ms=None, preempted_node_to_ranks=dict.fromkeys(sorted(new), ranks))
            )

    def _newly_lost(self) -> frozenset[str]:
        """Nodes that were lost since the last failure; on a cluster of several nodes, waits until Ray can have noticed."""
        deadline = time.monotonic() + self.noticed_seconds
        while True:
            nodes = ray.nodes()
            new = lost_nodes(nodes) - self.lost
            if new or sum(node["Alive"] for node in nodes) < 2 or time.monotonic() > deadline:
                return new
            time.sleep(0.5)


def lost_nodes(nodes: list[dict[str, Any]]) -> frozenset[str]:
    """Ids of the nodes that are gone, but for those that an autoscaler took away because nobody used them.  nodes: of `ray.nodes()`."""
    return frozenset(node["NodeID"] for node in nodes if not node["Alive"] and node.get("DeathReason") != IDLE)


def _announced(error: Exception) -> bool:
    """Whether a worker was lost with a node whose end was announced to Ray (drained)."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))
