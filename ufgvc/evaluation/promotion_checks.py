"""Checks before a promotion: what blocks a fair comparison of challenger and champion, and caveats that do not block
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.provenance import class_mismatch, data_fingerprint, short, validation_of
from ufgvc.models.model import LoadedModel
from ufgvc.tracking.versions import Version


def blockers(dataset: Dataset, versions: Mapping[str, Version], models: Mapping[str, LoadedModel | None]) -> list[str]:
    """Reasons not to decide without --force; [] if the comparison is fair.

    versions, models: by role, "challenger" and, if there is one, "champion".  A model is None if it cannot be loaded.
    """
    found = []
    for role, version in versions.items():
        reason = _mismatch(dataset, models[role])
        if reason:
            found.append(f"the {role} (version {version.number}) {reason}")
    challenger, champion = models["challenger"], models.get("champion")
    if challenger and champion and _selected_on_test(challenger) and not _selected_on_test(champion):
        number = versions["challenger"].number
        found.append(
            f"the epoch of the challenger (version {number}) was selected on these test leaves, that of the champion "
            "was not"
        )
    return found


def _mismatch(dataset: Dataset, model: LoadedModel | None) -> str | None:
    if model is None:
        return "cannot be loaded"
    trained_on = data_fingerprint(model)
    data = f"was trained on data {short(trained_on)}, this is {short(dataset.fingerprint)}"
    classes = class_mismatch(dataset, model)
    if classes:
        return f"{classes} (it {data})"
    if trained_on != dataset.fingerprint:
        return f"{data}: these test leaves may be among its training leaves"
    return None


def fix_for(dataset: Dataset) -> str:
    """What to do about blockers."""
    again = f"train and evaluate both on the current {dataset.store.uri}"
    return f"{again}, give the --data that they were trained on, or overrule this with --force"


def caveats(
    dataset: Dataset, versions: Mapping[str, Version], challenger: LoadedModel | None, registered: Sequence[Any]
) -> list[str]:
    """Caveats that do not block promotion.  registered: all versions of the model, as MLflow has them."""
    found = []
    if challenger and _selected_on_test(challenger):
        found.append("the challenger's epoch was selected on these test leaves, so its accuracy is too high")
    compared = {version.number for version in versions.values()}
    earlier = [
        one
        for one in registered
        if one.tags.get("promotion_data") == dataset.fingerprint and str(one.version) not in compared
    ]
    if earlier:
        count = f"{len(earlier)} other challenger{'s were' if len(earlier) > 1 else ' was'}"
        found.append(
            f"{count} compared on these same test leaves before: with each, it becomes likelier that one wins by chance"
        )
    return found


def _selected_on_test(model: LoadedModel) -> bool:
    return validation_of(model, {}) == "test"
