"""A training run: its key and folder, and the training. One worker without a cluster needs no Ray."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count, restore_signal_handlers
from ufgvc.core.startup import mark, marks
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.cache import CACHE, cache_folder
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.data.splits import HeldFold
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.methods.weights import check_init, read_file
from ufgvc.regions.mask_results import check_masks
from ufgvc.runtime.resources import alive_nodes
from ufgvc.runtime.session import ray_session, uses_cluster
from ufgvc.tracking.background import open_in_background
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run
from ufgvc.training.checkpoint import remove_orphans
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.preflight import (
    check_batch,
    check_cpus,
    check_crop,
    check_head,
    check_nodes_hold,
    check_places,
    check_weights,
    choose_training_device,
)
from ufgvc.training.progress import Follower
from ufgvc.training.regions import mask_fingerprint, use_regions
from ufgvc.training.saved_model import save_trained
from ufgvc.training.settings import TrainSettings, WorkerConfig, apply_overrides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    run, model: URIs of its folder and its model.  key: of the settings.  run_id: of MLflow, None without tracking.
    metrics: metrics of the epoch whose weights were saved.  validation: how that epoch was selected (`TrainSettings`).
    found: whether the run was finished before this call.
    """

    run: str
    model: str
    key: str
    metrics: Mapping[str, Any]
    validation: str
    run_id: str | None
    found: bool


def train(
    data: str,
    method: str = "mask_guided",
    options: Mapping[str, Any] | None = None,
    settings: TrainSettings | None = None,
    context: Context = Context(),
) -> TrainResult:
    """Trains a method on an ingested data set. A finished run with the same settings is returned, an interrupted one
    resumed. One worker trains in this process unless there is a cluster, others with Ray Train.

    data: URI of the data set.  method, options: see `ufgvc.methods.build`.
    UserError for settings that cannot work, and for `validation: kfold` without `fold` (see `train_folds`).
    """
    settings = settings or TrainSettings()
    if settings.validation == "kfold" and settings.fold is None:
        raise UserError("k-fold validation trains several models", where="train.fold", fix="give one fold, e.g. 0")
    dataset = open_dataset(data)
    options = use_regions(method, options or {}, dataset.regions)
    built = build(method, num_classes=len(dataset.classes), init="none", **options)
    masks = mask_fingerprint(dataset, built, settings.mask_kind)
    check_init(settings.init, built.options.get("backbone"))
    config, identity = make_worker_config(dataset, built, settings, context.seed, masks, context.runs)
    store = open_store(config.run)
    if context.fresh:
        store.delete_tree()
    elif store.exists("model/model.json"):
        return _finished_run(store, identity["key"])
    if built.regions:
        check_masks(dataset, settings.mask_kind)
    check_crop(method, config.recipe["crop"], built.min_side)
    check_batch(config.recipe["batch_size"], settings.workers, dataset.counts["train"])
    if settings.init == "imagenet" and not store.exists("progress.json"):  # a checkpoint has weights
        check_weights(method, built.options, settings.init, context.ray)
    store.write_text("config.yaml", to_yaml(identity))
    tags = {
        "data": dataset.fingerprint,
        "masks": masks or "none",
        "step": "train",
        "method": method,
        "folder": store.uri,
    }
    name = f"{method}-{identity['key']}"
    run = open_in_background(
        start_run(context, dataset.name, name, params=identity, tags=tags, store=store, connect_now=False)
    )
    log.info("training %s on %s: run %s", method, dataset.name, store.uri)
    with finish_run_on_exit(run):
        if settings.workers == 1 and not uses_cluster(context.ray):
            device = torch.device(choose_training_device(settings))
            mark("setup")
            with _follow(config, store, run, polls=False) as follower:
                state = train_in_process(replace(config, marks=marks()), device, follower.update)
        else:
            with ray_session(context.ray, settings.workers if settings.device == "gpu" else 0):
                mark("setup")
                state = _fit(config, store, run, context.runs)
        metrics = save_trained(store, dataset, built, config, identity, state, run, settings.neighbours)
    model = join(store.uri, "model")
    return TrainResult(store.uri, model, identity["key"], metrics, settings.validation, run.id, found=False)


