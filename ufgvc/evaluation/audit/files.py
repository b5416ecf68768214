"""The CSV files of an audit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ufgvc.evaluation.audit.record import Audit

LEAVES, CULTIVARS, COPIES = "leaves.csv", "cultivars.csv", "near-duplicates.csv"
MISTAKES, PAIRS, CONFOUNDERS, CURVE = "label-mistakes.csv", "pairs.csv", "confounders.csv", "learning-curve.csv"


def audit_files(audit: Audit) -> dict[str, str]:
    """{name: text} of every CSV file; shares are in [0, 1], an empty cell was not measured."""
    return {
        LEAVES: _leaves(audit),
        CULTIVARS: _cultivars(audit),
        COPIES: _copies(audit),
        MISTAKES: _mistakes(audit),
        PAIRS: _pairs(audit),
        CONFOUNDERS: _confounders(audit),
        CURVE: _curve(audit),
    }


def _leaves(audit: Audit) -> str:
    leaves, classes = audit.leaves, audit.leaves.classes
    index = leaves.index.select(["image_id", "split", "cultivar", "group"]).to_pylist()
    suspects, copy_of = set(audit.check.suspects.tolist()), np.full(len(index), -1)
    for number, each in enumerate(audit.copies):
        copy_of[list(each.rows)] = number
    places: dict[int, Any] = dict(zip(audit.chosen.tolist(), audit.places.tolist(), strict=True))
    facts = list(leaves.facts)
    columns = [
        "image_id",
        "split",
        "cultivar",
        "group",
        *facts,
        "neighbour_distance",
        "label_quality",
        "suggested_cultivar",
    ]
    columns += ["likely_mistake", "copies", "map_x", "map_y", "flags"]
    rows = []
    for row, one in enumerate(index):
        guess = int(audit.check.suggested[row])
        rows.append(
            [
                *one.values(),
                *(leaves.facts[name][row] for name in facts),
                audit.distances[row],
                audit.check.quality[row],
                classes[guess] if guess >= 0 else None,
                row in suspects,
                copy_of[row] if copy_of[row] >= 0 else None,
                *places.get(row, (None, None)),
                "; ".join(audit.flags[row]),
            ]
        )
    return _to_csv(columns, rows)


def _cultivars(audit: Audit) -> str:
    leaves, own = audit.leaves, audit.leaves.labels
    splits = np.array(leaves.column("split"))
    names = list(dict.fromkeys(splits.tolist()))
    rows = []
    for label, cultivar in enumerate(leaves.classes):
        here = own == label
        held = here & audit.named.held
        right = float(audit.named.right[held].mean()) if held.any() else None
        counts = [int((here & (splits == split)).sum()) for split in names]
        suspects = int(here[audit.check.suspects].sum())
        rows.append([cultivar, *counts, len(np.unique(audit.units[here])), right, suspects])
    return _to_csv(["cultivar", *names, "units", "accuracy_out_of_fold", "likely_mistakes"], rows)


def _copies(audit: Audit) -> str:
    ids, splits, cultivars = (audit.leaves.column(name) for name in ("image_id", "split", "cultivar"))
    rows = [
        [number, each.kind, ids[row], splits[row], cultivars[row]]
        for number, each in enumerate(audit.copies)
        for row in each.rows
    ]
    return _to_csv(["copies", "kind", "image_id", "split", "cultivar"], rows)


def _mistakes(audit: Audit) -> str:
    ids, splits, cultivars = (audit.leaves.column(name) for name in ("image_id", "split", "cultivar"))
    check = audit.check
    rows = [
        [
            ids[row],
            splits[row],
            cultivars[row],
            audit.leaves.classes[check.suggested[row]],
            check.quality[row],
            audit.named.probability[row, check.suggested[row]],
        ]
        for row in check.suspects.tolist()
    ]
    columns = ["image_id", "split", "cultivar", "suggested_cultivar", "probability_of_label"]
    return _to_csv([*columns, "probability_of_suggested"], rows)


def _pairs(audit: Audit) -> str:
    names = audit.leaves.classes
    rows = [
        [
            names[pair.a],
            names[pair.b],
            *pair.leaves,
            *pair.wrong,
            pair.separated.value,
            pair.separated.low,
            pair.separated.high,
            pair.alike,
        ]
        for pair in audit.pairs
    ]
    columns = ["a", "b", "leaves_of_a", "leaves_of_b", "a_named_b", "b_named_a"]
    return _to_csv([*columns, "separated", "separated_low", "separated_high", "not_separable"], rows)


def _confounders(audit: Audit) -> str:
    rows = [
        [each.sees, each.found.value, each.found.low, each.found.high, each.chance, each.above_chance]
        for each in audit.confounders
    ]
    own = audit.accuracy
    rows.append(["the whole leaf", own.value, own.low, own.high, audit.chance, own.low > audit.chance])
    return _to_csv(["sees", "accuracy", "low", "high", "chance", "above_chance"], rows)


def _curve(audit: Audit) -> str:
    curve = audit.growth
    rows: list[list[Any]] = [
        [point.leaves, point.found.value, point.found.low, point.found.high, True] for point in curve.points
    ]
    if curve.doubled is not None:
        rows.append([curve.doubled_leaves, curve.doubled.value, curve.doubled.low, curve.doubled.high, False])
    return _to_csv(["training_leaves_of_a_cultivar", "accuracy", "low", "high", "measured"], rows)


def _to_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{float(value):.6g}"
    return value
