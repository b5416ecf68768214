"""Times evaluation on one resident batch, in turn with the training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ufgvc.bench.steps import CLASSES, StepCase, options_of, prepare_step, random_batch
from ufgvc.bench.timing import Measurement, time_in_turn
from ufgvc.methods import build
from ufgvc.methods.backbones import memory_format
from ufgvc.training.frozen import fastest_form
from ufgvc.training.loader import eval_batch
from ufgvc.training.steps import eval_step

MANY = 10**9  # images, for which an export always pays


def time_evaluation(case: StepCase, device: torch.device, rounds: int, seed: int) -> list[Measurement]:
    """Evaluation in fp32, in batches as `evaluate` takes them, in turn with the training step of the case; of a frozen
    network one view of each image, and also in the form that embeds many images fastest.
    """
    size = eval_batch(case.side, device)
    method = build(case.method, num_classes=CLASSES, init="none", **options_of(case))
    frozen = method.recipe.classifier_fit
    method = replace(method, recipe=method.recipe.model_copy(update={"crop": case.side}))
    method.net.to(device).to(memory_format=memory_format(method.net, device)).eval()
    images = random_batch(method, size, case.side, device, seed).images

    def forward(net: nn.Module) -> object:
        with torch.inference_mode():
            return net(images)

    name = f"{case.method}, {case.backbone or 'its own net'}, {case.side} px, batch {size}, fp32"
    training = f"training: {case.name}"
    calls: dict[str, Callable[[], object]] = {
        training: prepare_step(case, device, seed),
        name: (lambda: forward(method.net)) if frozen else (lambda: eval_step(method, method.net, images)),
    }
    rows = [(name, training, case.batch)]
    fast = fastest_form(method, MANY, device) if frozen else method
    if fast.net is not method.net:
        exported = f"{name}, by onnxruntime"
        calls[exported] = lambda: forward(fast.net)
        rows.append((exported, name, size))
    timed = time_in_turn(calls, rounds, device=device, budget=12, seed=seed)
    found = [
        timed.rate(each, "images/s", size, baseline=baseline, baseline_units=units) for each, baseline, units in rows
    ]
    return [*found, timed.rate(training, "images/s", case.batch)]
