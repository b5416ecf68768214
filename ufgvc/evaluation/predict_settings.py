"""What a batch prediction can be told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ufgvc.runtime.resources import ActorSettings


class PredictSettings(ActorSettings):
    """Prediction for new photographs."""

    top: int = Field(5, ge=1)
    """likeliest cultivars written for each photograph"""
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    """what runs the network; onnx: onnxruntime, on the exported file or one made for the purpose; auto: as the model's folder is"""
    unknown: bool = True
    """call a leaf `unknown` that is stranger than the model's threshold (`ufgvc calibrate` gives it one)"""
    batch_size: int = Field(32, ge=1)
    """photographs a forward pass"""
    rows_per_file: int = Field(100_000, ge=1)
    """photographs in one Parquet file"""


@dataclass(frozen=True)
class PredictResult:
    """predicted, unknown: photographs. rejected: files without a prediction. csv, rejected_csv: URIs. parquet: URIs of the parts.

    calibrated: whether the probabilities are.  tells_unknown: whether the model has a threshold.
    """

    predicted: int
    rejected: int
    csv: str
    rejected_csv: str
    parquet: tuple[str, ...]
    unknown: int = 0
    calibrated: bool = False
    tells_unknown: bool = False

    def summary(self) -> str:
        """One line for people."""
        bad = f"; {self.rejected} other files, see {self.rejected_csv}" if self.rejected else ""
        named = f"{self.predicted} photographs named" + (
            f", {self.unknown} of them unknown (`known` is false)" if self.unknown else ""
        )
        lacks = [] if self.calibrated else ["the probabilities are not calibrated"]
        lacks += [] if self.tells_unknown else ["no leaf can be called unknown"]
        raw = f"\n{' and '.join(lacks)}: see `ufgvc calibrate`" if lacks else ""
        return f"{named}: {self.csv}{bad}{raw}"
