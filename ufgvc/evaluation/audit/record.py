"""The result of an audit, and how it is computed from the leaves that were read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset
from ufgvc.data.duplicates import find_duplicates
from ufgvc.data.splits import count_groups
from ufgvc.evaluation.audit import folds, growth, labels, layout
from ufgvc.evaluation.audit.confounders import Confounder, measure_confounders
from ufgvc.evaluation.audit.flags import Copies, describe_copies, flag_photographs
from ufgvc.evaluation.audit.intervals import accuracy
from ufgvc.evaluation.audit.leaves import Leaves
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.evaluation.bootstrap import Estimate

log = logging.getLogger(__name__)
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Audit:
    """What an audit of N leaves has found.

    name: of the data set.  units: (N,) ids of what folds keep together.  copies: of one photograph.  flags: N lists of
    what is wrong with the photograph.  named: out of fold.  accuracy: of it, and by_split.  neighbours: (N,) the most
    similar other leaf with the given label, and with the suggested one, (N, 2), -1 for none.  distances: (N,) to the
    nearest leaves.  chosen, places: of `lay_out`.
    kept: share of the embedding's variance in its components.  strength: median C of the classifiers.
    learned_from: the split whose leaves the network was trained on; None for a frozen network.
    """

    name: str
    leaves: Leaves
    units: Ints
    copies: list[Copies]
    flags: list[list[str]]
    confounders: list[Confounder]
    named: folds.OutOfFold
    accuracy: Estimate
    by_split: dict[str, Estimate]
    check: labels.LabelCheck
    distances: Floats
    neighbours: Ints
    pairs: list[labels.Pair]
    growth: growth.Growth
    chosen: Ints
    places: Floats
    kept: float
    strength: float
    learned_from: str | None
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the commonest cultivar, on the leaves that were held out."""
        held = self.leaves.labels[self.named.held]
        return float(np.bincount(held).max() / len(held))

    @property
    def has_groups(self) -> bool:
        """Whether the data set says which plant (or photograph) any leaf comes from."""
        return any(group is not None for group in self.leaves.column("group"))

    def harmful_copies(self) -> list[Copies]:
        """Copies in both splits or under several cultivars."""
        return [each for each in self.copies if len(each.splits) > 1 or len(each.cultivars) > 1]

    def to_look_at(self) -> list[int]:
        """Rows of all leaves with a flag, a likely label mistake, or a harmful copy."""
        rows = {row for row, flags in enumerate(self.flags) if flags} | set(self.check.suspects.tolist())
        return sorted(rows | {row for each in self.harmful_copies() for row in each.rows})


def check_auditable(dataset: Dataset, own: Ints, groups: list[str | None]) -> None:
    """UserError for fewer than two cultivars, and if no two cultivars have two leaves (or plants) each."""
    if len(np.unique(own)) < 2:
        what = f"has leaves of {len(np.unique(own))} cultivar, and an audit compares cultivars"
        raise UserError(what, where=dataset.store.uri, fix="ingest leaves of at least two cultivars")
    if (count_groups(own, groups, len(dataset.classes)) > 1).sum() < 2:
        of = "leaf" if groups.count(None) == len(groups) else "plant (group)"
        what = f"fewer than two cultivars have more than one {of}, so no label can be checked by other leaves"
        raise UserError(what, where=dataset.store.uri, fix="ingest at least two photographs of each cultivar")


def audit_leaves(
    name: str, leaves: Leaves, settings: AuditSettings, seed: int = 0, learned_from: str | None = None
) -> Audit:
    """Audits leaves that were read.  learned_from: see `Audit`. No result depends on the split, but `by_split`.

    UserError if, copies of one photograph counted once, too few leaves are left to hold any out.
    """
    own = leaves.labels
    groups = find_duplicates(leaves.signatures, leaves.column("sha256"))
    units = folds.find_units(leaves.column("group"), groups)
    parts = list(folds.partitions(own, units, settings.folds, settings.repeats, seed))
    log.info("audit: %d leaves of %d units, %d groups of copies", len(own), len(np.unique(units)), len(groups))
    features, kept = folds.rotate(leaves.embedding, seed)
    choose = folds.ChosenLinear(seed, [])
    named = folds.predict_out_of_fold(features, own, parts, units, choose)
    if not named.held.any():
        what = "without copies of the same photograph no cultivar has two leaves (or plants)"
        raise UserError(what, where=name, fix="ingest at least two photographs of each cultivar")
    strength = float(np.median(choose.chosen))
    log.info("audit: named out of fold; now what a classifier sees without the leaf")
    distances, unlike = labels.neighbour_distances(features)
    check = labels.check_labels(named, own)
    confounders = measure_confounders(leaves, parts, units, seed)
    log.info("audit: confounders are measured; now the learning curve and the map")
    curve = growth.grow(features, own, parts, units, folds.linear_fit(strength), seed)
    chosen, places = layout.lay_out(features, seed)
    splits, held = np.array(leaves.column("split")), named.held
    by_split = {
        split: accuracy(named.right[held & (splits == split)], units[held & (splits == split)])
        for split in dict.fromkeys(splits.tolist())
        if (held & (splits == split)).any()
    }
    return Audit(
        name=name,
        leaves=leaves,
        units=units,
        copies=describe_copies(leaves, groups),
        flags=flag_photographs(leaves, unlike),
        confounders=confounders,
        named=named,
        accuracy=accuracy(named.right[held], units[held]),
        by_split=by_split,
        check=check,
        distances=distances,
        neighbours=_find_neighbours(features, own, check, units),
        pairs=labels.compare_pairs(named, own, units),
        growth=curve,
        chosen=chosen,
        places=places,
        kept=kept,
        strength=strength,
        learned_from=learned_from,
    )


def _find_neighbours(features: Floats, own: Ints, check: labels.LabelCheck, units: Ints) -> Ints:
    """(N, 2) the nearest leaf (by cosine) of another unit with the given label, and with the suggested one.

    Only of the suspects; -1 elsewhere, and where there is none.
    """
    found = np.full((len(own), 2), -1)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    for row in check.suspects:
        near = unit @ unit[row]
        for place, label in enumerate((own[row], check.suggested[row])):
            allowed = (own == label) & (units != units[row])
            if allowed.any():
                found[row, place] = int(np.where(allowed, near, -np.inf).argmax())
    return found
