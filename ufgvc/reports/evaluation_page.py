"""The report page of a model: accuracy, comparison with other models, calibration, cultivars, and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ufgvc.evaluation.metrics import McNemar, Scores, confused_pairs, precision
from ufgvc.evaluation.reliability import Reliability, calibration_table
from ufgvc.reports.evaluation_figures import accuracy_chart, confusion_chart, recall_chart, training_chart
from ufgvc.reports.figures import Panels
from ufgvc.reports.page import Block, Page, Section
from ufgvc.reports.tables import Cells, Table, interval, p_text, percent

CAM_TEXT = (
    "Class activation maps for the cultivar that each model predicts: bright regions raise its score. "
    "The leaves are a random sample with a fixed seed."
)
CALIBRATION_TEXT = (
    "Calibration error before and after temperature scaling on validation leaves, and how many of the test leaves, all "
    "of known cultivars, are flagged as unknown."
)
REGIONS_TEXT = "The photograph inside the vein and contour masks. Masks are used in training only, not for prediction."


@dataclass(frozen=True)
class EvaluationRecord:
    """The content of the report.

    scores: {label: scores}, first the model of the report; tests: McNemar's test of each other model against it.
    history: rows of metrics.jsonl.  cam, regions: photograph panels, None for none.  paper: accuracies in the paper.
    facts: {name: value} of everything that made the numbers.  footer: the last line of the page.
    """

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
    footer: str


def compose_evaluation(record: EvaluationRecord) -> Page:
    """The whole page."""
    one, classes = next(iter(record.scores.values())), record.classes
    training = training_chart(record.history)
    sections = [
        _comparison(record),
        Section("Class activation maps", CAM_TEXT, [record.cam]) if record.cam else None,
        Section("Vein and contour", REGIONS_TEXT, [record.regions]) if record.regions else None,
        Section("Calibration", CALIBRATION_TEXT, [calibration_table(record.reliability)]),
        Section("Training", "Unweighted loss terms, and accuracy on the augmented training images.", [training])
        if training else None,
        Section("Cultivars", "", [recall_chart(one.recall), confused_table(classes, one)]),
        Section("Every cultivar", "", [cultivar_table(classes, one)], collapsed=f"Show all {len(classes)} cultivars"),
        Section("Confusion matrix", "Each row is a true cultivar, normalised by its number of leaves.",
                [confusion_chart(one.confusion, classes)]),
    ]  # fmt: skip
    return Page(
        eyebrow=f"ufgvc evaluation on {record.dataset}",
        title=f"{record.method}: {len(classes)} cultivars",
        headline=percent(one.accuracy.value) or "",
        explanation=f"{one.accuracy.k} of {one.accuracy.n} test leaves classified correctly; "
        f"95\u00a0% interval {interval(one.accuracy)}",
        stats=[
            (percent(one.balanced_accuracy) or "", "balanced accuracy"),
            (percent(one.top.value) or "", f"top-{one.top_k} accuracy"),
            (str(len(classes)), "cultivars"),
            (percent(1 / len(classes)) or "", "chance level"),
        ],
        sections=[section for section in sections if section],
        facts=record.facts,
        warnings=record.warnings,
        footer=record.footer,
    )


def _comparison(record: EvaluationRecord) -> Section:
    table = models_table(record.scores, record.tests, record.paper)
    if not record.tests:
        return Section("Result", "", [table])
    spans = {name: (one.accuracy.value, one.accuracy.low, one.accuracy.high) for name, one in record.scores.items()}
    blocks: list[Block] = [accuracy_chart(spans, 1 / len(record.classes)), table]
    return Section("Comparison with other models", "All models are evaluated on the same leaves.", blocks)


def models_table(
    scores: Mapping[str, Scores], tests: Mapping[str, McNemar], paper: Mapping[str, float | None] | None = None
) -> Table:
    """One row for each model; the first is the model of the report, the others are compared with it."""
    paper, top_k = paper or {}, next(iter(scores.values())).top_k
    show_paper = any(value is not None for value in paper.values())
    columns = ["Model", "Correct", "Accuracy", "95 % interval", "Balanced", f"Top {top_k}"]
    columns += ["Gains", "Losses", "p"] if tests else []
    columns += ["Paper"] if show_paper else []
    rows: list[Cells] = []
    for label, one in scores.items():
        accuracy, test = one.accuracy, tests.get(label)
        row = [label, f"{accuracy.k} of {accuracy.n}", percent(accuracy.value), interval(accuracy)]
        row += [percent(one.balanced_accuracy), percent(one.top.value)]
        if tests:
            row += [str(test.only_second), str(test.only_first), p_text(test.p_value)] if test else [None] * 3
        if show_paper:
            row.append(percent(paper.get(label), 2))
        rows.append(row)
    note = "Interval: Wilson. Balanced: mean recall of the cultivars."
    if tests:
        note += (
            " Gains: leaves that only this model classifies correctly; losses: leaves that only the model of the "
            "report does; p: exact McNemar test; one seed each."
        )
    return Table("Accuracy on the test leaves", tuple(columns), rows, note=note)


def cultivar_table(classes: Sequence[str], one: Scores) -> Table:
    """One row for each cultivar: leaves, recall, precision, and its most frequent confusion."""
    precisions = precision(one.confusion)
    rows: list[Cells] = []
    for label, name in enumerate(classes):
        counts = one.confusion[label]
        others = counts.copy()
        others[label] = 0
        confused = f"{classes[int(others.argmax())]} ({others.max()})" if others.max() else None
        row: Cells = [name, str(counts.sum()), str(counts[label]), percent(float(one.recall[label]))]
        rows.append([*row, percent(float(precisions[label])), confused])
    columns = ("Cultivar", "Leaves", "Correct", "Recall", "Precision", "Most often confused with")
    return Table("Every cultivar", columns, rows, text_columns=frozenset({0, 5}))


def confused_table(classes: Sequence[str], one: Scores, limit: int = 12) -> Table:
    """The pairs of cultivars with the most confusions."""
    rows: list[Cells] = [
        [classes[true], classes[guess], str(leaves), str(one.confusion[true].sum())]
        for true, guess, leaves in confused_pairs(one.confusion, limit)
    ]
    columns = ("Cultivar", "Predicted as", "Leaves", "Of")
    return Table("Most frequent confusions", columns, rows, text_columns=frozenset({0, 1}))
