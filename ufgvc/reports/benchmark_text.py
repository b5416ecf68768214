"""A benchmark in sentences: the gain of the proposed method, the paper's gain, and what the controls show."""

from __future__ import annotations

from collections.abc import Sequence

from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.evaluation.benchmark_record import BenchmarkRecord
from ufgvc.evaluation.benchmark_summary import MethodSummary
from ufgvc.evaluation.paper_results import PAPER
from ufgvc.reports.tables import p_text, points

SIGNIFICANT = 0.05
SCORED = {"fixed": "on the test leaves", "crossval": "in cross-validation over all leaves"}
# Variants that train at the same learning rate without the masks of the leaf itself; and the two baselines of the gain,
# which chose learning rates of their own, so a difference to them may be due to the rate.
WITHOUT_OWN_MASKS = {"mask_guided:shuffled", "mask_guided:centre", "mask_guided:no_loss", "mask_guided:gain"}
BASELINES = {"resnet50", "mask_guided:none"}


def summary_text(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> str:
    """The gain, the paper's gain, and on a line of its own what the controls show (if there are any)."""
    gain = " ".join(text for text in (describe_gain(record, summaries), describe_paper(record, summaries)) if text)
    return "\n".join(text for text in (gain, describe_controls(record, summaries)) if text)


def describe_gain(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> str:
    """The paired difference of the proposed method and the baseline with its p, or why it was not measured."""
    found = {one.result.key: one for one in summaries}
    base, proposed = record.references[:2]
    for key in (base, proposed):
        if key not in found or found[key].accuracy is None:
            label = found[key].result.label if key in found else key
            return f"No run of {label} finished, so the gain was not measured."
    ours, plain = found[proposed], found[base]
    names = ours.result.label, plain.result.label
    gap, p = ours.differences.get(base), ours.corrected.get(base)
    if gap is None or p is None:
        return f"{names[0]} and {names[1]} finished on different data sets, so the gain was not measured."
    amount = round(100 * gap.value, 1)
    than = f"{abs(amount):.1f} points {'more' if amount > 0 else 'less'} accurate than" if amount else "as accurate as"
    family = sum(base in one.differences for one in summaries)
    text = (
        f"{names[0]} is {than} {names[1]} {SCORED[record.protocol]} (95\u00a0% interval {points(gap.low)} to "
        f"{points(gap.high)}; p {p_text(gap.p)}, with Holm's correction for {family} methods {p_text(p)}). "
        f"{describe_significance(gap.p, p)}"
    )
    if ours.spread is not None and plain.spread is not None:
        spreads = f"{100 * ours.spread:.1f} and {100 * plain.spread:.1f} points"
        text += f" Standard deviation over seeds: {spreads}."
    return text


def describe_significance(p: float, corrected: float) -> str:
    """Whether a paired difference is significant, with and without Holm's correction."""
    if corrected < SIGNIFICANT:
        return "The paired difference is significant."
    if p < SIGNIFICANT:
        return "The paired difference is significant by itself, but not after the correction."
    return "The paired difference is not significant."


def describe_paper(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> str:
    """The paper's differences of Table II, relative to our interval; "" if ours was not measured on its split, or with
    other regions.
    """
    base, proposed = record.references[:2]
    gaps = [one.differences[base] for one in summaries if one.result.key == proposed and base in one.differences]
    if not gaps or record.protocol == "crossval" or record.regions != PAPER_REGIONS:
        return ""
    texts = []
    for name, accuracies in PAPER.items():
        theirs = (accuracies["mask_guided", PAPER_REGIONS] - accuracies["resnet50", ()]) / 100
        where = "inside" if gaps[0].low <= theirs <= gaps[0].high else "above" if theirs > gaps[0].high else "below"
        texts.append(f"{points(theirs)} on {name} ({where} that interval)")
    return f"In the paper: {' and '.join(texts)}; its ResNet-50 is quoted from another paper."


def describe_controls(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> str:
    """Which controls differ significantly from the method that they control, and what follows; "" without controls.

    A control is compared with the reference that its key names; controls of other methods with the proposed method.
    """
    texts = []
    for reference in record.references[1:]:
        controls = [
            one
            for one in summaries
            if "controls" in one.result.tables
            and reference in one.differences
            and _controls(one.result.key, reference, record)
        ]
        if controls:
            label = next(one.result.label for one in summaries if one.result.key == reference)
            texts.append(_compare(label, reference, controls))
    return " ".join(texts)


def _controls(key: str, reference: str, record: BenchmarkRecord) -> bool:
    owner = key.split(":")[0]
    return owner == reference or (reference == record.references[1] and owner not in record.references[2:])


def _compare(label: str, reference: str, controls: Sequence[MethodSummary]) -> str:
    significant = [one for one in controls if one.corrected[reference] < SIGNIFICANT]
    worse = [one for one in significant if one.differences[reference].value < 0]
    better = [one for one in significant if one.differences[reference].value > 0]
    same = [one for one in controls if one not in significant]
    texts = [f"Compared with {label} (Holm's correction)."]
    for what, group in (("Worse", worse), ("Better", better), ("Not significantly different", same)):
        if group:
            names = (f"{one.result.label} ({points(one.differences[reference].value)})" for one in group)
            texts.append(f"{what}: {', '.join(names)}.")
    if any(one.result.key in WITHOUT_OWN_MASKS for one in controls):
        texts.append(_conclusion(worse, [*better, *same]))
    return " ".join(texts)


def _conclusion(worse: Sequence[MethodSummary], not_worse: Sequence[MethodSummary]) -> str:
    """If variants without the leaf's own masks do as well, the masks do not explain the accuracy."""
    as_good = [one.result.label for one in not_worse if one.result.key in WITHOUT_OWN_MASKS]
    if as_good:
        return (
            f"Variants without the leaf's own masks ({', '.join(as_good)}) are not worse: "
            "this benchmark does not show that the masks matter."
        )
    if any(one.result.key in BASELINES for one in worse):
        return "Every variant without the leaf's own masks is worse: here the masks explain the gain."
    return "Every variant without the leaf's own masks is worse, but there is no significant gain over the baseline."
