"""The model that a training leaves: the weights of the chosen epoch, with all that says how they came about."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ufgvc.core.process import versions
from ufgvc.core.storage import Store
from ufgvc.data.dataset import Dataset
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.models.calibration import calibration_of_checkpoint, calibration_of_fit
from ufgvc.models.format import save_model
from ufgvc.regions.mask_results import masks_found
from ufgvc.runtime.resources import choose_device
from ufgvc.tracking.runs import Run
from ufgvc.training.collect_leaves import collect_leaves, count_classes
from ufgvc.training.settings import WorkerConfig


def save_trained(
    store: Store,
    dataset: Dataset,
    method: Method,
    config: WorkerConfig,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    run: Run,
    neighbours: bool = False,
) -> dict[str, Any]:
    """Writes <run>/model with the last epoch's weights, or with those of the best epoch if there is a validation.

    state: of the last checkpoint.  neighbours: whether the model carries training leaves.
    Returns the metrics of the saved epoch.
    """
    recipe, best, rows = Recipe.model_validate(config.recipe), state["best"], state["history"]
    validation = config.train.validation
    select_best = validation != "last" and best is not None
    method.net.load_state_dict(best["net"] if select_best else state["net"])
    metrics = dict(rows[best["epoch"] - 1] if select_best else rows[-1])
    calibration = (calibration_of_checkpoint(best, validation) if select_best else None) or calibration_of_fit(metrics)
    leaves = None
    if neighbours:
        device = choose_device("cpu" if config.train.device == "cpu" else "auto")
        leaves = collect_leaves(replace(method, recipe=recipe), dataset, config, device)
    found = masks_found(dataset, config.mask_kind, config.mask_fingerprint) if config.mask_kind else None
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as temporary:
        folder = Path(temporary) / "model"
        save_model(
            folder,
            method,
            classes=dataset.classes,
            input={"resize": recipe.eval_resize, "crop": recipe.crop},
            fingerprints={"data": dataset.fingerprint, "masks": config.mask_fingerprint},
            metrics=metrics,
            info={
                "dataset": dataset.name,
                "class_counts": count_classes(dataset, config.split),
                "mask_kind": config.mask_kind,
                "masks_found": found,
                "init": config.train.init,
                "seed": config.seed,
                "key": identity["key"],
                "run_id": run.id,
                "validation": validation,
                "recipe": config.recipe,
                "calibration": calibration.model_dump() if calibration else None,
                "versions": versions(),
            },
            leaves=leaves,
        )
        run.log_folder(folder, "model")  # first: a run that was interrupted meanwhile sends it again
        # model.json goes last, because it marks the run as finished.
        for path in sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.name == "model.json"):
            store.write_bytes(f"model/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return metrics
