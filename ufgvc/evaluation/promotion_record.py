"""The record of a promotion: the decision between challenger and champion, and everything it rests on.

promotion.json
    schema               2
    decision             promoted, kept (the champion stays) or undecided
    reason               first champion, better, recalibrated (the champion's network with a newer calibration), worse,
                         not significant, forced, or is the champion already
    sentence             the decision in words
    model, champion      the registered model, and the version that is its champion after the decision
    forced, warnings     whether --force overruled something, and the caveats
    data                 name, uri, fingerprint, split (test), leaves
    challenger           version, run_id, method, data and masks (fingerprints of the training data), mask_kind, right,
                         of, low, high
    previous             the same of the earlier champion, null if there was none; right is null where it was not scored
    test                 null without a comparison, else the fields of `PairedComparison`
    cultivars            cultivar, leaves, champion, challenger: leaves of each, and how many are classified correctly
    made, code           time (UTC) and git commit
Rates are in [0, 1]; low and high are 95 % intervals (Wilson's for one model, Tango's for the difference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ufgvc.evaluation.metrics import Proportion
from ufgvc.evaluation.paired_test import CultivarChange, PairedComparison

SCHEMA = 2
Decision = Literal["promoted", "kept", "undecided"]


@dataclass(frozen=True)
class Side:
    """One of the two models.

    data, masks: fingerprints of its training data.  accuracy: None where it was not scored.
    """

    version: str
    run_id: str | None
    method: str | None = None
    data: str | None = None
    masks: str | None = None
    mask_kind: str | None = None
    accuracy: Proportion | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of promotion.json."""
        fields = asdict(self)
        one = fields.pop("accuracy")
        counts = {"right": one["k"], "of": one["n"], "low": one["low"], "high": one["high"]} if one else {"right": None}
        return fields | counts


@dataclass(frozen=True)
class Promotion:
    """A decision and everything it rests on.  previous: the earlier champion; None if there was none."""

    model: str
    decision: Decision
    reason: str
    data: Mapping[str, Any]
    challenger: Side
    previous: Side | None
    comparison: PairedComparison | None = None
    cultivars: Sequence[CultivarChange] = ()
    forced: bool = False
    warnings: Sequence[str] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def champion(self) -> str | None:
        """The version that is champion after the decision."""
        if self.decision == "promoted":
            return self.challenger.version
        return self.previous.version if self.previous else None

    def sentence(self) -> str:
        """The decision in one or two sentences."""
        new, old = f"version {self.challenger.version}", f"version {self.previous.version}" if self.previous else ""
        if self.reason == "first champion":
            return f"promoted: {new} is the first champion of {self.model}, without a comparison."
        if self.reason == "is the champion already":
            return f"kept: {new} is the champion already, so there is nothing to decide."
        numbers = describe_difference(self.comparison) if self.comparison else "The two were not compared."
        if self.reason == "forced":
            return f"promoted: {new} replaces {old} because of --force. {numbers}"
        if self.reason == "recalibrated":
            return f"promoted: {new} replaces {old} as champion: it is the same network with a newer calibration."
        if self.decision == "undecided" and self.comparison:
            return f"undecided: {old} stays champion. {numbers} {describe_sample_size(self.comparison)}"
        outcome = f"{new} replaces {old} as champion" if self.decision == "promoted" else f"{old} stays champion"
        return f"{self.decision}: {outcome}. {numbers}"

    def to_json(self) -> dict[str, Any]:
        """The content of promotion.json."""
        test = {"name": "exact McNemar, two-sided", **asdict(self.comparison)} if self.comparison else None
        return {
            "schema": SCHEMA,
            "decision": self.decision,
            "reason": self.reason,
            "sentence": self.sentence(),
            "model": self.model,
            "champion": self.champion,
            "forced": self.forced,
            "warnings": list(self.warnings),
            "data": dict(self.data),
            "challenger": self.challenger.to_json(),
            "previous": self.previous.to_json() if self.previous else None,
            "test": test,
            "cultivars": [asdict(row) for row in self.cultivars],
            **self.made,
        }


def describe_difference(one: PairedComparison) -> str:
    """`+2.5 points (95 % interval -1.0 to +6.1; p 0.210) on 400 test leaves: 20 gained, 10 lost.`"""
    p = "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
    interval = f"95 % interval {100 * one.low:+.1f} to {100 * one.high:+.1f}; p {p}"
    points = f"{100 * one.difference:+.1f} points ({interval})"
    return f"{points} on {one.n} test leaves: {one.gains} gained, {one.losses} lost."


def describe_sample_size(one: PairedComparison) -> str:
    """How many test leaves would make the difference significant."""
    if one.gains == one.losses == 0:
        return "Both models classify the same leaves correctly: these leaves show no difference at all."
    if one.needed is None:
        return "Both models classify equally many leaves correctly; no number of leaves makes that significant."
    about = round(one.needed, 1 - len(str(one.needed)) + 1) if one.needed >= 100 else one.needed
    points = f"{100 * abs(one.difference):.1f} points"
    test = f"(power 80 %, alpha {one.alpha:g})"
    return f"About {about} test leaves would be needed to detect a difference of {points} {test}."
