"""One call of the runner: where its results go, what its commands see, and what it leaves behind (nothing else)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.gpu.child import Child, Ended, Log, adopt_orphans, delete_unreferenced, descendants, watch
from cluster.gpu.places import FOLDER, MANIFEST, ROOT, SITE, WHEELS, WORK, Problem, read_json
from cluster.gpu.wheels import IMPORTS, PYTHON

# Settings of who calls that would lead the commands elsewhere.
FOREIGN = (
    "RAY_ADDRESS",
    "MLFLOW_TRACKING_URI",
    "MPLCONFIGDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "TORCH_HOME",
    "OUT",
    "MAKEFLAGS",
)
PROBE = """
import json, os, platform, torch
there = torch.cuda.is_available()
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as seen
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "device": torch.cuda.get_device_name(0) if there else None, "cores": len(os.sched_getaffinity(0)),
    "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if there else None,
    "gpus": torch.cuda.device_count() if there else 0, "gpus_of_ray": seen.get_current_node_num_accelerators()}))
"""


@dataclass(frozen=True)
class Call:
    """out: where results go.  env: of every command.  deadline: of the whole, in time.monotonic.  device: None without a GPU."""

    dry: bool
    out: Path
    env: dict[str, str]
    log: Log
    deadline: float
    device: str | None = None

    def child(self, name: str, *command: str, **env: str) -> Child:
        """A command of Python (`-m`, ...) that runs in the project's folder."""
        return Child(name, [sys.executable, *command], {**self.env, **env}, self.log, ROOT)

    def run(self, name: str, command: Sequence[str], limit: float, **env: str) -> Ended:
        """One command to its end, or to its limit in seconds."""
        return watch([self.child(name, *command, **env)], self.until(limit))[0]

    def until(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self.deadline)


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """What every command sees. What it writes to its home, to temporary files and to caches is below .gpu or goes at the end."""
    adopt_orphans()
    before = descendants(os.getpid())
    compiled = set(bytecode())
    home = FOLDER / "home"
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="ufgvc-gpu-"))  # short: sockets lie in it
    paths = [str(SITE), str(ROOT)] if SITE.is_dir() else [str(ROOT)]
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("PYTEST_")}
    env |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "HOME": str(home), "TMPDIR": str(temporary)}
    env |= {
        "TORCHINDUCTOR_CACHE_DIR": str(FOLDER / "cache" / "inductor"),
        "TRITON_CACHE_DIR": str(FOLDER / "cache" / "triton"),
    }
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "COLUMNS": "160"}
    try:
        yield env
    finally:
        delete_unreferenced(before)
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in set(bytecode()) - compiled:
            shutil.rmtree(folder, ignore_errors=True)
        for left in Path("/tmp").glob("ufgvc-ray-*"):  # of a Ray session that was cut off
            pid = left.name.split("-")[2]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                shutil.rmtree(left, ignore_errors=True)


def bytecode() -> Iterator[Path]:
    """Folders of compiled modules within the project itself."""
    for name in ("ufgvc", "jobs", "cluster", "tests"):
        yield from (ROOT / name).rglob("__pycache__")


def install(env: dict[str, str]) -> str:
    """Installs the wheels where a package is missing; says what was done. Problem if that cannot be."""
    known, wheels = read_json(SITE / MANIFEST), read_json(WHEELS / MANIFEST)
    if known and (wheels is None or known == wheels):
        return "wheels: installed before"
    missing = lacking(env)
    if not missing:
        return "wheels: not needed, everything is installed"
    if wheels is None:
        raise Problem(
            f"{', '.join(missing)} cannot be imported and {WHEELS} is not here: run `make gpu-pack`, and carry .gpu/wheels"
        )
    if wheels["python"] != f"{sys.version_info.major}.{sys.version_info.minor}":
        raise Problem(
            f"the wheels are for Python {wheels['python']} and this is {sys.version.split()[0]}: use python{PYTHON}"
        )
    shutil.rmtree(SITE, ignore_errors=True)
    files = [str(WHEELS / each["file"]) for each in wheels["wheels"]]
    pip = [
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--disable-pip-version-check",
    ]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *pip, "--target", str(SITE), *files],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Problem(f"pip could not install the wheels: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    # Once for all: a dozen processes start at a time, and each would compile for itself.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", str(SITE)], env=env, capture_output=True, check=False
    )
    shutil.copy(WHEELS / MANIFEST, SITE / MANIFEST)
    env["PYTHONPATH"] = os.pathsep.join([str(SITE), str(ROOT)])
    if missing := lacking(env):
        raise Problem(f"the wheels are installed and {', '.join(missing)} still cannot be imported")
    return f"wheels: {len(files)} installed in {time.monotonic() - started:.0f} s"


def lacking(env: dict[str, str]) -> list[str]:
    """Packages that a command would not find."""
    code = f"import importlib.util as u; print(*[n for n in {IMPORTS!r} if u.find_spec(n) is None])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, cwd=WORK)
    return done.stdout.split()


def probe(env: dict[str, str]) -> dict[str, Any]:
    """The device and the versions. Problem if torch cannot be imported.

    Ray looks for GPUs in a library of the driver and torch does not; where Ray sees fewer, RAY_OVERRIDE_RESOURCES says how many there are.
    """
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=False, cwd=WORK)
    if done.returncode:
        raise Problem(f"torch or ray cannot be used here: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    about = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    if about["gpus_of_ray"] < about["gpus"]:
        env["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": about["gpus"]})
    return about
