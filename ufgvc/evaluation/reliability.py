"""What a model's probabilities are worth on the test leaves, as it was trained and as it was calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ufgvc.evaluation.score import Scored
from ufgvc.models.calibration import expected_calibration_error, log_loss
from ufgvc.models.model import LoadedModel
from ufgvc.reports.tables import Table, percent


@dataclass(frozen=True)
class Reliability:
    """log_loss: mean negative log likelihood, nats.  error: expected calibration error, in [0, 1].  Both also with the temperature.

    temperature, source: of the calibration; None without one, as are the figures that need it.  unknown: of `leaves` test leaves, how many
    are called unknown (None without a threshold).  unknown_right: how many of them had been named rightly.
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
        return asdict(self)


def reliability(model: LoadedModel, scored: Scored, name: str) -> Reliability:
    """name: of the model among those that were scored."""
    logits, truth = scored.logits[name], scored.label
    raw = Reliability(len(truth), log_loss(logits, truth), expected_calibration_error(logits, truth))
    if model.calibration is None:
        return raw
    heat = model.temperature
    found = replace(
        raw,
        temperature=heat,
        calibrated_log_loss=log_loss(logits, truth, heat),
        calibrated_error=expected_calibration_error(logits, truth, heat),
        source=model.calibration.source,
    )
    if model.subspace is None:
        return found
    unknown = ~model.is_known(scored.ood_score[name])
    return replace(
        found, unknown=int(unknown.sum()), unknown_right=int((unknown & (logits.argmax(axis=1) == truth)).sum())
    )


def calibration_table(found: Mapping[str, Reliability]) -> Table:
    """One row a model; cells of a model that was never calibrated stay empty."""
    columns = (
        "Model",
        "Temperature",
        "Log loss",
        "calibrated",
        "Calibration error",
        "calibrated",
        "Called unknown",
        "of these right",
    )
    rows: list[list[str | None]] = []
    for name, one in found.items():
        row = [name, _number(one.temperature), _number(one.log_loss), _number(one.calibrated_log_loss)]
        row += [percent(one.error), percent(one.calibrated_error)]
        row += [None, None] if one.unknown is None else [f"{one.unknown} of {one.leaves}", str(one.unknown_right)]
        rows.append(row)
    note = "Log loss: mean negative log likelihood, nats. Calibration error: expected, 15 bins. "
    note += "Accuracies are of the likeliest cultivar, unknown or not."
    sources = {name: one.source for name, one in found.items() if one.source}
    note += "".join(f" {name}: calibrated on {source}." for name, source in sources.items())
    if any(one.unknown is None for one in found.values()):
        note += " Empty: no temperature or no threshold was fitted (`ufgvc calibrate`)."
    return Table("Probabilities on the test leaves", columns, rows, note=note)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
