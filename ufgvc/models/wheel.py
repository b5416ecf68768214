"""The project as a wheel, made from the files that run: it travels with a model, wherever ufgvc was installed from."""

from __future__ import annotations

import base64
import email.message
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

import ufgvc

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same code gives the same bytes
_LEFT_OUT = ("Requires-Dist", "Provides-Extra", "License-File", "Dynamic")


def build_wheel(folder: Path) -> Path:
    """Writes ufgvc-<version>-py3-none-any.whl into `folder` and returns its path.

    It names no dependencies: a served model needs neither Ray nor the detector, and its own requirements say what it does need.
    """
    version = ufgvc.__version__
    path = folder / f"ufgvc-{version}-py3-none-any.whl"
    root = Path(ufgvc.__file__).parent
    information = f"ufgvc-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"ufgvc/{source.relative_to(root).as_posix()}": source.read_bytes()
        for source in sorted(root.rglob("*"))
        if source.is_file() and "__pycache__" not in source.parts
    }
    files[f"{information}/METADATA"] = _metadata(version).as_bytes()
    files[f"{information}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: ufgvc\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{information}/RECORD"] = "".join([*record, f"{information}/RECORD,,\n"]).encode()
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(_entry(name), data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100644 << 16
    return entry


def _metadata(version: str) -> email.message.Message:
    """The installed package's metadata; name and version alone where the code runs without being installed."""
    made = email.message.Message()
    try:
        installed = importlib.metadata.metadata("ufgvc")
    except importlib.metadata.PackageNotFoundError:
        made["Metadata-Version"], made["Name"], made["Version"] = "2.1", "ufgvc", version
        return made
    for key in dict.fromkeys(installed):
        if key not in _LEFT_OUT and key not in ("Description", "Description-Content-Type", "Version"):
            for value in installed.get_all(key, []):
                made[key] = value
    made["Version"] = version
    return made
