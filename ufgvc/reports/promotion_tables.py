"""The tables of a promotion: challenger and champion, and the cultivars whose number of correct leaves changed."""

from __future__ import annotations

from ufgvc.evaluation.promotion_record import Promotion
from ufgvc.evaluation.provenance import short
from ufgvc.reports.tables import Cells, Table, interval, percent


def promotion_tables(promotion: Promotion) -> list[Table]:
    """Both models, and the cultivars that changed; [] where the version is the champion already."""
    if promotion.reason == "is the champion already":
        return []
    found = [_models_table(promotion)]
    changed = [row for row in promotion.cultivars if row.change]
    if changed:
        rows: list[Cells] = [
            [
                row.cultivar,
                f"{row.champion} of {row.leaves}",
                f"{row.challenger} of {row.leaves}",
                f"{row.change:+d}",
            ]
            for row in changed
        ]
        same = len(promotion.cultivars) - len(changed)
        title = f"By cultivar ({same} others did not change)" if same else "By cultivar"
        found.append(Table(title, ("Cultivar", "Champion", "Challenger", "Leaves"), rows))
    return found


def _models_table(promotion: Promotion) -> Table:
    columns = ("", "Version", "Method", "Correct", "Accuracy", "95 % interval", "Trained on data", "Masks")
    rows: list[Cells] = []
    for name, side in (("challenger", promotion.challenger), ("earlier champion", promotion.previous)):
        if side is None:
            continue
        one = side.accuracy
        measured = [f"{one.k} of {one.n}", percent(one.value), interval(one)] if one else [None] * 3
        masks = f"{side.mask_kind or ''} {short(side.masks)}".strip() if side.masks else None
        rows.append([name, side.version, side.method, *measured, short(side.data), masks])
    data = promotion.data
    title = (
        f"{promotion.model} on the {data['leaves']} test leaves of {data['name']}, data {short(data['fingerprint'])}"
    )
    return Table(title, columns, rows, text_columns=frozenset({0, 2, 6, 7}))
