"""The model as MLflow sees it: how it is described on disk, and what `mlflow models serve` loads.

In: a column `image` of photographs (bytes; base64 text over HTTP). Out: cultivar, probability, top5 (JSON text), known.
"""

from __future__ import annotations

import base64
import binascii
import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ufgvc.data.images import BadImage
from ufgvc.models.wheel import build_wheel

if TYPE_CHECKING:
    import pandas as pd

# What predicting imports; the training stack (Ray, the detector) is not among it.
_NEEDED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pillow-heif",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "torch",
    "torchvision",
)


def write_description(folder: Path, backbone: str = "") -> None:
    """Makes a folder with a model an MLflow model: MLmodel, its environment, and the project's wheel under code/."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    wheel = build_wheel(folder / "code")
    requirements = [f"code/{wheel.name}", *_pinned((*_NEEDED, "timm") if backbone.startswith("timm:") else _NEEDED)]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    environment = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False))
    conda = {
        "name": "ufgvc-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip", {"pip": requirements}],
    }
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False))
    columns = {
        "cultivar": DataType.string,
        "probability": DataType.double,
        "top5": DataType.string,
        "known": DataType.boolean,
    }
    outputs = Schema([ColSpec(kind, name) for name, kind in columns.items()])
    model = Model(signature=ModelSignature(inputs=Schema([ColSpec(DataType.binary, "image")]), outputs=outputs))
    mlflow.pyfunc.add_to_model(
        model, "ufgvc.models.pyfunc", code="code", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    model.save(str(folder / "MLmodel"))


def _pinned(names: tuple[str, ...]) -> list[str]:
    """`name==version` of what is installed, without the build's tag (+cu130): that of another machine may differ."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


class Served:
    """What MLflow calls."""

    def __init__(self, folder: str) -> None:
        from ufgvc.models.model import load_model

        self.model = load_model(folder)

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row a photograph. A photograph that cannot be read refuses the request and is named by its row."""
        from mlflow.exceptions import MlflowException

        photographs = [_bytes(value) for value in table["image"]]
        for row, photograph in enumerate(photographs):
            try:
                self.model.read(photograph)
            except BadImage as error:
                raise MlflowException.invalid_parameter_value(f"image of row {row}: {error.reason}") from error
        return self.model.predict(photographs)


def _bytes(value: Any) -> bytes:
    """MLflow decodes base64 for requests that hold a table; for `inputs` and `instances` it hands the text through, as bytes.

    No photograph consists of base64's letters alone, so the two cannot be confused.
    """
    raw = value.encode() if isinstance(value, str) else bytes(value)
    try:
        return base64.b64decode(b"".join(raw.split()), validate=True) or raw
    except binascii.Error:
        return raw


def _load_pyfunc(path: str) -> Served:
    return Served(path)
