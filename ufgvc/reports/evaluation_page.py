"""Puts the numbers, figures and facts of an evaluation on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ufgvc.evaluation.metrics import McNemar, Scores
from ufgvc.evaluation.reliability import Reliability, calibration_table
from ufgvc.reports import tables
from ufgvc.reports.figures import Chart, Panels, accuracy_chart, confusion_chart, recall_chart, training_chart
from ufgvc.reports.page import Block, Page, Section


@dataclass(frozen=True)
class Evidence:
    """Everything a report shows. scores: the first is the model of the report, the others are compared with it by `tests`."""

    dataset: str
    method: str
    classes: Sequence[str]
    scores: Mapping[str, Scores]
    tests: Mapping[str, McNemar]
    history: Sequence[Mapping[str, float]]
    cam: Panels | None
    regions: Panels | None
    reliability: Mapping[str, Reliability]
    paper: Mapping[str, float | None]
    facts: Mapping[str, str]
    warnings: Sequence[str]
    made: str


def compose(evidence: Evidence) -> tuple[Page, list[Chart | Panels]]:
    """The page, and its figures for PNG files."""
    one = next(iter(evidence.scores.values()))
    cultivars = len(evidence.classes)
    chapters = [
        _comparison(evidence, 1 / cultivars),
        _pictures("What it looks at", CAM_TEXT, evidence.cam),
        _pictures("The regions that guide it", REGION_TEXT, evidence.regions),
        Section("What its probabilities are worth", RELIABILITY_TEXT, [calibration_table(evidence.reliability)]),
        _training(evidence.history),
        Section("The cultivars", "How often each cultivar was named rightly, and which were confused.",
                [recall_chart(one.recall), tables.confused_table(evidence.classes, one)]),
        Section("Every cultivar", "", [tables.cultivar_table(evidence.classes, one)], collapsed=f"Show all {cultivars} cultivars"),
        Section("Confusion matrix", "Each row is a true cultivar, in shares of its leaves; the diagonal is right.",
                [confusion_chart(one.confusion, evidence.classes)]),
    ]  # fmt: skip
    kept = [chapter for chapter in chapters if chapter]
    page = Page(
        eyebrow=f"ufgvc evaluation of {evidence.dataset}",
        title=f"{evidence.method}: {cultivars} cultivars from one leaf",
        headline=tables.percent(one.accuracy.value) or "",
        explanation=f"{one.accuracy.k} of {one.accuracy.n} test leaves named rightly; 95\u00a0% interval {tables.interval(one.accuracy)}",
        stats=[
            (tables.percent(one.balanced_accuracy) or "", "balanced accuracy"),
            (tables.percent(one.top.value) or "", f"among the {one.top_k} likeliest"),
            (str(cultivars), "cultivars"),
            (tables.percent(1 / cultivars) or "", "by chance"),
        ],
        sections=kept,
        facts=evidence.facts,
        warnings=evidence.warnings,
        footer=evidence.made,
    )
    figures = [block for chapter in kept for block in chapter.blocks if isinstance(block, Chart | Panels)]
    return page, figures


CAM_TEXT = (
    "Class activation maps for the cultivar that each model names: bright is what spoke for it. "
    "The leaves were drawn with a seed, not picked."
)
RELIABILITY_TEXT = (
    "Whether leaves named with a probability of 80 % are right in 80 % of the cases, before and after the temperature that was fitted "
    "on validation leaves; and how many of these leaves, all of known cultivars, would be called unknown."
)
REGION_TEXT = "The photograph inside the vein and contour masks. Training sees them; naming a new leaf needs none."


def _comparison(evidence: Evidence, chance: float) -> Section:
    blocks: list[Block] = []
    if evidence.tests:
        spans = {name: (s.accuracy.value, s.accuracy.low, s.accuracy.high) for name, s in evidence.scores.items()}
        blocks.append(accuracy_chart(spans, chance))
    blocks.append(tables.models_table(evidence.scores, evidence.tests, evidence.paper))
    text = "Every model named the same leaves, each once." if evidence.tests else "Every test leaf was named once."
    return Section("Beside other models" if evidence.tests else "The result", text, blocks)


def _pictures(title: str, text: str, panels: Panels | None) -> Section | None:
    return Section(title, text, [panels]) if panels else None


def _training(history: Sequence[Mapping[str, float]]) -> Section | None:
    chart = training_chart(history)
    return (
        Section("Training", "Unweighted parts of the loss and the accuracy on training crops, epoch by epoch.", [chart])
        if chart
        else None
    )
