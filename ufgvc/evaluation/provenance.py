"""Provenance of an evaluation: run, data, initial weights, how the epoch was selected, and warnings about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ufgvc.core.config import flatten
from ufgvc.core.process import git_commit
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import DATASET_FILE, Dataset
from ufgvc.models.model import LoadedModel
from ufgvc.regions.mask_results import MIN_FOUND
from ufgvc.training.metrics_file import read_metrics

UNKNOWN = "unknown"
VALIDATION = {
    "last": "none; the last epoch was taken",
    "holdout": "leaves held out of the training split",
    "kfold": "a fold of the training split (cross-validation)",
    "test": "the test leaves (the protocol of the paper)",
}


def run_store(model_uri: str) -> Store | None:
    """The run folder of a model at <run>/model; None for every other address."""
    if model_uri.startswith(("models:", "runs:")):
        return None
    store = open_store(model_uri)
    folder, _, name = store.uri.rstrip("/").rpartition("/")
    run = open_store(folder) if name == "model" else None
    return run if run is not None and run.exists("config.yaml") else None


def run_config(run: Store | None) -> dict[str, Any]:
    """The run's config.yaml, flattened; {} without a run."""
    if run is None:
        return {}
    loaded = yaml.safe_load(run.read_text("config.yaml"))
    return flatten(loaded) if isinstance(loaded, Mapping) else {}


def history(run: Store | None) -> list[dict[str, float]]:
    """The rows of the run's metrics.jsonl; [] if there is none."""
    return read_metrics(run) if run is not None else []


def validation_of(model: LoadedModel, config: Mapping[str, Any]) -> str | None:
    """How the epoch was selected: last, holdout, kfold or test; None if neither model.json nor the configuration says.

    config: of the run, as `run_config` returns it.
    """
    return model.info.get("validation") or config.get("train.validation")


def class_mismatch(dataset: Dataset, model: LoadedModel) -> str | None:
    """How the classes of the model differ from those of the data set; None if they are the same in the same order."""
    if tuple(model.classes) == dataset.classes:
        return None
    known, wanted = set(model.classes), set(dataset.classes)
    sides = (("only the model has", sorted(known - wanted)[:3]), ("only the data set has", sorted(wanted - known)[:3]))
    examples = "; ".join(f"{text} {', '.join(names)}" for text, names in sides if names)
    counts = f"has {len(known)} cultivars, the data set {dataset.name} has {len(wanted)}"
    return f"{counts}: {examples or 'the same in another order'}"


def short(fingerprint: str | None) -> str:
    """The start of a fingerprint, for messages."""
    return fingerprint[:12] if fingerprint else "unknown"


def data_fingerprint(model: LoadedModel) -> str | None:
    """The fingerprint of the images that the model was trained on; None if model.json does not have it."""
    return (model.info.get("fingerprints") or {}).get("data")


def warnings(
    dataset: Dataset, models: Mapping[str, LoadedModel], configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Warnings about the numbers of the models.

    models, configs (from `run_config`): by the names that the report uses.
    """
    found = []
    for name, model in models.items():
        fingerprint = data_fingerprint(model)
        if fingerprint is None:
            what = "model.json does not say which photographs it was trained on; test leaves may be among them."
            found.append(f"{name}: {what}")
        elif fingerprint != dataset.fingerprint:
            what = "trained on another version of the data set; test leaves may be among its training leaves."
            found.append(f"{name}: {what}")
        if validation_of(model, configs.get(name, {})) == "test":
            what = "selected on test. The epoch was selected on these test leaves, so the accuracy is too high."
            found.append(f"{name}: {what}")
        masks = model.info.get("masks_found")
        if masks and masks["leaves"] < MIN_FOUND * masks["of"]:
            what = f"only {masks['leaves']} of {masks['of']} training leaves have masks of every region; "
            found.append(f"{name}: {what}the masks guided the others less, or not at all.")
    return found


def facts(dataset: Dataset, model: LoadedModel, model_uri: str, config: Mapping[str, Any]) -> dict[str, str]:
    """{name: text} of everything that made the numbers, for the end of the page and the model card.

    config: of the run, from `run_config`; {} without a run.
    """
    description = dataset.store.read_json(DATASET_FILE)
    options = {**model.method.options}
    init = model.info.get("init") or config.get("train.init") or options.pop("init", None)
    validation = validation_of(model, config)
    seed = config.get("seed", model.info.get("seed"))
    counts = ", ".join(f"{n} {split}" for split, n in dataset.counts.items())
    one_seed = f"{seed}; one seed, so the interval does not cover the variation between seeds"
    rows = {
        "Data set": f"{dataset.name}: {counts} photographs at {dataset.store.uri}",
        "Photographs from": str(description.get("source") or ""),
        "Fingerprint": dataset.fingerprint,
        "Model": model_uri,
        "Method": model.method.name,
        "Options": _join(flatten(options)),
        "Masks": _describe_masks(model.info),
        "Initial weights": {None: UNKNOWN, "none": "none (random)"}.get(init, str(init)),
        "Epoch selected on": VALIDATION.get(validation or "", validation or UNKNOWN),
        "Seed": one_seed if seed is not None else UNKNOWN,
        "Budget": _describe_budget(config, model.info.get("recipe") or {}),
        "Input": _join(model.input),
        "Trained with": _join(model.info.get("versions") or {}),
        "Code": git_commit() or "",
    }
    return {name: text for name, text in rows.items() if text}


def _join(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _describe_masks(info: Mapping[str, Any]) -> str:
    """The kind of masks, and for how many leaves there are any; empty for a method without masks."""
    kind, found = info.get("mask_kind"), info.get("masks_found")
    if not kind:
        return ""
    count = f"every region on {found['leaves']} of {found['of']} training leaves" if found else "coverage unknown"
    return f"{kind}; {count}"


def _describe_budget(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    epochs = sum(stage["epochs"] for stage in recipe.get("stages", ())) or config.get("train.epochs")
    batch_size = recipe.get("batch_size") or config.get("train.batch_size")
    return _join({"epochs": epochs, "batch size": batch_size, "workers": config.get("train.workers")})
