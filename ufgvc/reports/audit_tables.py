"""The tables of an audit."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ufgvc.evaluation.audit import flags
from ufgvc.evaluation.audit.record import Audit
from ufgvc.reports.tables import Cells, Table, interval, percent

MOST = 40  # rows of a table on the page; the CSV files have all


def first_table(audit: Audit) -> Table:
    """What to look at first: each kind of finding with its number, and the file that lists it."""
    kinds = Counter(each.kind for each in audit.copies)
    counted = Counter(flag for row in audit.flags for flag in row)
    pairs = sum(pair.alike and pair.confused > 0 for pair in audit.pairs)
    shortcuts = [each for each in audit.confounders if not each.legitimate]
    above = sum(each.above_chance for each in shortcuts)
    rows: list[Cells] = [["likely label mistakes", str(len(audit.check.suspects)), "leaves", "label-mistakes.csv"]]
    rows += [[f"copies {kind}", str(count), "photographs", "near-duplicates.csv"] for kind, count in kinds.items()]
    rows += [[name, str(counted[name]), "leaves", "leaves.csv"] for name in flags.NAMES if counted[name]]
    rows += [
        ["confounders above chance, colour not counted", str(above), f"of {len(shortcuts)}", "confounders.csv"],
        ["confused pairs of cultivars that cannot be separated", str(pairs), f"of {len(audit.pairs)}", "pairs.csv"],
    ]
    return Table("What to look at", ("Finding", "Number", "", "File"), rows, text_columns=frozenset({0, 2, 3}))


def cultivar_table(audit: Audit) -> Table:
    """One row for each cultivar: leaves by split, plants, and how many are named correctly out of fold."""
    leaves, own = audit.leaves, audit.leaves.labels
    splits = np.array(leaves.column("split"))
    names = list(dict.fromkeys(splits.tolist()))
    rows: list[Cells] = []
    for label, cultivar in enumerate(leaves.classes):
        here = own == label
        held = here & audit.named.held
        right = percent(float(audit.named.right[held].mean())) if held.any() else None
        counts: Cells = [str(int((here & (splits == split)).sum())) for split in names]
        suspects = int(here[audit.check.suspects].sum())
        rows.append([cultivar, *counts, str(len(np.unique(audit.units[here]))), right, str(suspects or "")])
    note = "Units: plants (where the data set names them), copies of one photograph counted once. A cultivar with a "
    note += "single unit cannot be held out: its cells are empty and its labels are not checked."
    columns = ("Cultivar", *names, "Units", "Correct out of fold", "Likely mistakes")
    return Table("Every cultivar", columns, rows, note=note)


def photograph_table(audit: Audit) -> Table:
    """The photographs with a flag, those with most flags first."""
    leaves = audit.leaves
    ids, splits, cultivars = (leaves.column(name) for name in ("image_id", "split", "cultivar"))
    order = sorted((row for row, found in enumerate(audit.flags) if found), key=lambda row: -len(audit.flags[row]))
    rows: list[Cells] = [
        [
            ids[row],
            cultivars[row],
            splits[row],
            ", ".join(audit.flags[row]),
            f"{leaves.facts['blur'][row]:.2f}",
            f"{leaves.facts['light'][row]:.2f}",
            percent(float(leaves.facts["on_frame"][row])),
        ]
        for row in order[:MOST]
    ]
    note = _more(len(order)) + (
        f" Blurred: above {flags.MAX_BLUR:g} (0 sharp, 1 blurred, Crété et al. 2007). Light: median L* of the leaf, "
        f"flagged below {flags.LIGHT[0]:g} and above {flags.LIGHT[1]:g}. Frame: share that is leaf, flagged above "
        f"{100 * flags.MAX_ON_FRAME:g}\u00a0%. Unlike: by the distance of its embedding to the nearest leaves."
    )
    columns = ("Leaf", "Cultivar", "Split", "Flags", "Blur", "Light", "Frame")
    return Table("Photographs with a flag", columns, rows, frozenset({0, 1, 2, 3}), note.strip())


def copies_table(audit: Audit) -> Table:
    """Groups of photographs that show the same picture, the harmful ones first."""
    ids = audit.leaves.column("image_id")
    rows: list[Cells] = [
        [each.kind, str(len(each.rows)), ", ".join(each.cultivars), ", ".join(each.splits),
         ", ".join(ids[row] for row in each.rows[:4]) + (" ..." if len(each.rows) > 4 else "")]
        for each in audit.copies[:MOST]
    ]  # fmt: skip
    note = _more(len(audit.copies))
    columns = ("Copies", "Files", "Cultivars", "Splits", "Leaves")
    return Table("Photographs that occur more than once", columns, rows, frozenset({0, 2, 3, 4}), note)


def confounder_table(audit: Audit) -> Table:
    """Accuracy of a classifier that cannot see the leaf's shape, and of one that sees everything."""
    rows: list[Cells] = [
        [each.sees, percent(each.found.value), interval(each.found), percent(each.chance),
         "above chance" if each.above_chance else "not shown to be above chance"]
        for each in audit.confounders
    ]  # fmt: skip
    own = audit.accuracy
    rows.append(["the whole leaf (embedding)", percent(own.value), interval(own), percent(audit.chance), None])
    note = (
        "Interval: Wilson, with as many leaves as if those of a plant (or copies of a photograph) were right or wrong "
        "together. Chance: the commonest cultivar is always named. Above chance: the interval is, and no order of the "
        "labels out of 39 others is named as well (p 0.025; not tried with more than 2000 leaves). Of ten data sets "
        "without any confounder, about one shows one."
    )
    columns = ("Sees", "Accuracy", "95 % interval", "Chance", "Finding")
    return Table("What a classifier reaches without the leaf's shape", columns, rows, frozenset({0, 4}), note)


