"""Checks before a training starts: settings that would only fail or hang later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.weights import check_init
from ufgvc.runtime.resources import TorchDevice, choose_device, count_slots, describe_nodes, describe_resources
from ufgvc.runtime.session import RaySettings, cluster_address
from ufgvc.training.settings import TrainSettings


def choose_training_device(settings: TrainSettings, gpus: float | None = None) -> TorchDevice:
    """The device of each worker. UserError if GPUs are used and there are too few.

    gpus: of the cluster; None: the only worker is this process.
    """
    fix = f"use `--train.workers {int(gpus)}`" if gpus else "use `--train.device cpu`"
    return choose_device(settings.device, gpus, settings.workers, where="--train.device", fix=fix)


def check_cpus(settings: TrainSettings, cpus: float) -> None:
    """UserError unless the workers leave a CPU slot for Ray Data, which would wait forever.  cpus: of the cluster."""
    wanted = settings.workers * settings.cpus_per_worker
    if wanted > cpus - 1:
        fits = math.floor(100 * (cpus - 1) / settings.workers) / 100  # rounded up, the advice would be refused again
        share = f"`--train.cpus-per-worker {fits:g}`, fewer workers, or " if fits > 0 else ""
        raise UserError(
            f"{settings.workers} workers of {settings.cpus_per_worker:g} CPUs leave none of the {cpus:g} for Ray Data",
            where="train.workers",
            fix=f"use {share}more CPUs (`--ray.cpus` for a session of its own)",
        )


def check_nodes_hold(settings: TrainSettings, device: TorchDevice, nodes: Sequence[Mapping[str, float]]) -> None:
    """UserError unless each worker fits on a single node; Ray would wait forever.  nodes: resources of each node."""
    each = worker_resources(settings, device)
    room = count_slots(nodes, each)
    if room < settings.workers:
        fix = (
            "use a smaller `--train.cpus-per-worker`"
            + (f", `--train.workers {room}`" if room else "")
            + ", or larger nodes"
        )
        what = f"{settings.workers} workers of {describe_resources(each)} do not fit on the nodes"
        raise UserError(
            f"{what}, which have room for {room} (nodes: {describe_nodes(nodes, each)})",
            where="train.cpus_per_worker",
            fix=fix,
        )


def worker_resources(settings: TrainSettings, device: TorchDevice) -> dict[str, float]:
    """Ray resources of each training worker."""
    return {"CPU": settings.cpus_per_worker} | ({"GPU": 1.0} if device == "cuda" else {})


def check_batch(batch_size: int, workers: int, leaves: int) -> None:
    """UserError unless every rank gets at least two images in every step, which BatchNorm needs.

    The images are split evenly, no batch is smaller than half of `batch_size`, so four images a worker are always
    enough.
    leaves: images of the training split.
    """
    if workers > 1 and batch_size < 4 * workers:
        what = f"a batch of {batch_size} is too small for {workers} workers"
        raise UserError(
            what, where="train.batch_size", fix=f"use `--train.batch-size {4 * workers}` or more, or fewer workers"
        )
    if leaves < 2 * workers:
        what = f"{leaves} training leaves are too few for {workers} workers"
        raise UserError(what, where="train.workers", fix="use fewer workers, or ingest more photographs")


def check_crop(method: str, crop: int, smallest: int) -> None:
    """UserError if the crop is smaller than the method's smallest, which would fail in a convolution. In pixels."""
    if crop < smallest:
        what = f"{method} does not take images of {crop} px"
        raise UserError(what, where="train.crop", fix=f"use `--train.crop {smallest}` or more")


def check_weights(method: str, options: Mapping[str, Any], init: str, ray: RaySettings) -> None:
    """UserError, before Ray starts, if the initial weights are missing: a file, a package, or a download.

    On one machine this downloads them if need be. On a cluster the workers do, whose disks and network may be others.
    """
    if init != "imagenet":
        check_init(init)
    elif cluster_address(ray) is None:
        build(method, num_classes=2, init=init, **options)


def check_head(method: Method) -> None:
    """UserError unless the method's last layer can start from a fitted classifier (`--train.head probe`)."""
    if method.has_linear_head:
        return
    what = f"the logits of {method.name} are not one linear layer of its pooled features"
    if method.recipe.classifier_fit:
        what = f"the classifier of {method.name} is fitted in any case"
    fix = "leave `--train.head` out, or use a method such as resnet50 or mask_guided"
    raise UserError(what, where="train.head", fix=fix)


def check_places(places: dict[str, str], nodes: int) -> None:
    """UserError for local folders on a cluster of several nodes.  places: {flag: URI}.  nodes: how many."""
    if nodes < 2:
        return
    for name, uri in places.items():
        if open_store(uri).is_local and not _looks_shared(uri):
            raise UserError(
                f"is a local path, but the cluster has {nodes} nodes",
                where=f"{name} {uri}",
                fix="use s3://..., or a shared mount below /mnt or /nfs",
            )


def _looks_shared(uri: str) -> bool:
    return uri.startswith(("/mnt/", "/nfs/", "/efs/", "/fsx/"))
