"""The MLflow flavour of a saved model: what `mlflow.pyfunc.load_model` and `mlflow models serve` call.

Input: a column `image` of image files (bytes; base64 text over HTTP). Output: cultivar, probability, top5 (JSON
text), known.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from ufgvc.data.images import BadImage
from ufgvc.models.model import load_model

if TYPE_CHECKING:
    import pandas as pd


class PyfuncModel:
    """A model behind MLflow's interface."""

    def __init__(self, folder: str) -> None:
        self.model = load_model(folder)

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each image. MlflowException, naming the row, for an image that cannot be read."""
        from mlflow.exceptions import MlflowException

        images = [_decode_base64(value) for value in table["image"]]
        for row, image in enumerate(images):
            try:
                self.model.read(image)
            except BadImage as error:
                raise MlflowException.invalid_parameter_value(f"image of row {row}: {error.reason}") from error
        return self.model.predict(images)


def _decode_base64(value: Any) -> bytes:
    """The bytes of an image file, or of base64 text.

    MLflow decodes base64 in requests with a table; with `inputs` and `instances` it passes the text on, as bytes. No
    image file consists of base64 characters only, so the two cannot be confused.
    """
    raw = value.encode() if isinstance(value, str) else bytes(value)
    try:
        return base64.b64decode(b"".join(raw.split()), validate=True) or raw
    except binascii.Error:
        return raw


def _load_pyfunc(path: str) -> PyfuncModel:
    return PyfuncModel(path)
