"""The Ray session that a step runs in: the cluster that is there, else one of its own that leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count, restore_signal_handlers
from ufgvc.core.startup import mark
from ufgvc.runtime.gpus import wait_for_gpus

log = logging.getLogger(__name__)


class RaySettings(Settings):
    """Where the tasks run."""

    address: str | None = None
    """a running cluster ("auto" or host:port); default: RAY_ADDRESS, else a session of its own on this machine"""
    cpus: int | None = Field(None, ge=1)
    """CPU slots of an own session; default: the cores of this machine, at least 4 (slots share cores)"""
    object_store_mb: int = Field(512, ge=100)
    """memory of an own session's object store, in MiB"""
    gpus: int = Field(0, ge=0)
    """GPUs that must be there before the work starts; a cluster with an autoscaler brings their nodes up"""
    patience: float = Field(900.0, gt=0)
    """seconds that a running cluster gets to bring them up"""


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextlib.contextmanager
def ray_session(settings: RaySettings | None = None) -> Iterator[None]:
    """Joins a running cluster, or starts a session on loopback and removes it and its files at the end. Nested use joins the outer one."""
    settings = settings or RaySettings()
    _prepare_environment()
    import ray

    mark("imports")
    if ray.is_initialized():
        wait_for_gpus(settings.gpus, settings.patience)
        yield
        return
    address = settings.address or os.environ.get("RAY_ADDRESS") or ("auto" if in_ray_job() else None)
    if address:
        try:
            with restore_signal_handlers():
                ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
                mark("Ray")
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster answers ({error})", where=address, fix="start one, or leave out --ray.address"
            ) from None
        try:
            wait_for_gpus(settings.gpus, settings.patience)
            yield
        finally:
            ray.shutdown()
        return
    # Socket paths are limited to 107 bytes, so the session folder must have a short name.
    temporary = _session_folder(Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()))
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Else Ray would write one into the home folder. It stays: Ray reads it once a process, and a later session needs the same.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        with restore_signal_handlers():
            ray.init(
                address="local",
                num_cpus=settings.cpus or max(4, cpu_count()),
                object_store_memory=settings.object_store_mb << 20,
                include_dashboard=False,
                _temp_dir=str(temporary),
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
        mark("Ray")
        wait_for_gpus(settings.gpus, seconds=0)  # one machine does not grow
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def alive_nodes() -> list[dict[str, float]]:
    """What each node has that is there now (CPU, GPU, memory, ...). Inside of a Ray session.

    Ray does not say what an autoscaler could still bring; who needs that has it brought first (`--ray.gpus`).
    """
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def places(nodes: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many processes that need `each` the nodes can hold at a time: none is spread over two nodes."""
    needs = {name: need for name, need in each.items() if need > 0}
    return sum(min((int(node.get(name, 0) / need + 1e-9) for name, need in needs.items()), default=0) for node in nodes)


def node_kinds(nodes: Sequence[Mapping[str, float]], needs: Iterable[str]) -> str:
    """What the nodes have of these resources, for a message: `2 x 4 CPU + 1 GPU, 1 x 8 CPU + 0 GPU`."""
    kinds = Counter(" + ".join(f"{node.get(name, 0):g} {name}" for name in needs) for node in nodes)
    return ", ".join(f"{many} x {kind}" for kind, many in sorted(kinds.items())) or "none"


def _session_folder(parent: Path) -> Path:
    """A new folder that names this process; those of processes that were killed are removed."""
    for left in parent.glob("ufgvc-ray-*"):
        pid = left.name.split("-")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"ufgvc-ray-{os.getpid()}-", dir=parent))


def _prepare_environment() -> None:
    """Ray reads these when it is imported or started."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for talkative in ("ray._private.authentication.authentication_token_setup", "ray.data"):
        logging.getLogger(talkative).setLevel(logging.ERROR)


def configure_ray_data() -> None:
    """Ordered blocks and no progress bars: Ray copies this context when a dataset is built, so call it before."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
