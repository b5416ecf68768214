"""The packages that the GPU host lacks, as wheels for its Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from cluster.gpu.paths import MANIFEST, ROOT, GpuCallError, read_json, write_json

PYTHON = "3.12"  # of the host, on x86-64
# Found by running the parts in an environment like the host's: a package, then its dependencies.
NEEDED = (
    *("ray", "msgpack", "jsonschema", "jsonschema-specifications", "referencing", "rpds-py"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("tyro", "docstring-parser", "typeguard"),
    *("natsort", "imagehash", "simplejpeg"),
)
IMPORTS = (
    "ray",
    "msgpack",
    "jsonschema",
    "pydantic",
    "tyro",
    "typeguard",
    "natsort",
    "imagehash",
)  # must be importable once the wheels are installed
# Java, dashboard pages and RLlib: without them 76 MB become 41, and Core, Data, Train and Tune run.
DROPPED = ("ray/jars/", "ray/dashboard/client/", "ray/rllib/")
GLIBC = (39, 36, 35, 34, 31, 28, 27, 24, 17, 12, 5)  # pip matches each platform tag exactly


def requirements() -> list[str]:
    """`name==version` of every wheel, with the versions of constraints.txt."""
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, equals, version = line.partition("==")
        if equals:
            pinned[canonical_name(name)] = version.strip()
    missing = [name for name in NEEDED if name not in pinned]
    if missing:
        raise GpuCallError(f"constraints.txt names no version of {', '.join(missing)}")
    return [f"{name}=={pinned[name]}" for name in NEEDED]


def canonical_name(name: str) -> str:
    """A package's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def up_to_date(folder: Path) -> bool:
    """Whether the folder holds the required wheels, each with its recorded size."""
    known = read_json(folder / MANIFEST) or {}
    files = known.get("wheels", [])
    complete = all(
        (folder / each["file"]).is_file() and (folder / each["file"]).stat().st_size == each["bytes"] for each in files
    )
    return known.get("requirements") == requirements() and len(files) == len(NEEDED) and complete


def fill(folder: Path) -> bool:
    """Downloads the wheels unless the folder holds them; whether it did."""
    if up_to_date(folder):
        return False
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    download(requirements(), fresh)
    slim(next(fresh.glob("ray-*.whl")))
    rows: list[dict[str, Any]] = []
    for path in sorted(fresh.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        rows.append({"name": canonical_name(name), "version": version, "file": path.name, "bytes": path.stat().st_size})
    if {row["name"] for row in rows} != set(NEEDED):
        raise GpuCallError(f"pip brought {', '.join(row['name'] for row in rows)}, and not {', '.join(NEEDED)}")
    write_json(fresh / MANIFEST, {"requirements": requirements(), "python": PYTHON, "wheels": rows})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
    return True


def download(what: list[str], folder: Path, host: bool = True) -> None:
    """Downloads wheels without their dependencies. GpuCallError with pip's last line if that fails.  host: for the
    host's Python.
    """
    command = [
        sys.executable,
        *["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"],
        str(folder),
    ]
    if host:
        command += ["--python-version", PYTHON, "--implementation", "cp"]
        tags = [f"manylinux_2_{number}" for number in GLIBC] + ["manylinux2014", "manylinux2010", "manylinux1"]
        command += [part for tag in tags for part in ("--platform", f"{tag}_x86_64")]
    done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["nothing"]
        raise GpuCallError(f"pip could not fetch the wheels; is there a network? It said: {errors[-1]}")


def slim(wheel: Path) -> None:
    """Rewrites Ray's wheel without the parts that this project does not use."""
    slimmed = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as full, zipfile.ZipFile(slimmed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small:
        for entry in full.infolist():
            if entry.filename.startswith(DROPPED):
                continue
            content = full.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                content = b"".join(line for line in content.splitlines(True) if not line.decode().startswith(DROPPED))
            small.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    os.replace(slimmed, wheel)
