"""What a batch prediction can be told, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ufgvc.core.config import Section


class PredictSettings(Section):
    """Prediction for new photographs."""

    top: int = Field(5, ge=1)
    """likeliest cultivars written for each photograph"""
    batch_size: int = Field(32, ge=1)
    """photographs a forward pass"""
    min_actors: int = Field(1, ge=1)
    """model processes at the start"""
    max_actors: int | None = Field(None, ge=1)
    """model processes at most; default: one a GPU, or one for every two CPU slots"""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """predict on GPUs"""
    rows_per_file: int = Field(100_000, ge=1)
    """photographs in one Parquet file"""


@dataclass(frozen=True)
class PredictResult:
    """predicted, rejected: photographs. csv, rejected_csv: URIs. parquet: URIs of the parts."""

    predicted: int
    rejected: int
    csv: str
    rejected_csv: str
    parquet: tuple[str, ...]

    def summary(self) -> str:
        """One line for people."""
        bad = f"; {self.rejected} could not be read, see {self.rejected_csv}" if self.rejected else ""
        return f"{self.predicted} photographs named: {self.csv}{bad}"
