"""What the controls say of the proposed method, in words made from their figures."""

from __future__ import annotations

from collections.abc import Sequence

from ufgvc.evaluation.comparison import Comparison
from ufgvc.reports.benchmark_rows import Row
from ufgvc.reports.benchmark_tables import points

LIKELY = 0.05
# Variants that never see the leaf's own masks but learn at the same rate, and the two that the gain is a gain over, each of which chose
# its own rate: a difference to these may be one of rates.
BLIND = {"mask_guided:shuffled", "mask_guided:centre", "mask_guided:no_loss", "mask_guided:gain"}
PLAIN = {"resnet50", "mask_guided:none"}


def controls_in_words(comparison: Comparison, rows: Sequence[Row]) -> str:
    """Which controls do worse or better than what they control beyond chance, and which can not be told from it. "" without controls.

    A control is compared with the reference whose method it has; rows of other methods stand beside the proposed one.
    """
    told = []
    for key in comparison.references[1:]:
        others = [
            row
            for row in rows
            if "controls" in row.entry.tables and key in row.against and _belongs(row.entry.key, key, comparison)
        ]
        if others:
            label = next(row.entry.label for row in rows if row.entry.key == key)
            told.append(_beside(label, key, others))
    return " ".join(told)


def _belongs(control: str, reference: str, comparison: Comparison) -> bool:
    owner = control.split(":")[0]
    return owner == reference or (reference == comparison.references[1] and owner not in comparison.references[2:])


def _beside(label: str, key: str, compared: Sequence[Row]) -> str:
    sure = [row for row in compared if row.corrected[key] < LIKELY]
    worse = [row for row in sure if row.against[key].value < 0]
    better = [row for row in sure if row.against[key].value > 0]
    same = [row for row in compared if row not in sure]
    told = [f"Beside {label}, with Holm's correction."]
    for what, some in (("Worse", worse), ("Better", better), ("Not told apart from it", same)):
        if some:
            told.append(
                f"{what}: {', '.join(f'{row.entry.label} ({points(row.against[key].value)})' for row in some)}."
            )
    if any(row.entry.key in BLIND for row in compared):
        told.append(_conclusion(worse, [*better, *same]))
    return " ".join(told)


def _conclusion(worse: Sequence[Row], not_worse: Sequence[Row]) -> str:
    """What follows for the masks: a method that does as well with masks of other leaves does not owe its accuracy to the leaf's own."""
    as_well = [row.entry.label for row in not_worse if row.entry.key in BLIND]
    if as_well:
        return (
            f"Without the leaf's own masks it is not told apart from it ({', '.join(as_well)}): "
            "this benchmark does not show that the masks carry anything."
        )
    if any(row.entry.key in PLAIN for row in worse):
        return "Every variant that does not see the leaf's own masks does worse: here the masks carry the gain."
    return (
        "Every variant that does not see the leaf's own masks does worse, but no gain over the plain network was shown."
    )
