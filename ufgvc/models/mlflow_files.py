"""The files that make a saved model one of MLflow: MLmodel, its environment, and a copy of this package."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import ufgvc
from ufgvc.methods.backbones import needs_timm
from ufgvc.methods.plugins import Package

CODE, CONDA, PYTHON, REQUIREMENTS = "code", "conda.yaml", "python_env.yaml", "requirements.txt"
# What prediction imports; the training stack (Ray, the detector) is not part of it.
_REQUIRED = (
    *("mlflow", "numpy", "pandas", "pillow", "pillow-heif", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch"),
    "torchvision",
)


def write_mlflow_files(folder: Path, backbone: str = "", package: Package | None = None) -> None:
    """Makes a local folder an MLflow model, with the files of `mlflow.pyfunc.save_model`. That takes seconds longer: it
    needs MLflow, and looks through all installed packages to compare the requirements with them.

    backbone: name of the method's backbone; one of timm adds timm to the requirements.
    package: that the method comes from; None for our own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(_describe()), encoding="utf-8")
    shutil.rmtree(folder / CODE, ignore_errors=True)
    source = Path(ufgvc.__file__).parent
    shutil.copytree(source, folder / CODE / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    required = (*_REQUIRED, "timm") if needs_timm(backbone) else _REQUIRED
    _write_environment(folder, [*map(_pinned, required), *([package.requirement] if package else [])])


def _describe() -> dict[str, Any]:
    """The content of the file MLmodel."""
    outputs = {"cultivar": "string", "probability": "double", "top5": "string", "known": "boolean"}
    flavor = {
        "loader_module": "ufgvc.models.pyfunc",
        "python_version": platform.python_version(),
        "code": CODE,
        "env": {"conda": CONDA, "virtualenv": PYTHON},
        "streamable": False,
    }
    return {
        "flavors": {"python_function": flavor},
        "is_signature_from_type_hint": False,
        "mlflow_version": importlib.metadata.version("mlflow"),
        "model_id": None,
        "model_uuid": uuid.uuid4().hex,
        "prompts": None,
        "signature": {"inputs": _columns({"image": "binary"}), "outputs": _columns(outputs), "params": None},
        "type_hint_from_example": False,
        "utc_time_created": str(datetime.datetime.now(datetime.UTC).replace(tzinfo=None)),
    }


def _columns(kinds: Mapping[str, str]) -> str:
    return json.dumps([{"type": kind, "name": name, "required": True} for name, kind in kinds.items()])


def _write_environment(folder: Path, requirements: list[str]) -> None:
    python = platform.python_version()
    (folder / REQUIREMENTS).write_text("\n".join(requirements), encoding="utf-8")
    dependencies = [f"python={python}", _pinned("pip", "<="), {"pip": requirements}]  # conda has a new pip later
    conda = {"channels": ["conda-forge"], "dependencies": dependencies, "name": "mlflow-env"}
    build = [_pinned(name) for name in ("pip", "setuptools", "wheel")]
    environment = {"python": python, "build_dependencies": build, "dependencies": [f"-r {REQUIREMENTS}"]}
    for name, content in ((CONDA, conda), (PYTHON, environment)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _pinned(package: str, how: str = "==") -> str:
    """The requirement of the installed version, without the build tag (+cu130), which may differ on another machine;
    of any version if it is not installed.
    """
    try:
        return f"{package}{how}{importlib.metadata.version(package).split('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return package