def mistakes_table(audit: Audit) -> Table:
    """The likely label mistakes, the likeliest first."""
    ids, splits, cultivars = (audit.leaves.column(name) for name in ("image_id", "split", "cultivar"))
    check = audit.check
    rows: list[Cells] = [
        [ids[row], splits[row], cultivars[row], percent(float(check.quality[row])),
         audit.leaves.classes[check.suggested[row]],
         percent(float(audit.named.probability[row, check.suggested[row]]))]
        for row in check.suspects[:MOST].tolist()
    ]  # fmt: skip
    columns = ("Leaf", "Split", "Label", "its probability", "Suggested", "its probability")
    return Table("Likely label mistakes", columns, rows, frozenset({0, 1, 2, 4}), _more(len(check.suspects)))


def pairs_table(audit: Audit) -> Table:
    """The pairs of cultivars with confused leaves."""
    names = audit.leaves.classes
    confused = [pair for pair in audit.pairs if pair.confused]
    rows: list[Cells] = [
        [names[pair.a], names[pair.b], f"{pair.wrong[0]} of {pair.leaves[0]}", f"{pair.wrong[1]} of {pair.leaves[1]}",
         percent(pair.separated.value), interval(pair.separated),
         "cannot be separated" if pair.alike else "can be separated"]
        for pair in confused[:MOST]
    ]  # fmt: skip
    note = _more(len(confused)) + (
        " Separated: share of the leaves of both for which the right one of the two is likelier, each cultivar counted "
        "half; chance is 50\u00a0%. Cannot be separated: 50\u00a0% lies in the interval; with few leaves that says "
        "little about the cultivars."
    )
    columns = ("First", "Second", "first named second", "second named first", "Separated", "95 % interval", "Finding")
    return Table("Confused pairs", columns, rows, frozenset({0, 1, 6}), note.strip())


def growth_table(audit: Audit) -> Table:
    """The points of the learning curve."""
    curve = audit.growth
    rows: list[Cells] = [
        [f"{point.leaves:.3g}", percent(point.found.value), interval(point.found), "measured"] for point in curve.points
    ]
    if curve.doubled is not None:
        rows.append([f"{curve.doubled_leaves:.3g}", percent(curve.doubled.value), interval(curve.doubled), "forecast"])
    columns = ("Training leaves of a cultivar", "Accuracy", "95 % interval", "")
    return Table("Learning curve", columns, rows, frozenset({3}))


def _more(count: int) -> str:
    return f"The first {MOST} of {count}; the CSV file has all." if count > MOST else ""
