"""The Ray session that a step runs in: a running cluster, or a local session that is removed at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.output import is_quiet
from ufgvc.core.process import cpu_count, restore_signal_handlers
from ufgvc.core.startup import mark
from ufgvc.runtime.ray_stderr import without_level_line
from ufgvc.runtime.resources import wait_for_gpus

MAX_IN_PROCESS = 1000  # photographs; up to here Ray's processes start slower than they help on one machine
# Ray's head keeps 4 KB of events of each task, up to 100,000 of them, for its dashboard and `ray list tasks`. A local
# session has neither: it starts no dashboard.
# Ray's workers start when they are needed: those of a training have an environment of their own, so that it could not
# use any that started before.
LOCAL = {"task_events_report_interval_ms": 0, "prestart_worker_first_driver": False}
# An actor of Ray Train that looks whether a cluster is about to take a node away, each 5 seconds.
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_is_local = False  # whether this process has started the session that is open
_kept: contextlib.ExitStack | None = None  # of `keep_ray_session`


class RaySettings(Settings):
    """Where the tasks run."""

    address: str | None = None
    """a running cluster ("auto" or host:port); default: RAY_ADDRESS, else a local session on this machine"""
    cpus: int | None = Field(None, ge=1)
    """CPU slots of a local session; default: the cores of this machine, at least 4 (slots share cores)"""
    object_store_mb: int = Field(512, ge=100)
    """memory of a local session's object store, in MiB"""
    in_process: int = Field(MAX_IN_PROCESS, ge=0)
    """photographs up to which ingest, mask and predict work without Ray on this machine"""
    gpu_timeout: float = Field(900.0, gt=0)
    """seconds that a step with `device: gpu` waits for GPUs that a running cluster has yet to add"""


def in_ray_job() -> bool:
    """Whether `ray job submit` started this process."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def cluster_address(settings: RaySettings) -> str | None:
    """The running cluster that a session joins; None: it starts its own on this machine."""
    return settings.address or os.environ.get("RAY_ADDRESS") or ("auto" if in_ray_job() else None)


def in_ray_session() -> bool:
    """Whether this process has joined or started Ray. Does not import it, which takes a second."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def in_local_session() -> bool:
    """Whether this process has started the Ray that it is connected to."""
    return _is_local


def uses_cluster(settings: RaySettings | None) -> bool:
    """Whether a session would be that of a running cluster: one that is named, or that this process has joined."""
    if cluster_address(settings or RaySettings()) is not None:
        return True
    return in_ray_session() and not _is_local


def runs_in_process(settings: RaySettings | None, photographs: int) -> bool:
    """Whether this process does a step for that many photographs itself, without Ray: a few, on this machine."""
    return photographs <= (settings or RaySettings()).in_process and not uses_cluster(settings)


@contextlib.contextmanager
def ray_session(settings: RaySettings | None = None, gpus: int = 0) -> Iterator[None]:
    """Joins a running cluster, or starts a local session and removes it with its files at the end. Nested use joins the
    outer one.

    gpus: a running cluster may still have to add nodes, so wait until it has that many GPUs. A local session has what
    it has. UserError if the cluster does not answer, or has fewer GPUs after `gpu_timeout`.
    """
    settings = settings or RaySettings()
    _prepare_environment()
    import ray

    mark("imports")
    address = cluster_address(settings)
    if ray.is_initialized():
        session: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    else:
        session = _joined(address) if address else _started(settings)
        if _kept is not None:
            _kept.enter_context(session)
            session = contextlib.nullcontext()
    with session:
        if gpus and not _is_local:
            wait_for_gpus(gpus, settings.gpu_timeout)
        yield


@contextlib.contextmanager
def keep_ray_session() -> Iterator[None]:
    """The first session that is opened in this context stays open until its end, so that the steps of a command start
    Ray once, or not at all if none of them needs it.
    """
    global _kept
    if _kept is not None:
        yield
        return
    with contextlib.ExitStack() as stack:
        _kept = stack
        try:
            yield
        finally:
            _kept = None


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        with restore_signal_handlers(), without_level_line():
            ray.init(address=address, log_to_driver=not is_quiet(), logging_level=logging.WARNING)
            mark("Ray")
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers ({error})", where=address, fix="start one, or leave out --ray.address"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _started(settings: RaySettings) -> Iterator[None]:
    global _is_local
    import ray

    # Socket paths are limited to 107 bytes, so the session folder must have a short name.
    temporary = _session_folder(Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()))
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Else Ray would write one into the home folder. It stays: Ray reads it once a process, and a later session
        # needs the same.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    sets_watcher = WATCHER not in os.environ
    os.environ.setdefault(WATCHER, "0")
    try:
        with restore_signal_handlers(), without_level_line():
            ray.init(
                address="local",
                num_cpus=settings.cpus or max(4, cpu_count()),
                object_store_memory=settings.object_store_mb << 20,
                include_dashboard=False,
                _temp_dir=str(temporary),
                logging_level=logging.WARNING,
                log_to_driver=False,
                _system_config=LOCAL,
            )
        _is_local = True
        mark("Ray")
        yield
    finally:
        _is_local = False
        if sets_watcher:
            os.environ.pop(WATCHER, None)
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def _session_folder(parent: Path) -> Path:
    """Makes a folder named after this process, and removes those of processes that were killed."""
    for left in parent.glob("ufgvc-ray-*"):
        pid = left.name.split("-")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"ufgvc-ray-{os.getpid()}-", dir=parent))


def _prepare_environment() -> None:
    """Sets the variables that Ray reads when it is imported or started."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray._private.authentication.authentication_token_setup", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
