"""One Ray head for a whole pytest run: all xdist workers, and the commands that tests start, join it.

The first fixture that needs it starts it in a process of its own, which ends with the pytest process that began the
run. Its workers are forked: see `forked_workers.py`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.run_folder import VARIABLE

SLOTS = 8
"""CPU slots: more than cores, so that two tests that wait for a slot while they hold others do not block each other"""
_STARTING = 300  # seconds that the head may take on a busy machine
_PID = "UFGVC_TESTS_PID"


def announce(folder: Path) -> None:
    """In the pytest process that begins the run, before Ray is imported: what its workers need to share one head."""
    os.environ[VARIABLE], os.environ[_PID] = str(folder), str(os.getpid())
    # Ray reads them once, when a process imports it.
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)


def shared_address() -> str:
    """host:port of the head, which is started if nothing has started it."""
    folder = Path(os.environ[VARIABLE])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "address").exists():
            with open(folder / "log", "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.integration.ray_head", str(folder), os.environ[_PID]],
                    env={
                        **os.environ,
                        "RAY_prestart_worker_first_driver": "0",
                        "OMP_NUM_THREADS": "1",
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # control-C at the terminal is for pytest
                )
            deadline = time.monotonic() + _STARTING
            while not (folder / "address").exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, f"no Ray head within {_STARTING} s"
                time.sleep(0.05)
    return (folder / "address").read_text()


def end(folder: Path) -> None:
    """Ends the head, if one was started, and waits for it."""
    pid_file = folder / "pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while (folder / "address").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> None:
    """Runs the head until SIGTERM or the end of the pytest process."""
    from tests.integration.forked_workers import forked_workers
    from tests.integration.s3_servers import KEY, SECRET
    from ufgvc.core.process import sigterm_as_interrupt
    from ufgvc.runtime.session import RaySettings, ray_session

    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}  # Ray's workers inherit them
    (folder / "pid").write_text(str(os.getpid()))
    with sigterm_as_interrupt():
        try:
            with forked_workers(folder), ray_session(RaySettings(cpus=SLOTS, object_store_mb=600)):
                import ray

                (folder / "address.part").write_text(ray.get_runtime_context().gcs_address)
                (folder / "address.part").rename(folder / "address")
                while Path("/proc", str(parent)).exists():
                    time.sleep(0.5)
        except KeyboardInterrupt:
            pass
        finally:
            (folder / "pid").unlink()
            (folder / "address").unlink(missing_ok=True)
            if not Path("/proc", str(parent)).exists():  # killed, so it removed nothing
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
