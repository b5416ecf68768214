"""One call of the runner: its output folder, the environment of its commands, and the cleanup after them."""

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

from cluster.gpu.commands import Command, Log, Outcome, adopt_orphans, descendants, kill_descendants, watch
from cluster.gpu.paths import FOLDER, MANIFEST, ROOT, SITE, WHEELS, WORK, GpuCallError, read_json
from cluster.gpu.wheels import IMPORTS, PYTHON

# Variables of the caller that would change what the commands do.
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
    """out: where results go.  env: of every command.  deadline: of the whole, in time.monotonic.  device: None without
    a GPU.  bench_parts: of `ufgvc bench`, () for all.  bench_flags: more of its flags.
    benchmarks: names of trainings.BENCHMARKS.
    """

    dry: bool
    out: Path
    env: dict[str, str]
    log: Log
    deadline: float
    device: str | None = None
    bench_parts: tuple[str, ...] = ()
    bench_flags: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()

    def start(self, name: str, *command: str, **env: str) -> Command:
        """Starts Python with these arguments (`-m`, ...) in the project's folder."""
        return Command(name, [sys.executable, *command], {**self.env, **env}, self.log, ROOT)

    def run(self, name: str, command: Sequence[str], limit: float, **env: str) -> Outcome:
        """Runs one command to its end, or to its limit in seconds."""
        return watch([self.start(name, *command, **env)], self.until(limit))[0]

    def until(self, seconds: float) -> float:
        """The time (of time.monotonic) in so many seconds, or the call's deadline if that is earlier."""
        return min(time.monotonic() + seconds, self.deadline)


@contextlib.contextmanager
def environment() -> Iterator[dict[str, str]]:
    """The environment of every command. Home and caches are below .gpu; temporary files and processes are removed at
    the end.
    """
    adopt_orphans()
    before = descendants(os.getpid())
    compiled = set(bytecode())
    home = FOLDER / "home"
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="ufgvc-gpu-"))  # short, because it holds sockets
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
        kill_descendants(before)
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in set(bytecode()) - compiled:
            shutil.rmtree(folder, ignore_errors=True)
        for left in Path("/tmp").glob("ufgvc-ray-*"):  # of a Ray session that was killed
            pid = left.name.split("-")[2]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                shutil.rmtree(left, ignore_errors=True)


def bytecode() -> Iterator[Path]:
    """Folders of compiled modules in the project."""
    for name in ("ufgvc", "jobs", "cluster", "tests"):
        yield from (ROOT / name).rglob("__pycache__")


def install(env: dict[str, str]) -> str:
    """Installs the wheels if a package is missing; returns what was done. GpuCallError if that fails."""
    known, wheels = read_json(SITE / MANIFEST), read_json(WHEELS / MANIFEST)
    if known and (wheels is None or known == wheels):
        return "wheels: installed before"
    missing = missing_packages(env)
    if not missing:
        return "wheels: not needed, everything is installed"
    if wheels is None:
        raise GpuCallError(f"{', '.join(missing)} cannot be imported: run `make gpu-pack`, and carry .gpu/wheels here")
    if wheels["python"] != f"{sys.version_info.major}.{sys.version_info.minor}":
        raise GpuCallError(
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
        raise GpuCallError(
            f"pip could not install the wheels: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    # Here once, because a dozen processes start at a time and each would compile them.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", str(SITE)], env=env, capture_output=True, check=False
    )
    shutil.copy(WHEELS / MANIFEST, SITE / MANIFEST)
    env["PYTHONPATH"] = os.pathsep.join([str(SITE), str(ROOT)])
    if missing := missing_packages(env):
        raise GpuCallError(f"the wheels are installed and {', '.join(missing)} still cannot be imported")
    return f"wheels: {len(files)} installed in {time.monotonic() - started:.0f} s"


def missing_packages(env: dict[str, str]) -> list[str]:
    """Packages of IMPORTS that cannot be found."""
    code = f"import importlib.util as u; print(*[n for n in {IMPORTS!r} if u.find_spec(n) is None])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, cwd=WORK)
    return done.stdout.split()


def probe(env: dict[str, str]) -> dict[str, Any]:
    """The device and the versions. GpuCallError if torch or ray cannot be imported.

    Ray counts GPUs through NVML and torch does not; if Ray sees fewer, RAY_OVERRIDE_RESOURCES gives it the number.
    """
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=False, cwd=WORK)
    if done.returncode:
        raise GpuCallError(
            f"torch or ray cannot be used here: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    about = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    if about["gpus_of_ray"] < about["gpus"]:
        env["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": about["gpus"]})
    return about
