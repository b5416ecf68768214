"""What made a number: the run, the data, the initial weights, how the epoch was chosen, and what a reader must beware of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from ufgvc.core.config import flatten
from ufgvc.core.process import git_commit
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import DATASET_FILE, Dataset
from ufgvc.models.model import LoadedModel
from ufgvc.regions.mask_results import MIN_FOUND

SELECTION = {
    "last": "last epoch; no selection",
    "holdout": "best epoch on leaves held out of the training split",
    "kfold": "cross-validation inside the training split",
    "test": "best epoch on the test leaves themselves (the paper's protocol)",
}


def run_store(model_uri: str) -> Store | None:
    """The run folder that a model of the form <run>/model lies in; None for every other address."""
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
    """The records of the run's metrics.jsonl; [] if there is none."""
    if run is None or not run.exists("metrics.jsonl"):
        return []
    return [json.loads(line) for line in run.read_text("metrics.jsonl").splitlines() if line.strip()]


def selection_of(model: LoadedModel, config: Mapping[str, Any]) -> str | None:
    """How the epoch was selected: last, holdout, kfold or test; None if it is not recorded.

    Models of format 1 have it as text in their metrics.
    """
    if validation := model.info.get("validation"):
        return str(validation)
    text = str((model.info.get("metrics") or {}).get("selection") or "")
    known = {"selected on test": "test", "last epoch": "last"}.get(text) or text.removeprefix("best on ")
    return known or config.get("train.validation")


def trained_on(model: LoadedModel) -> str | None:
    """The fingerprint of the images that the model was trained on."""
    return model.info.get("data") or (model.info.get("fingerprints") or {}).get("data")


def warnings(
    dataset: Dataset, models: Mapping[str, LoadedModel], configs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    for name, model in models.items():
        fingerprint = trained_on(model)
        if fingerprint is None:
            found.append(
                f"{name}: the model does not tell which photographs it was trained on; test leaves may be among them."
            )
        elif fingerprint != dataset.fingerprint:
            found.append(
                f"{name}: trained on another state of the data set than this one; test leaves may be among its training leaves."
            )
        if selection_of(model, configs.get(name, {})) == "test":
            found.append(
                f"{name}: selected on test. The epoch was chosen on these very leaves, so the accuracy is too high."
            )
        masks = model.info.get("masks_found")
        if masks and masks["leaves"] < MIN_FOUND * masks["of"]:
            found.append(
                f"{name}: every region was found on {masks['leaves']} of {masks['of']} training leaves only; the masks guided the rest "
                "less, or not at all."
            )
    return found


def facts(dataset: Dataset, model: LoadedModel, model_uri: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Name and value of everything that made the number, for the end of the page."""
    described = dataset.store.read_json(DATASET_FILE)
    options = {**model.method.options}
    init = model.info.get("init") or config.get("train.init") or options.pop("init", None)
    selection = selection_of(model, config)
    seed = config.get("seed", model.info.get("seed"))
    size = model.input
    counts = ", ".join(f"{n} {split}" for split, n in dataset.counts.items())
    rows = {
        "Data set": f"{dataset.name}: {counts} photographs at {dataset.store.uri}",
        "Photographs from": str(described.get("source") or ""),
        "Fingerprint": dataset.fingerprint,
        "Model": model_uri,
        "Method": model.method.name,
        "Options": ", ".join(f"{key} {value}" for key, value in flatten(options).items()),
        "Masks": _masks(model.info),
        "Initial weights": _plain(init),
        "Epoch chosen by": SELECTION.get(selection or "", selection or "not written down"),
        "Seed": f"{seed}; one seed, so the spread between runs is not in the interval"
        if seed is not None
        else "not written down",
        "Budget": _budget(config, model.info.get("recipe") or {}),
        "Input": ", ".join(f"{key} {value}" for key, value in size.items() if value is not None),
        "Trained with": ", ".join(f"{key} {value}" for key, value in (model.info.get("versions") or {}).items()),
        "Code": git_commit() or "",
    }
    return {name: text for name, text in rows.items() if text}


def _masks(info: Mapping[str, Any]) -> str:
    """Which masks guided the training, and how much they showed; empty for a method without masks."""
    kind, found = info.get("mask_kind"), info.get("masks_found")
    if not kind:
        return ""
    return f"{kind}; " + (
        f"every region on {found['leaves']} of {found['of']} training leaves"
        if found
        else "not written down what they show"
    )


def _plain(init: Any) -> str:
    if init is None:
        return "not written down"
    return "none (random)" if init == "none" else str(init)


def _budget(config: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    epochs = sum(stage["epochs"] for stage in recipe.get("stages", ())) or config.get("train.epochs")
    batch = recipe.get("batch_size") or config.get("train.batch_size")
    parts = (("epochs", epochs), ("batch size", batch), ("workers", config.get("train.workers")))
    return ", ".join(f"{name} {value}" for name, value in parts if value is not None)
