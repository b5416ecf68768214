"""What speaks against comparing the challenger with the champion on these test leaves, and what a reader must know besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.evaluate import other_cultivars
from ufgvc.evaluation.promotion import short
from ufgvc.evaluation.provenance import selection_of, trained_on
from ufgvc.models.model import LoadedModel
from ufgvc.tracking.versions import Version


def blockers(dataset: Dataset, versions: Mapping[str, Version], models: Mapping[str, LoadedModel | None]) -> list[str]:
    """Reasons not to decide without --force; [] if the comparison is fair. Both by role: challenger, and champion if there is one.

    A model is None where its files cannot be read.
    """
    found = []
    for role, version in versions.items():
        told = _against(dataset, models[role])
        if told:
            found.append(f"the {role} (version {version.number}) {told}")
    challenger, champion = models["challenger"], models.get("champion")
    if challenger and champion and _on_test(challenger) and not _on_test(champion):
        number = versions["challenger"].number
        found.append(
            f"the epoch of the challenger (version {number}) was chosen on these test leaves, that of the champion was not"
        )
    return found


def _against(dataset: Dataset, model: LoadedModel | None) -> str | None:
    if model is None:
        return "cannot be loaded"
    data = f"was trained on data {short(trained_on(model))}, this is {short(dataset.fingerprint)}"
    other = other_cultivars(dataset, model)
    if other:
        return f"{other} (it {data})"
    return (
        f"{data}: these test leaves may be among its training leaves"
        if trained_on(model) != dataset.fingerprint
        else None
    )


def remedy(dataset: Dataset) -> str:
    again = f"train and evaluate both on {dataset.store.uri} as it is now"
    return f"{again}, give the --data that they were trained on, or decide all the same with --force"


def caveats(
    dataset: Dataset, versions: Mapping[str, Version], challenger: LoadedModel | None, registered: Sequence[Any]
) -> list[str]:
    """What does not hinder the decision and weakens it.  registered: all versions of the model, as MLflow has them."""
    found = []
    if challenger and _on_test(challenger):
        found.append("the challenger's epoch was chosen on these very test leaves, so its accuracy is too high")
    ours = {version.number for version in versions.values()}
    before = [
        one
        for one in registered
        if one.tags.get("promotion_data") == dataset.fingerprint and str(one.version) not in ours
    ]
    if before:
        told = f"{len(before)} other challenger{'s were' if len(before) > 1 else ' was'} decided on these same test leaves before"
        found.append(f"{told}: the more are tried, the likelier it is that one wins by luck")
    return found


def _on_test(model: LoadedModel) -> bool:
    return selection_of(model, {}) == "test"
