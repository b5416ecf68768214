"""What a method computes in a step is what it computes on the CPU, in float32 and within bfloat16's rounding."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.gpu.parts import (
    SECOND_ORDER,
    TRAINED,
    Learnt,
    cosine,
    gradient_gap,
    learn,
    loss_gap,
    move,
    noise_batch,
    on,
    small,
)
from tests.gpu.smooth import Smooth, smoothed
from ufgvc.methods import Batch, Method, Stage
from ufgvc.methods.layers.second_order import (
    bilinear_pool,
    covariance_pool,
    signed_sqrt,
    sqrt_by_norm,
    sqrt_by_trace,
    upper_triangle,
)
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import autocast, train_step

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
# The smallest cosine of the angle between a gradient in bfloat16 and that in float32. An error of 2^-9 in every product
# of a net of 20 layers turns the gradient by arccos(0.998) on the CPU; a wrong operation by a right angle.
ANGLE = 0.95
DEEPER = {
    "inception_v3": (
        0.6,
        "94 convolutions, whose last normalisations see 8 numbers a channel at the smallest side: 0.86 on the CPU",
    ),
    "mobilenet_v2": (0.9, "53 convolutions, most of them of one channel each: 0.976 on the CPU"),
    "nts_net": (
        0.6,
        "its proposals are the best of scores that bfloat16 rounds, so it may look at other parts of an image",
    ),
}


@functools.cache
def reference(name: str) -> tuple[Method, Batch, Learnt, float]:
    """A method, a batch, what it learns of it on the CPU in float32, and how far its gradient moves if pixels move by
    their last bit.
    """
    method = small(name, dropout=False)
    batch = noise_batch(method)
    flips = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    lower = torch.nextafter(batch.images, torch.zeros(()))
    shaken = replace(
        batch, images=torch.where(flips, lower, batch.images).contiguous(memory_format=torch.channels_last)
    )
    with Smooth():
        wanted = learn(method, batch, CPU)
        return method, batch, wanted, gradient_gap(learn(method, shaken, CPU), wanted)[0]


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_in_float32(name: str, device: torch.device) -> None:
    method, batch, wanted, noise = reference(name)
    with Smooth():
        found = learn(method, batch, device)
    gap, part = loss_gap(found, wanted)
    assert gap < 1e-4, f"the loss {part} differs by {gap:.1e} of itself"
    # Heads that are badly conditioned (the root of a singular matrix) move by more than 1e-4 if an input's last bit
    # does.
    gap, parameter = gradient_gap(found, wanted)
    most = max(1e-4, 10 * noise)
    assert gap < most, f"the gradient differs by {gap:.1e} of its length, most in {parameter}; allowed are {most:.1e}"


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_in_bfloat16(name: str, device: torch.device) -> None:
    method, batch, wanted, _ = reference(name)
    with Smooth():
        found = learn(method, batch, device, "bf16")
    gap, part = loss_gap(found, wanted)
    # Eight bits: 2^-8 in each logit, summed with either sign; on the CPU at most 0.015.
    assert gap < 5e-2, f"the loss {part} differs by {gap:.1e} of itself"
    least, why = DEEPER.get(name, (ANGLE, "as usual"))
    angle = cosine(found, wanted)
    assert angle > least, f"the cosine between the gradients is {angle:.4f}, wanted are {least} ({why})"


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_in_the_precision_of_the_device(name: str, device: torch.device) -> None:
    """`auto` is bfloat16 on these GPUs; with dropout, and the method's real ReLUs."""
    method = on(small(name), device)
    before = {key: parameter.detach().clone() for key, parameter in method.net.named_parameters()}
    optimizer = make_optimizer(method, Stage(epochs=1, lr=1e-3))
    precisions = set()
    backbone = method.net.get_submodule("backbone")
    backbone.register_forward_hook(lambda module, inputs, output: precisions.add(output.dtype))
    if name in ("inception_v3", "nts_net", "region_tokens"):  # these call parts of the backbone by themselves
        convolution = next(module for module in backbone.modules() if isinstance(module, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda module, inputs, output: precisions.add(output.dtype))
    done = train_step(method, method.net.train(), move(noise_batch(method), device), optimizer, "auto")
    assert precisions == {torch.bfloat16 if device.type == "cuda" else torch.float32}
    losses = {part: float(total / count) for part, (total, count) in done.losses.items()}
    assert all(torch.tensor(loss).isfinite() for loss in losses.values()), losses
    for key, parameter in method.net.named_parameters():
        assert parameter.isfinite().all(), f"{key} is not finite after a step; the losses were {losses}"
    moved = sum(not torch.equal(before[key], parameter) for key, parameter in method.net.named_parameters())
    assert moved > len(before) / 2, f"only {moved} of {len(before)} parameters moved"


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_heads_stay_in_float32(name: str, device: torch.device) -> None:
    """Their embedding under autocast is the one computed in float64 from the same bfloat16 map; in bfloat16 a root is
    off by percents.
    """
    method = on(small(name, dropout=False), device)
    seen: dict[str, torch.Tensor] = {}
    net: Any = method.net
    pooled_from = net.reduce if name == "mpn_cov" else net.backbone
    pooled_from.register_forward_hook(lambda module, inputs, output: seen.update(map=output.detach()))
    net.classifier.register_forward_pre_hook(lambda module, inputs: seen.update(embedding=inputs[0].detach()))
    with torch.no_grad(), autocast("bf16", device):
        logits = net.train()(noise_batch(method).images.to(device))["logits"]
    assert seen["map"].dtype == torch.bfloat16, "the backbone is to run in bfloat16"
    assert seen["embedding"].dtype == logits.dtype == torch.float32
    exact = seen["map"].cpu().double()
    if name == "mpn_cov":
        wanted = upper_triangle(sqrt_by_trace(covariance_pool(exact), net.iterations))
    else:
        pooled = bilinear_pool(exact)
        pooled = pooled if net.iterations is None else sqrt_by_norm(pooled, net.iterations)
        wanted = torch.nn.functional.normalize(signed_sqrt(pooled).flatten(1))
    gap = float((seen["embedding"].cpu().double() - wanted).norm() / wanted.norm())
    assert gap < 5e-3, f"the embedding differs from that in float64 by {gap:.1e} of its length"


@pytest.mark.usefixtures("exact_float32")
def test_a_compiled_net_computes_what_it_computes_by_itself(device: torch.device) -> None:
    method = small("mask_guided", dropout=False)
    smoothed(method.net)
    batch = noise_batch(method)
    wanted, found = learn(method, batch, device), learn(method, batch, device, compiled=True)
    gap, part = loss_gap(found, wanted)
    assert gap < 1e-4, f"the loss {part} differs by {gap:.1e} of itself"
    gap, parameter = gradient_gap(found, wanted)
    assert gap < 1e-4, f"the gradient differs by {gap:.1e} of its length, most in {parameter}"
