"""A training run from settings to a saved model: its key, its folder, Ray Train, and the model at the end."""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.process import cpu_count, restore_signal_handlers, versions
from ufgvc.core.startup import mark, marks
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.cache import cache_folder
from ufgvc.data.dataset import Dataset, open_dataset, read_manifest
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.methods.weights import check_init, read_file
from ufgvc.models.calibration import calibration_of_checkpoint
from ufgvc.models.format import save_model
from ufgvc.regions.mask_results import check_masks, masks_found
from ufgvc.runtime.resources import alive_nodes
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run
from ufgvc.training.checkpoint import read_checkpoint, remove_orphans
from ufgvc.training.distributed import make_trainer
from ufgvc.training.loader import WorkerConfig
from ufgvc.training.overrides import apply_overrides
from ufgvc.training.preflight import (
    check_batch,
    check_cpus,
    check_crop,
    check_nodes_hold,
    check_places,
    choose_training_device,
)
from ufgvc.training.progress import Follower, read_metrics
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished run.  run, model: URIs of its folder and its model.

    metrics: the last epoch's row (the kept one's where epochs were chosen).

    found: whether an earlier run with the same settings was there already.
    """

    run: str
    model: str
    key: str
    metrics: Mapping[str, Any]
    run_id: str | None
    found: bool


def train(
    data: str,
    method: str,
    options: Mapping[str, Any],
    settings: TrainSettings,
    context: Context = Context(),
) -> TrainResult | list[TrainResult]:
    """Trains a method on an ingested data set; the same call finds its finished run, or goes on with the one that was cut off.

    A list of results, one a fold, for `validation: kfold`. UserError for settings that cannot work, with the remedy.
    """
    if settings.validation == "kfold" and settings.fold is None:
        folds = [settings.model_copy(update={"fold": fold}) for fold in range(settings.folds)]
        return [_train_one(data, method, options, fold, context) for fold in folds]
    return _train_one(data, method, options, settings, context)


def _train_one(
    data: str,
    method_name: str,
    options: Mapping[str, Any],
    settings: TrainSettings,
    context: Context,
) -> TrainResult:
    dataset = open_dataset(data)
    method = build(method_name, num_classes=len(dataset.classes), init="none", **options)
    masks = read_manifest(dataset, f"masks/{settings.mask}").fingerprint if method.regions else None
    check_init(settings.init)
    plan, identity = make_plan(dataset, method, settings, context.seed, masks, context.runs)
    store = open_store(plan.run)
    if context.fresh:
        store.delete_tree()
    elif store.exists("model/model.json"):
        return _found(store, identity["key"])
    if method.regions:
        check_masks(dataset, settings.mask)
    check_crop(method.name, plan.recipe["crop"], method.min_side)
    check_batch(plan.recipe["batch_size"], settings.workers, dataset.counts["train"])
    store.write_text("config.yaml", to_yaml(identity))
    run = start_run(
        context,
        experiment=dataset.name,
        name=f"{method_name}-{identity['key']}",
        params=identity,
        tags={
            "data": dataset.fingerprint,
            "masks": masks or "none",
            "step": "train",
            "method": method_name,
            "folder": store.uri,
        },
        store=store,
    )
    log.info("training %s on %s: run %s", method_name, dataset.name, store.uri)
    with finish_run_on_exit(run):
        with ray_session(context.ray, settings.workers if settings.device == "gpu" else 0):
            mark("settings and steps before")
            state = _fit(replace(plan, run_id=run.id, marks=marks()), settings, store, run, context.runs)
        metrics = save_trained(store, dataset, method, plan, identity, state, run)
    return TrainResult(store.uri, join(store.uri, "model"), identity["key"], metrics, run.id, found=False)


def make_plan(
    dataset: Dataset, method: Method, settings: TrainSettings, seed: int, masks: str | None, runs: str
) -> tuple[WorkerConfig, dict[str, Any]]:
    """What the workers are told, and everything that can change the result, with the key that names the run."""
    recipe = apply_overrides(method.recipe, settings)
    identity: dict[str, Any] = {
        "method": method.name,
        "options": dict(method.options),
        "seed": seed,
        "train": settings.result_affecting(),
        "recipe": recipe.model_dump(mode="json"),
        "data": dataset.fingerprint,
        "masks": masks,
    }
    if settings.init not in ("imagenet", "none"):
        identity["init_sha256"] = file_digest(settings.init)  # another file under the same name is another start
    identity["key"] = short_key(identity)
    plan = WorkerConfig(
        data=dataset.store.uri,
        run=join(open_store(runs).uri, dataset.name, method.name, identity["key"]),
        method=method.name,
        options=dict(method.options),
        init=settings.init,
        seed=seed,
        recipe=recipe.model_dump(mode="json"),
        mask_kind=settings.mask if method.regions else None,
        mask_fingerprint=masks,
        validation=settings.validation,
        holdout=settings.holdout,
        folds=settings.folds,
        fold=settings.fold or 0,
        precision=settings.precision,
        compile=settings.compile,
        sync_batchnorm=settings.sync_batchnorm,
        cache=settings.cache,
        cache_folder=str(cache_folder(runs)),
        checkpoint_seconds=settings.checkpoint_seconds,
        cores=cpu_count(),
    )
    return plan, identity


@functools.cache
def file_digest(uri: str) -> str:
    """SHA-256 of a file of weights. UserError if it is not there."""
    return hashlib.sha256(read_file(uri)).hexdigest()


def _fit(plan: WorkerConfig, settings: TrainSettings, store: Store, run: Run, runs: str) -> dict[str, Any]:
    """Ray Train from the last checkpoint to the end; the final checkpoint's content."""
    import ray

    from ufgvc.training.worker import train_worker

    resources, nodes = ray.cluster_resources(), alive_nodes()
    check_cpus(settings, resources.get("CPU", 0))
    check_nodes_hold(settings, choose_training_device(settings, resources.get("GPU", 0)), nodes)
    check_places({"--data": plan.data, "--runs": runs}, len(nodes))
    checkpoints = store.child("checkpoints")
    for name in remove_orphans(checkpoints):
        log.info("removed %s/%s, which a crash left half written", checkpoints.uri, name)
    trainer = make_trainer(train_worker, asdict(plan), settings, store, "checkpoints", settings.keep)

    def send(rows: list[dict[str, float]]) -> None:
        for row in rows:
            run.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"]))

    with Follower(store, Recipe.model_validate(plan.recipe).epochs, on_safe=send), restore_signal_handlers():
        result = trainer.fit()
    if result.checkpoint is None:
        raise RuntimeError(f"{store.uri}: training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        return read_checkpoint(Path(folder))


def save_trained(
    store: Store,
    dataset: Dataset,
    method: Method,
    plan: WorkerConfig,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    run: Run,
) -> dict[str, Any]:
    """Writes <run>/model: the last epoch's weights, or the best one's where epochs were chosen."""
    recipe = Recipe.model_validate(plan.recipe)
    best = state["best"]
    chosen = plan.validation != "last" and best is not None
    method.net.load_state_dict(best["net"] if chosen else state["net"])
    rows = state["history"]
    kept = dict(rows[best["epoch"] - 1] if chosen else rows[-1])
    fitted = calibration_of_checkpoint(best, plan.validation) if chosen else None
    found = masks_found(dataset, plan.mask_kind, plan.mask_fingerprint) if plan.mask_kind else None
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as temporary:
        folder = Path(temporary) / "model"
        save_model(
            folder,
            method,
            classes=dataset.classes,
            input={"resize": recipe.test_resize, "crop": recipe.crop},
            fingerprints={"data": dataset.fingerprint, "masks": plan.mask_fingerprint},
            metrics=kept,
            info={
                "dataset": dataset.name,
                "mask_kind": plan.mask_kind,
                "masks_found": found,
                "init": plan.init,
                "seed": plan.seed,
                "key": identity["key"],
                "run_id": run.id,
                "validation": plan.validation,
                "recipe": plan.recipe,
                "calibration": fitted.model_dump() if fitted else None,
                "versions": versions(),
            },
        )
        # model.json is what says that the run is finished, so it goes last.
        for path in sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.name == "model.json"):
            store.write_bytes(f"model/{path.relative_to(folder).as_posix()}", path.read_bytes())
        run.log_folder(folder, "model")
    return kept


def _found(store: Store, key: str) -> TrainResult:
    log.info("found the finished run %s", store.uri)
    info = store.read_json("model/model.json")
    rows = read_metrics(store)
    return TrainResult(
        store.uri,
        join(store.uri, "model"),
        key,
        info.get("metrics") or (rows[-1] if rows else {}),
        info.get("run_id"),
        found=True,
    )
