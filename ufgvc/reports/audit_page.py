"""The page of an audit: what the photographs, labels and cultivars of a data set are worth."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ufgvc.evaluation.audit.record import Audit
from ufgvc.reports import audit_tables as tables
from ufgvc.reports.audit_figures import balance_chart, growth_chart, measures_chart
from ufgvc.reports.evaluation_figures import accuracy_chart
from ufgvc.reports.figures import Panels
from ufgvc.reports.leaf_map import LeafMap
from ufgvc.reports.page import Block, Page, Section, footer
from ufgvc.reports.tables import interval, percent, points_with_interval

SHOWN = 12  # leaves in a panel of photographs
THUMBNAILS_UP_TO = 800  # leaves on a map with thumbnails: they take about 3 kilobytes each

COPIES_TEXT = (
    "Files that show the same picture, also saved again, resized, turned by a right angle or mirrored (perceptual "
    "hash, confirmed by thumbnail and colours). Copies in train and test make the test accuracy too high; copies "
    "under several cultivars have at least one wrong label. Folds keep copies together."
)
CONFOUNDER_TEXT = (
    "If cultivars can be named without the leaf, a network can learn the photographer's table or camera in place "
    "of the cultivar, and fails on photographs from elsewhere. Each row is a classifier (extremely randomised "
    "trees) that sees nothing else, measured on leaves of other folds. Camera facts: width, height, JPEG "
    "quantisation and file type. Bytes also depend on the leaf, through its size and texture. Colour can be a "
    "trait of the cultivar or of the light; only photographs of several cultivars in the same light can say "
    "which."
)
MISTAKES_TEXT = (
    "Each leaf was named by classifiers that were fitted to the other folds; cleanlab (confident learning) "
    "compares these probabilities with the labels. A suspect is a question, not an error: a leaf that is rare for "
    "its cultivar looks the same. Mistakes between cultivars that look alike, and those that all leaves of a "
    "plant share, are missed."
)
PAIRS_TEXT = "How often leaves of two cultivars are named as the other, out of fold, by this embedding and classifier."
GROWTH_TEXT = (
    "The same leaves are named by classifiers that were fitted to fewer leaves of each cultivar (all, where it "
    "has fewer). The intervals are for other leaves of these cultivars, taken as these were. The forecast "
    "continues a power law through the last points; the law has no floor, so mislabelled or unnameable leaves "
    "make it too high."
)
MAP_TEXT = (
    "t-SNE of the embeddings: neighbours look alike to the network; distances between distant groups, and their "
    "sizes, mean nothing. Hover over a mark for the leaf. A ring marks a likely label mistake."
)


def compose_audit(audit: Audit) -> Page:
    """The whole page of an audit."""
    count, classes = len(audit.leaves.index), audit.leaves.classes
    look, own = audit.to_look_at(), audit.accuracy
    above = sum(each.above_chance and not each.legitimate for each in audit.confounders)
    return Page(
        eyebrow=f"ufgvc audit of {audit.name}",
        title=f"{count} leaves of {len(classes)} cultivars",
        headline=str(len(look)),
        explanation="leaves to look at: a flag on the photograph, a likely label mistake, or a copy in both splits or "
        "under several cultivars",
        stats=[
            (str(len(audit.check.suspects)), "likely label mistakes"),
            (str(len(audit.harmful_copies())), "harmful groups of copies"),
            (str(above), "confounders above chance, colour not counted"),
            (percent(own.value) or "", f"correct out of fold ({interval(own)})"),
        ],
        sections=_sections(audit),
        facts=audit.facts,
        warnings=page_warnings(audit),
        footer=footer(),
    )


def page_warnings(audit: Audit) -> list[str]:
    """What limits the figures of this page."""
    found = [
        f"{each.sees[0].upper()}{each.sees[1:]}: {percent(each.found.value)} of the leaves are named correctly "
        f"({interval(each.found)}; chance {percent(each.chance)})."
        for each in audit.confounders
        if each.above_chance and not each.legitimate
    ]
    if not audit.has_groups:
        found.append(
            "The data set does not say which plant each leaf comes from (`ufgvc ingest --groups TABLE`). Leaves of one "
            "plant are then in several folds: accuracies may be too high and intervals too narrow."
        )
    if audit.learned_from:
        found.append(
            f"The network was trained on the {audit.learned_from} leaves and their labels. Its features of them may "
            "fit wrong labels too: figures of these leaves are too high and mistakes among them are missed. An audit "
            "without `--model` has not seen any label."
        )
    if missing := int((~audit.named.held).sum()):
        found.append(
            f"{missing} leaves are of cultivars with a single plant or photograph: their labels are unchecked."
        )
    unclear = int((~audit.leaves.facts["plain"].astype(bool)).sum())
    if unclear:
        found.append(
            f"{unclear} photographs have no plain background: their leaf was not separated, so its size, parts and "
            "edge are unchecked, and the outer ring counts as background."
        )
    return found


def _sections(audit: Audit) -> list[Section]:
    leaves, classes = audit.leaves, audit.leaves.classes
    splits, own = np.array(leaves.column("split")), leaves.labels
    counts = {
        split: np.bincount(own[splits == split], minlength=len(classes)) for split in dict.fromkeys(splits.tolist())
    }
    spans = {"the whole leaf": (audit.accuracy.value, audit.accuracy.low, audit.accuracy.high)}
    spans |= {each.sees: (each.found.value, each.found.low, each.found.high) for each in audit.confounders}
    copies: list[Block] = [tables.copies_table(audit)] if audit.copies else []
    mistakes: list[Block] = [tables.mistakes_table(audit)] if len(audit.check.suspects) else []
    if panels := suspect_panels(audit):
        mistakes.append(panels)
    flagged: list[Block] = [measures_chart(_measures(audit))]
    if any(audit.flags):
        flagged.append(tables.photograph_table(audit))
    if panels := flagged_panels(audit):
        flagged.append(panels)
    return [
        Section("What to look at first", "", [tables.first_table(audit)]),
        Section("Likely label mistakes", MISTAKES_TEXT + ("" if mistakes else " None was found."), mistakes),
        Section("Background, camera and colour", CONFOUNDER_TEXT,
                [accuracy_chart(spans, audit.chance), tables.confounder_table(audit)]),
        Section("Near-duplicates", COPIES_TEXT + ("" if copies else " None was found."), copies),
        Section("Photographs", "", flagged),
        Section("Map of all leaves", MAP_TEXT, [leaf_map(audit)]),
        Section("Cultivars that look alike", PAIRS_TEXT, [tables.pairs_table(audit)]),
        Section("More leaves", GROWTH_TEXT + _gain_text(audit),
                [growth_chart(audit.growth, audit.chance), tables.growth_table(audit)]),
        Section("Cultivars and splits", _split_text(audit), [balance_chart(counts, classes)]),
        Section("Every cultivar", "", [tables.cultivar_table(audit)], collapsed=f"Show all {len(classes)} cultivars"),
    ]  # fmt: skip


def _measures(audit: Audit) -> dict[str, NDArray[np.float64]]:
    facts = {name: column.astype(float) for name, column in audit.leaves.facts.items() if name != "file_type"}
    return {
        "million pixels": facts["width"] * facts["height"] / 1e6,
        "kilobytes": facts["bytes"] / 1e3,
        "blur (0 sharp, 1 blurred)": facts["blur"],
        "light (L* of the leaf, 0 to 1)": facts["light"],
        "leaf's share of the photograph, %": 100 * facts["area"],
        "JPEG quality": facts["quality"],
    }


def _split_text(audit: Audit) -> str:
    parts = [f"{split} {percent(one.value)} ({interval(one)})" for split, one in audit.by_split.items()]
    return f"Correct out of fold, both splits in the folds together: {'; '.join(parts)}."


def _gain_text(audit: Audit) -> str:
    gain, points = audit.growth.last_gain, audit.growth.points
    if gain is None:
        return ""
    first, last = (f"{point.leaves:.3g}" for point in points[-2:])
    return f" From {first} to {last} leaves: {points_with_interval(gain)} points."


def leaf_map(audit: Audit) -> LeafMap:
    """The map of the leaves, with thumbnails where they do not make the page heavy."""
    leaves, chosen = audit.leaves, audit.chosen.tolist()
    ids, splits, cultivars = (leaves.column(name) for name in ("image_id", "split", "cultivar"))
    suspects = set(audit.check.suspects.tolist())
    texts = []
    for row in chosen:
        guess = f", suggested {leaves.classes[audit.check.suggested[row]]}" if row in suspects else ""
        texts.append(f"{cultivars[row]} ({splits[row]}): {ids[row]}{guess}")
    thumbnails = [leaves.thumbnails[row] for row in chosen] if len(chosen) <= THUMBNAILS_UP_TO else ()
    marked = np.array([row in suspects for row in chosen])
    part = "" if len(chosen) == len(leaves.index) else f", a random sample of {len(leaves.index)}"
    alt = f"Map of {len(chosen)} leaves{part} in two dimensions; {int(marked.sum())} are marked as likely label "
    alt += "mistakes. Their places are in leaves.csv."
    return LeafMap("map", "Map of all leaves", alt, leaves.classes, audit.places, leaves.labels[audit.chosen], texts,
                   marked, thumbnails)  # fmt: skip


def suspect_panels(audit: Audit) -> Panels | None:
    """The first suspects, each next to the most similar leaves of its label and of the suggested cultivar."""
    rows = audit.check.suspects[:SHOWN].tolist()
    if not rows:
        return None
    cultivars, ids, classes = audit.leaves.column("cultivar"), audit.leaves.column("image_id"), audit.leaves.classes
    images, marks = [], []
    for row in rows:
        near = audit.neighbours[row].tolist()
        images.append((_picture(audit, row), *(_picture(audit, place) for place in near)))
        guess = classes[audit.check.suggested[row]]
        marks.append((f"labelled {cultivars[row]}", cultivars[row] if near[0] >= 0 else "no other", guess))
    columns = ("suspect", "nearest of its label", "nearest of the suggested")
    captions = tuple(ids[row] for row in rows)
    alt = f"The {len(rows)} likeliest label mistakes with the most similar leaves"
    return Panels("suspects", "The likeliest label mistakes", alt, columns, captions, tuple(images), tuple(marks))


def flagged_panels(audit: Audit) -> Panels | None:
    """The first photographs with a flag."""
    rows = sorted((row for row, found in enumerate(audit.flags) if found), key=lambda row: -len(audit.flags[row]))
    if not rows:
        return None
    ids = audit.leaves.column("image_id")
    images = tuple((_picture(audit, row),) for row in rows[:SHOWN])
    marks = tuple((", ".join(audit.flags[row]),) for row in rows[:SHOWN])
    captions = tuple(ids[row] for row in rows[:SHOWN])
    return Panels("flagged", "Photographs with a flag", "Photographs with a flag", ("leaf",), captions, images, marks)


def _picture(audit: Audit, row: int) -> NDArray[np.uint8]:
    """The thumbnail of a leaf; a white pixel for -1."""
    if row < 0:
        return np.full((1, 1, 3), 255, np.uint8)
    with Image.open(io.BytesIO(audit.leaves.thumbnails[row])) as picture:
        return np.asarray(picture.convert("RGB"))
