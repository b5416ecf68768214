"""An evaluated model becomes a version of the registry: the challenger, with its figures as tags and its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ufgvc.core.config import short_key
from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.model_card import SeedScore, decisions, model_card
from ufgvc.evaluation.provenance import run_store
from ufgvc.models.model import LoadedModel
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import list_versions, model_name, register
from ufgvc.tracking.settings import resolve
from ufgvc.tracking.versions import find_version, read_card, write_version


def register_version(
    model_uri: str,
    model: LoadedModel,
    dataset: Dataset,
    metrics: Mapping[str, Any],
    facts: Mapping[str, str],
    context: Context,
) -> str | None:
    """Files the model as `challenger` and returns its version; None without tracking or for a model outside any run.

    metrics: metrics.json of the evaluation, the model itself first.  facts: what the card tells of how the figures were made.
    """
    in_a_run = model_uri.startswith(("runs:", "models:")) or run_store(model_uri) is not None
    if not in_a_run or resolve(context.tracking, context.runs) is None:
        return None
    name = model_name(dataset.name)
    first = next(iter(metrics["models"].values()))
    accuracy = first["accuracy"]
    tags = {
        "accuracy": f"{accuracy['k']}/{accuracy['n']}",
        "accuracy_low": f"{accuracy['low']:.4f}",
        "accuracy_high": f"{accuracy['high']:.4f}",
        "balanced_accuracy": f"{first['balanced_accuracy']:.4f}",
        "data_fingerprint": dataset.fingerprint,
        "setting": setting_key(model.info),
        "seed": str(model.info.get("seed", "")),
    }
    card = model_card(model.info, metrics, facts, seed_scores(list_versions(name, context), tags))
    number = register(model_uri, name, tags, context)
    if number is None:
        return None
    version = find_version(f"models:/{name}/{number}", name, context)
    write_version(version, {}, card.of(name, number, decisions(read_card(version, context))), context)
    return number


def setting_key(info: Mapping[str, Any]) -> str:
    """What trainings that differ in nothing but their seed have in common."""
    return short_key(
        [
            info.get(key)
            for key in ("method", "options", "input", "recipe", "init", "mask_kind", "validation", "fingerprints")
        ]
    )


def seed_scores(versions: list[Any], tags: Mapping[str, str]) -> list[SeedScore]:
    """One score a seed, the newest version's, of the version with these tags and of those with its setting on its data; by seed.

    versions: registered before it, newest first.
    """
    if not tags["seed"]:
        return []
    found: dict[str, SeedScore] = {}
    for told in (tags, *(version.tags for version in versions)):
        if all(told.get(key) == tags[key] for key in ("setting", "data_fingerprint")):
            k, _, n = told["accuracy"].partition("/")
            found.setdefault(told["seed"], SeedScore(told["seed"], int(k), int(n)))
    return [found[seed] for seed in sorted(found, key=int)]
