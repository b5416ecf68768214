"""Calibration metrics of a model on the test split, before and after temperature scaling."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ufgvc.evaluation.score import Scored
from ufgvc.models.calibration import expected_calibration_error, log_loss
from ufgvc.models.model import LoadedModel


@dataclass(frozen=True)
class Reliability:
    """Calibration metrics of one model on the test images.

    log_loss: mean negative log-likelihood, nats.  error: expected calibration error, in [0, 1].  calibrated_*: with
    the temperature.  temperature, source: of the calibration; None without one.  unknown: images called unknown, None
    without a threshold.  unknown_right: of these, classified correctly.
    """

    leaves: int
    log_loss: float
    error: float
    temperature: float | None = None
    calibrated_log_loss: float | None = None
    calibrated_error: float | None = None
    unknown: int | None = None
    unknown_right: int | None = None
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of metrics.json."""
        return asdict(self)


def reliability(model: LoadedModel, scored: Scored, name: str) -> Reliability:
    """Measures the model of this name in `scored`."""
    logits, truth = scored.logits[name], scored.label
    raw = Reliability(len(truth), log_loss(logits, truth), expected_calibration_error(logits, truth))
    if model.calibration is None:
        return raw
    temperature = model.temperature
    found = replace(
        raw,
        temperature=temperature,
        calibrated_log_loss=log_loss(logits, truth, temperature),
        calibrated_error=expected_calibration_error(logits, truth, temperature),
        source=model.calibration.source,
    )
    if model.subspace is None:
        return found
    unknown = ~model.is_known(scored.ood_score[name])
    return replace(
        found, unknown=int(unknown.sum()), unknown_right=int((unknown & (logits.argmax(axis=1) == truth)).sum())
    )
