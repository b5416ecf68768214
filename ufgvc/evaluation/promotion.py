"""A decision about the champion: how it follows from the contest, and how it is told on a terminal and in promotion.json.

promotion.json
    schema               1
    decision             promoted, kept or undecided
    reason               first champion, better, worse, not told apart, forced, or is the champion already
    sentence             the same for people
    model, champion      the registered model, and the number of its champion now
    forced, warnings     whether --force overruled something, and what a reader must know
    data                 name, uri, fingerprint, split (test), leaves
    challenger           version, run_id, method, data and masks (fingerprints that it was trained on), mask_kind, right, of, low, high
    previous             the same of the champion before, null before the first; right is null where it was not compared
    test                 null without a comparison, else: alpha, p, gains, losses, n, difference, low, high, needed (null: nothing to tell).
                         gains, losses: leaves that only the challenger, only the champion named rightly; difference = (gains - losses) / n
    cultivars            cultivar, leaves, champion, challenger: leaves of each and how many were named rightly
    made, code           time (UTC) and git commit
Rates are in [0, 1]; low and high are 95 % intervals (Wilson's for one model, Tango's for the difference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ufgvc.evaluation.metrics import Proportion
from ufgvc.evaluation.paired_test import CultivarChange, PairedComparison
from ufgvc.reports.tables import Table, interval, p_text, percent

SCHEMA = 1
Decision = Literal["promoted", "kept", "undecided"]


@dataclass(frozen=True)
class Side:
    """One of the two models.  data, masks: fingerprints of what it was trained on.  accuracy: None where it was not scored."""

    version: str
    run_id: str | None
    method: str | None = None
    data: str | None = None
    masks: str | None = None
    mask_kind: str | None = None
    accuracy: Proportion | None = None


@dataclass(frozen=True)
class Promotion:
    """What was decided, and everything that it rests on.  previous: the champion before; None before the first."""

    model: str
    decision: Decision
    reason: str
    data: Mapping[str, Any]
    challenger: Side
    previous: Side | None
    contest: PairedComparison | None = None
    cultivars: Sequence[CultivarChange] = ()
    forced: bool = False
    warnings: Sequence[str] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def champion(self) -> str | None:
        """The version that bears the title after the decision."""
        if self.decision == "promoted":
            return self.challenger.version
        return self.previous.version if self.previous else None

    def sentence(self) -> str:
        """One or two sentences for people."""
        new, old = f"version {self.challenger.version}", f"version {self.previous.version}" if self.previous else ""
        if self.reason == "first champion":
            return f"promoted: {new} is the first champion of {self.model}, without a contest."
        if self.reason == "is the champion already":
            return f"kept: {new} is the champion already, so there is nothing to decide."
        measured = f" {difference_text(self.contest)}" if self.contest else " The two were not compared."
        if self.reason == "forced":
            return f"promoted: {new} takes the place of {old} because --force was given.{measured}"
        if self.decision == "undecided":
            return f"undecided: {old} stays champion.{measured} {needed_text(self.contest)}" if self.contest else ""
        taken = (
            f"{new} takes the place of {old} as champion" if self.decision == "promoted" else f"{old} stays champion"
        )
        return f"{self.decision}: {taken}.{measured}"

    def to_json(self) -> dict[str, Any]:
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
            "challenger": _side(self.challenger),
            "previous": _side(self.previous) if self.previous else None,
            "test": {"name": "exact McNemar, two-sided", **asdict(self.contest)} if self.contest else None,
            "cultivars": [asdict(row) for row in self.cultivars],
            **self.made,
        }

    def tables(self) -> list[Table]:
        """Both models, and the cultivars whose count changed; nothing where there was nothing to decide."""
        if self.reason == "is the champion already":
            return []
        found = [self._models()]
        changed = [row for row in self.cultivars if row.change]
        if changed:
            rows: list[list[str | None]] = [
                [
                    row.cultivar,
                    f"{row.champion} of {row.leaves}",
                    f"{row.challenger} of {row.leaves}",
                    f"{row.change:+d}",
                ]
                for row in changed
            ]
            same = len(self.cultivars) - len(changed)
            title = f"By cultivar ({same} more are as before)" if same else "By cultivar"
            found.append(Table(title, ("Cultivar", "Champion", "Challenger", "Leaves"), rows))
        return found

    def _models(self) -> Table:
        columns = ("", "Version", "Method", "Right", "Accuracy", "95 % interval", "Trained on data", "Masks")
        rows: list[list[str | None]] = []
        for name, side in (("challenger", self.challenger), ("champion before", self.previous)):
            if side is None:
                continue
            one = side.accuracy
            measured = [f"{one.k} of {one.n}", percent(one.value), interval(one)] if one else [None] * 3
            masks = f"{side.mask_kind or ''} {short(side.masks)}".strip() if side.masks else None
            rows.append([name, side.version, side.method, *measured, short(side.data), masks])
        title = f"{self.model} on the {self.data['leaves']} test leaves of {self.data['name']}, data {short(self.data['fingerprint'])}"
        return Table(title, columns, rows, text_columns=frozenset({0, 2, 6, 7}))


def short(fingerprint: str | None) -> str:
    return fingerprint[:12] if fingerprint else "not told"


def difference_text(told: PairedComparison) -> str:
    """`+2.5 points (95 % interval -1.0 to +6.1; p 0.210) on 400 test leaves: 20 gained, 10 lost.`"""
    points = f"{100 * told.difference:+.1f} points (95 % interval {100 * told.low:+.1f} to {100 * told.high:+.1f}; p {p_text(told.p)})"
    return f"{points} on {told.n} test leaves: {told.gains} gained, {told.losses} lost."


def needed_text(told: PairedComparison) -> str:
    """What more leaves could tell."""
    if told.gains == told.losses == 0:
        return "Each leaf that one named rightly, the other did too: these leaves show no difference at all."
    if told.needed is None:
        return "Both named equally many rightly, and no number of leaves tells a difference of zero."
    about = round(told.needed, 1 - len(str(told.needed)) + 1) if told.needed >= 100 else told.needed
    points = f"{100 * abs(told.difference):.1f} points"
    return f"About {about} test leaves would be needed to tell a difference of {points} (power 80 %, alpha {told.alpha:g})."


def _side(side: Side) -> dict[str, Any]:
    told = asdict(side)
    one = told.pop("accuracy")
    return told | (
        {"right": one["k"], "of": one["n"], "low": one["low"], "high": one["high"]} if one else {"right": None}
    )
