"""Every method over two ranks: a step on five and three images has the gradients of one process with all eight."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.unit.test_methods import SMALLER, small, tiny_batch
from ufgvc.methods import Batch, Method, Stage, names, options_class
from ufgvc.training.ddp import warm_up_ddp_buckets
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import identity, train_step

COUNT = 8
CUTS = (slice(0, 5), slice(5, COUNT))
RESNETS = ("mpn_cov", "nts_net", "region_tokens")  # they use more of a ResNet than its last map


def smallest(name: str) -> Method:
    """On the backbone with the fewest parameters, for every gradient goes through a file."""
    free = "backbone" in options_class(name).model_fields and name not in (*SMALLER, *RESNETS)
    return small(name, **({"backbone": "squeezenet1_1"} if free else {}))


def eight_leaves(method: Method) -> Batch:
    """Masks of some images are missing; the second rank has no contour at all, so the ranks' counts differ."""
    batch = tiny_batch(method, COUNT)
    batch.has_mask["vein"][[1, 6]] = False
    batch.has_mask["contour"][[0, 5, 6, 7]] = False
    return batch


def part_of(batch: Batch, cut: slice) -> Batch:
    masks = {region: mask[cut] for region, mask in batch.masks.items()}
    has = {region: flags[cut] for region, flags in batch.has_mask.items()}
    return Batch(batch.images[cut], batch.labels[cut], masks, has, uniforms=batch.uniforms[cut])


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
    """The gradients and the counts of one step, from the same first weights wherever it runs."""
    method = smallest(name)
    model = wrap(training(method.net))
    optimizer = make_optimizer(method, Stage(epochs=1, lr=0.01))
    done = train_step(method, model, part_of(eight_leaves(method), cut), optimizer, reduce=reduce, world=world)
    gradients = {key: parameter.grad for key, parameter in method.net.named_parameters()}
    return {"gradients": gradients, "losses": done.losses, "correct": int(done.correct), "count": done.count}


def parallel(net: nn.Module) -> nn.Module:
    """As the loop wraps a network: with the passes that settle DDP's buckets, whose effect must be undone."""
    model = DistributedDataParallel(net)
    warm_up_ddp_buckets(model, net, 96, torch.device("cpu"))
    training(net)
    return model


def rank_main(rank: int, folder: str) -> None:
    """All methods in one process: importing torch takes longer than a step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(CUTS))
    for name in names():
        print(f"rank {rank}: {name}", flush=True)
        torch.save(step(name, CUTS[rank], parallel, add_up, len(CUTS)), f"{folder}/{name}.{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder into which two processes wrote what each saw of every method."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=rank_main, args=(rank, str(folder))) for rank in range(len(CUTS))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
        if process.is_alive():
            process.kill()
        assert process.exitcode == 0, f"got as far as {sorted(path.stem for path in folder.glob('*.pt'))}"
    yield folder
    shutil.rmtree(folder)  # a gigabyte of gradients


@pytest.mark.parametrize("name", names())
def test_two_ranks_have_the_gradients_of_one(name: str, ranks: Path) -> None:
    first, second = (torch.load(ranks / f"{name}.{rank}.pt") for rank in range(len(CUTS)))
    alone = step(name, slice(0, COUNT))
    for key, gradient in alone["gradients"].items():
        assert torch.equal(first["gradients"][key], second["gradients"][key]), key
        scale = float(gradient.abs().max())
        assert scale > 0, key
        assert torch.allclose(first["gradients"][key], gradient, rtol=1e-3, atol=1e-4 * scale), key
    for key, (total, count) in alone["losses"].items():
        assert float(first["losses"][key][1] + second["losses"][key][1]) == float(count), key
        assert float(first["losses"][key][0] + second["losses"][key][0]) == pytest.approx(float(total), rel=1e-4), key
    assert first["count"] + second["count"] == alone["count"]
    assert first["count"] * (COUNT - 5) == second["count"] * 5
    assert first["correct"] + second["correct"] == alone["correct"]
