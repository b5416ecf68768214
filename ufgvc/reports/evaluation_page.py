"""The report page of a model: accuracy, comparison with other models, calibration, cultivars, and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ufgvc.core.region_names import join_names
from ufgvc.evaluation.evaluation import Evaluation
from ufgvc.evaluation.metrics import Scores, confused_pairs
from ufgvc.evaluation.paired_test import McNemar
from ufgvc.evaluation.reliability import Reliability
from ufgvc.reports.evaluation_figures import accuracy_chart, confusion_chart, recall_chart, training_chart
from ufgvc.reports.figures import Panels
from ufgvc.reports.page import Block, Page, Section, footer
from ufgvc.reports.tables import Cells, Table, interval, p_text, percent

CAM_TEXT = (
    "Class activation maps for the cultivar that each model predicts: bright regions raise its score. "
    "The leaves are a random sample with a fixed seed."
)
CALIBRATION_TEXT = (
    "Calibration error before and after temperature scaling on validation leaves, and how many of the test leaves, all "
    "of known cultivars, are flagged as unknown."
)
REGIONS_TEXT = "The photograph inside the mask of each region. Masks are used in training only, not for prediction."


def compose_evaluation(record: Evaluation, cam: Panels | None, regions: Panels | None) -> Page:
    """The whole page.  cam, regions: photograph panels, None for none."""
    one, classes = next(iter(record.scores.values())), record.classes
    training = training_chart(record.history)
    sections = [
        _comparison(record),
        Section("Class activation maps", CAM_TEXT, [cam]) if cam else None,
        Section(join_names(regions.columns[1:]).capitalize(), REGIONS_TEXT, [regions]) if regions else None,
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
        footer=footer(),
    )


def _comparison(record: Evaluation) -> Section:
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
    rows: list[Cells] = []
    for label, name in enumerate(classes):
        counts = one.confusion[label]
        others = counts.copy()
        others[label] = 0
        confused = f"{classes[int(others.argmax())]} ({others.max()})" if others.max() else None
        row: Cells = [name, str(counts.sum()), str(counts[label]), percent(float(one.recall[label]))]
        rows.append([*row, percent(float(one.precision[label])), confused])
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


def calibration_table(found: Mapping[str, Reliability]) -> Table:
    """One row for each model; cells of a model without calibration are empty."""
    measured = ("Temperature", "Log loss", "calibrated", "Calibration error", "calibrated")
    columns = ("Model", *measured, "Called unknown", "of these correct")
    rows: list[Cells] = []
    for name, one in found.items():
        row = [name, _number(one.temperature), _number(one.log_loss), _number(one.calibrated_log_loss)]
        row += [percent(one.error), percent(one.calibrated_error)]
        row += [None, None] if one.unknown is None else [f"{one.unknown} of {one.leaves}", str(one.unknown_right)]
        rows.append(row)
    note = "Log loss: mean negative log-likelihood, nats. Calibration error: expected, 15 bins. "
    note += "Accuracies count the likeliest cultivar, also of leaves called unknown."
    sources = {name: one.source for name, one in found.items() if one.source}
    note += "".join(f" {name}: calibrated on {source}." for name, source in sources.items())
    if any(one.unknown is None for one in found.values()):
        note += " Empty: no temperature or no threshold was fitted (`ufgvc calibrate`)."
    return Table("Probabilities on the test leaves", columns, rows, note=note)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
