"""The files that make a saved model one of MLflow: MLmodel, its environment, and a copy of this package."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from pathlib import Path

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
    """Makes a local folder an MLflow model, with the files of `mlflow.pyfunc.save_model`. That takes 0.6 s longer,
    because it looks through all installed packages to compare the requirements with them.

    backbone: name of the method's backbone; one of timm adds timm to the requirements.
    package: that the method comes from; None for our own.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    columns = {
        "cultivar": DataType.string,
        "probability": DataType.double,
        "top5": DataType.string,
        "known": DataType.boolean,
    }
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in columns.items()]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(signature=signature)
    mlflow.pyfunc.add_to_model(
        model, loader_module="ufgvc.models.pyfunc", code=CODE, conda_env=CONDA, python_env=PYTHON, streamable=False
    )
    model.save(str(folder / "MLmodel"))
    shutil.rmtree(folder / CODE, ignore_errors=True)
    source = Path(ufgvc.__file__).parent
    shutil.copytree(source, folder / CODE / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    required = (*_REQUIRED, "timm") if needs_timm(backbone) else _REQUIRED
    _write_environment(folder, [*map(_pinned, required), *([package.requirement] if package else [])])


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
