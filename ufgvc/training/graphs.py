"""Forward, losses and backward of a step as one CUDA graph: the GPU does not wait for Python between its kernels."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError, first_line
from ufgvc.methods.method import Batch, LossParts
from ufgvc.methods.plugins import package_of
from ufgvc.training.memory import is_out_of_memory

# Gradients are the `grad` of the parameters afterwards. Returns the parts of the loss, and () correct rows.
ComputeGradients = Callable[[Batch], tuple[LossParts, Tensor]]
WARM_UP = 3  # passes before a capture, in which libraries choose their algorithms and a compiled net is compiled
MIN_STEPS = 100  # of a training from which on a capture, which takes as long as some ten steps, is worth it


def use_graphs(wanted: Literal["auto", "on", "off"], method: str, steps: int, world: int, device: torch.device) -> bool:
    """Whether a training captures its steps: only for one rank on a GPU. auto: where it pays, for a method of our own,
    since nobody knows whether a step of another package's can be captured.

    method: its name.  steps: of the whole training.  world: number of ranks; a sum over ranks is not captured.
    """
    possible = device.type == "cuda" and world == 1
    return possible and (wanted == "on" or (wanted == "auto" and steps >= MIN_STEPS and package_of(method) is None))


@functools.cache
def live_graphs(device: torch.device) -> weakref.WeakSet[torch.cuda.CUDAGraph]:
    """The graphs that this process has captured and still has."""
    return weakref.WeakSet()


def memory_pool(device: torch.device) -> Any:
    """The memory that all captures of this process share: one pass runs at a time, also where several trainings take
    turns, as the folds of a search do.

    None, which makes a new one, if there is no capture: torch refuses the pool of graphs that are gone.
    """
    return next((graph.pool() for graph in live_graphs(device)), None)


@dataclass(frozen=True)
class Capture:
    """One captured pass.  inputs: tensors that the graph reads.  gradients: of the trained parameters, which it writes,
    as well as losses and correct.
    """

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    gradients: list[Tensor | None]
    losses: LossParts
    correct: Tensor


class StepGraphs:
    """`compute`, captured once for each shape of a batch and replayed from then on.

    net: the method's net, in training mode, whose `requires_grad` does not change any more.  compute: computes
    gradients without waiting for the GPU and without a random number of the host.
    What a pass returns is overwritten by the next one. The buffers of the net (BatchNorm's statistics) and the GPU's
    random numbers are after a capture as they were before it.
    """

    def __init__(self, net: nn.Module, compute: ComputeGradients) -> None:
        self.net, self.compute = net, compute
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.captures: dict[tuple[object, ...], Capture] = {}

    def __call__(self, batch: Batch) -> tuple[LossParts, Tensor]:
        """Computes the gradients of a batch."""
        tensors = tensors_of(batch)
        shape = tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
        if shape not in self.captures:
            self.captures[shape] = self._capture(batch)
        capture = self.captures[shape]
        for name, tensor in tensors.items():
            capture.inputs[name].copy_(tensor)
        capture.graph.replay()
        for parameter, gradient in zip(self.parameters, capture.gradients, strict=True):
            parameter.grad = gradient
        return capture.losses, capture.correct

    def _capture(self, batch: Batch) -> Capture:
        device = batch.images.device
        inputs = {name: tensor.clone() for name, tensor in tensors_of(batch).items()}
        batch = with_tensors(batch, inputs)
        buffers = [buffer.clone() for buffer in self.net.buffers()]
        random = torch.cuda.get_rng_state(device)
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._forget_gradients()
                self.compute(batch)
        torch.cuda.current_stream(device).wait_stream(aside)
        self._forget_gradients()  # a capture of a backward pass without gradients writes them, and adds to none
        graph = torch.cuda.CUDAGraph()
        with capturable(), torch.cuda.graph(graph, pool=memory_pool(device)):
            losses, correct = self.compute(batch)
        live_graphs(device).add(graph)
        with torch.no_grad():
            for buffer, value in zip(self.net.buffers(), buffers, strict=True):
                buffer.copy_(value)
        torch.cuda.set_rng_state(random, device)
        return Capture(graph, inputs, [parameter.grad for parameter in self.parameters], losses, correct)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


@contextlib.contextmanager
def capturable() -> Iterator[None]:
    """Context manager of a capture: UserError if something in it cannot be captured; too little memory stays that."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException = error  # the end of a capture that failed raises another error, which says less
        while isinstance(cause.__context__, RuntimeError):
            cause = cause.__context__
        if is_out_of_memory(cause):
            raise cause from None
        what = f"a step of this network cannot be captured as a CUDA graph: {first_line(cause)}"
        raise UserError(what, where="train.cuda_graphs", fix="use `--train.cuda-graphs off`") from error


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """The batch's tensors on the device, by name: "images", "labels", "targets", "masks.vein" and so on."""
    found = {"images": batch.images, "labels": batch.labels}
    if batch.targets is not None:
        found["targets"] = batch.targets
    for field in ("masks", "has_mask", "extra"):
        found |= {f"{field}.{name}": tensor for name, tensor in getattr(batch, field).items()}
    return found


def with_tensors(batch: Batch, tensors: dict[str, Tensor]) -> Batch:
    """The batch with these tensors in place of those of `tensors_of`."""

    def part(field: str) -> dict[str, Tensor]:
        return {name: tensors[f"{field}.{name}"] for name in getattr(batch, field)}

    return replace(
        batch,
        images=tensors["images"],
        labels=tensors["labels"],
        targets=tensors.get("targets"),
        masks=part("masks"),
        has_mask=part("has_mask"),
        extra=part("extra"),
    )
