"""Every method over two ranks: a step on five and three images has the gradients of one process with all eight."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.unit.test_methods import CLASSES, smallest, tiny_batch
from ufgvc.data.mixing import soften_labels
from ufgvc.methods import Batch, Method, Stage, names
from ufgvc.methods.method import identity
from ufgvc.training.ddp import warm_up_ddp_buckets
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import train_step

COUNT = 8
CUTS = (slice(0, 5), slice(5, COUNT))
SOFT = " soft"


def eight_leaves(method: Method, soft: bool) -> Batch:
    """Masks of some images are missing; the second rank has no contour at all, so the ranks' counts differ."""
    batch = tiny_batch(method, COUNT)
    if soft:
        batch = replace(batch, targets=soften_labels(batch.labels, CLASSES, 0.3))
    batch.has_mask["vein"][[1, 6]] = False
    batch.has_mask["contour"][[0, 5, 6, 7]] = False
    return batch


def part_of(batch: Batch, cut: slice) -> Batch:
    masks = {region: mask[cut] for region, mask in batch.masks.items()}
    has = {region: flags[cut] for region, flags in batch.has_mask.items()}
    targets = None if batch.targets is None else batch.targets[cut]
    return Batch(batch.images[cut], batch.labels[cut], masks, has, targets, uniforms=batch.uniforms[cut])


def training(net: nn.Module) -> nn.Module:
    """Training mode without BatchNorm statistics and dropout, which depend on how the images are distributed."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout):
            module.eval()
    return net


def add_up(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value


def step(
    name: str,
    cut: slice,
    wrap: Callable[[nn.Module], nn.Module] = identity,
    reduce: Callable[[Tensor], Tensor] = identity,
    world: int = 1,
) -> dict[str, Any]:
    """The gradients and the counts of one step, from the same first weights wherever it runs.

    name: of the method, with SOFT after it for softened labels.
    """
    soft = name.endswith(SOFT)
    method = smallest(name.removesuffix(SOFT))
    model = wrap(training(method.net))
    optimizer = make_optimizer(method, Stage(epochs=1, lr=0.01, frozen=method.recipe.stages[-1].frozen))
    done = train_step(method, model, part_of(eight_leaves(method, soft), cut), optimizer, reduce=reduce, world=world)
    gradients = {key: each.grad for key, each in method.net.named_parameters() if each.requires_grad}
    return {"gradients": gradients, "losses": done.losses, "correct": int(done.correct), "count": done.count}


def parallel(net: nn.Module) -> nn.Module:
    """As the loop wraps a network: with the passes that settle DDP's buckets, whose effect must be undone."""
    model = DistributedDataParallel(net)
    warm_up_ddp_buckets(model, net, 96, torch.device("cpu"))
    training(net)
    return model


def join_group(rank: int, folder: str) -> None:
    where, patience = f"file://{folder}/meet", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=len(CUTS), timeout=patience)


def digests(gradients: Mapping[str, Tensor]) -> dict[str, str]:
    return {key: hashlib.sha256(gradient.contiguous().numpy()).hexdigest() for key, gradient in gradients.items()}


def second_rank(asked: Connection, folder: str) -> None:
    """Takes the second rank's part in a step of each method that is asked for, until the name is empty."""
    torch.set_num_threads(1)
    join_group(1, folder)
    while name := asked.recv():
        found = step(name, CUTS[1], parallel, add_up, len(CUTS))
        asked.send(found | {"gradients": digests(found["gradients"])})
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """The second rank's process; this one is the first. It takes all methods: importing torch is longer than a step."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=second_rank, args=(there, folder), daemon=True)
    process.start()
    there.close()
    join_group(0, folder)
    yield here
    dist.destroy_process_group()
    if process.is_alive():
        here.send("")
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("name", [*names(), *(f"{name}{SOFT}" for name in ("dcl", "nts_net", "contrast_views"))])
def test_two_ranks_have_the_gradients_of_one(name: str, second: Connection) -> None:
    second.send(name)
    mine = step(name, CUTS[0], parallel, add_up, len(CUTS))
    theirs = second.recv()
    assert digests(mine["gradients"]) == theirs["gradients"]
    alone = step(name, slice(0, COUNT))
    for key, gradient in alone["gradients"].items():
        scale = float(gradient.abs().max())
        assert scale > 0, key
        assert torch.allclose(mine["gradients"][key], gradient, rtol=1e-3, atol=1e-4 * scale), key
    for key, (total, count) in alone["losses"].items():
        assert float(mine["losses"][key][1] + theirs["losses"][key][1]) == float(count), key
        assert float(mine["losses"][key][0] + theirs["losses"][key][0]) == pytest.approx(float(total), rel=1e-4), key
    assert mine["count"] + theirs["count"] == alone["count"]
    assert mine["count"] * (COUNT - 5) == theirs["count"] * 5
    assert mine["correct"] + theirs["correct"] == alone["correct"]