def train_folds(
    data: str, method: str, options: Mapping[str, Any], settings: TrainSettings, context: Context = Context()
) -> list[TrainResult]:
    """Trains all folds of `validation: kfold`, one after another. Parameters as of `train`."""
    folds = [settings.model_copy(update={"fold": fold}) for fold in range(settings.folds)]
    return [train(data, method, options, fold, context) for fold in folds]


def make_worker_config(
    dataset: Dataset,
    method: Method,
    settings: TrainSettings,
    seed: int,
    masks: str | None,
    runs: str,
    held_fold: HeldFold | None = None,
) -> tuple[WorkerConfig, dict[str, Any]]:
    """The configuration of the workers, and the run's identity: all that can change the result, and its "key".

    masks: fingerprint of the masks; None for methods without masks.  runs: URI of the folder of all runs.
    held_fold: see `WorkerConfig`.
    """
    if settings.head == "probe":
        check_head(method)
    recipe = apply_overrides(method.recipe, settings, method.whole_leaf)
    identity: dict[str, Any] = {
        "method": method.name,
        "options": dict(method.options),
        "seed": seed,
        "train": settings.result_affecting(),
        "recipe": recipe.model_dump(mode="json"),
        "data": dataset.fingerprint,
        "masks": masks,
    }
    if held_fold is not None:
        identity["held_fold"] = asdict(held_fold)
    if settings.init not in ("imagenet", "none"):
        identity["init_sha256"] = file_digest(settings.init)  # the content counts, not the file's name
    identity["key"] = short_key(identity)
    config = WorkerConfig(
        data=dataset.store.uri,
        run=join(open_store(runs).uri, dataset.name, method.name, identity["key"]),
        method=method.name,
        options=dict(method.options),
        seed=seed,
        recipe=recipe.model_dump(mode="json"),
        train=settings,
        mask_kind=settings.mask_kind if method.regions else None,
        mask_fingerprint=masks,
        cache_folder=str(cache_folder(runs)),
        cores=cpu_count(),
        held_fold=held_fold,
        embeddings=join(open_store(runs).uri, CACHE),
    )
    return config, identity


@functools.cache
def file_digest(uri: str) -> str:
    """SHA-256 of a weight file. UserError if it cannot be read."""
    return hashlib.sha256(read_file(uri)).hexdigest()


def _fit(config: WorkerConfig, store: Store, run: Run, runs: str) -> dict[str, Any]:
    """Checks the cluster, embeds the images for a fitted classifier, then trains with Ray Train. Returns the state of
    the last checkpoint. Needs a Ray session.
    """
    import ray

    from ufgvc.training.distributed import fit
    from ufgvc.training.embedding_pool import embed_split

    settings, resources, nodes = config.train, ray.cluster_resources(), alive_nodes()
    check_cpus(settings, resources.get("CPU", 0))
    check_nodes_hold(settings, choose_training_device(settings, resources.get("GPU", 0)), nodes)
    check_places({"--data": config.data, "--runs": runs}, len(nodes))
    checkpoints = store.child("checkpoints")
    for name in remove_orphans(checkpoints):
        log.info("removed %s/%s, an incomplete checkpoint of a run that crashed", checkpoints.uri, name)

    if embed_split(config):
        mark("embeddings")
    with _follow(config, store, run), restore_signal_handlers():
        return fit(replace(config, marks=marks()), store, settings.keep_checkpoints)


def _follow(config: WorkerConfig, store: Store, run: Run, polls: bool = True) -> Follower:
    """Shows the epochs, and logs those that a checkpoint covers."""

    def log_rows(rows: list[dict[str, float]]) -> None:
        run.log_steps(
            {int(row["epoch"]): {name: value for name, value in row.items() if name != "epoch"} for row in rows}
        )

    return Follower(store, Recipe.model_validate(config.recipe).epochs, log_rows, polls)


def _finished_run(store: Store, key: str) -> TrainResult:
    """The result of a run that an earlier call finished."""
    log.info("found the finished run %s", store.uri)
    info = store.read_json("model/model.json")
    rows = read_metrics(store)
    metrics = info.get("metrics") or (rows[-1] if rows else {})
    model = join(store.uri, "model")
    return TrainResult(store.uri, model, key, metrics, info.get("validation", "last"), info.get("run_id"), found=True)
