"""Times the training step on one resident batch: images a second, memory, and share of the device's peak FLOP/s."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ufgvc.bench.machine import free_memory, matrix_product
from ufgvc.bench.settings import BenchSettings
from ufgvc.bench.timing import Measurement, Spread, time_in_turn
from ufgvc.core.errors import UserError
from ufgvc.methods import build, entry, options_class
from ufgvc.methods.backbones import memory_format
from ufgvc.methods.method import Batch, Method
from ufgvc.training.graphs import StepGraphs
from ufgvc.training.memory import enough_memory
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import Precision, choose_precision, compute_gradients, train_step

CLASSES = 80  # as CottonCultivar80 has
PROBE = 2  # images of the step that is counted: BatchNorm wants two
PRODUCT = "matrix product"
HEADROOM = 0.9  # of the free memory that the counted bytes may take


@dataclass(frozen=True)
class StepCase:
    """backbone: "" for a method that has one of its own.  side: of the crop, in pixels.  batch: images a step.

    graphs: whether the step is captured as a CUDA graph.
    """

    method: str
    backbone: str
    side: int
    batch: int
    precision: Precision
    compile: bool = False
    graphs: bool = False

    @property
    def network(self) -> tuple[str, str, int]:
        """The parts that decide the cost of an image."""
        return self.method, self.backbone, self.side

    @property
    def name(self) -> str:
        """The case in one line, as tables show it."""
        parts = [
            self.method,
            self.backbone,
            f"{self.side} px",
            f"batch {self.batch}",
            self.precision,
            "compiled" if self.compile else "",
            "CUDA graph" if self.graphs else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Cost:
    """Cost of a step, counted on PROBE images.  flops: operations an image.  saved: bytes an image that autograd saves.

    fixed: bytes of weights, gradients and momentum.
    """

    flops: float
    saved: float
    fixed: int


Costs = dict[tuple[str, str, int], Cost]


@dataclass(frozen=True)
class TimedStep:
    """row: images/s.  milliseconds a step.  memory: bytes at the peak (on a GPU measured, on a CPU counted).

    share: of the FLOP/s of a square matrix product of that precision, timed in turn.  product: its TFLOP/s.
    """

    case: StepCase
    row: Measurement
    milliseconds: float
    memory: float
    share: Spread
    product: Spread


def options_of(case: StepCase) -> dict[str, Any]:
    """Options of the method in this case."""
    return {"backbone": case.backbone} if case.backbone else {}


def choose_cases(settings: BenchSettings, device: torch.device) -> list[StepCase]:
    """Every combination of the settings. UserError for an unknown method or backbone, and for bf16 or CUDA graphs on a
    device without them."""
    gpu = device.type == "cuda"
    if settings.cuda_graphs in ("on", "both") and not gpu:
        raise UserError(f"{device} has no CUDA graphs", where="--cuda-graphs", fix="leave it out")
    sides = settings.sides or ((448,) if gpu else (160,))
    batches = settings.batches or ((16, 128) if gpu else (8,))
    for name in settings.methods:
        entry(name)
    precisions = dict.fromkeys(choose_precision(wish, device) for wish in settings.precisions or ("auto",))
    return [
        StepCase(name, backbone, side, batch, precision, compiled, captured)
        for side, batch, precision in itertools.product(sides, batches, precisions)
        for compiled, captured in itertools.product(settings.compiled, settings.captured(gpu))
        for name in settings.methods
        for backbone in backbones_of(name, settings.backbones, gpu)
    ]


def backbones_of(method: str, wanted: tuple[str, ...], gpu: bool) -> tuple[str, ...]:
    """("",) for a method without this option. The default on a CPU is resnet18 instead of resnet50."""
    field = options_class(method).model_fields.get("backbone")
    if field is None:
        return ("",)
    return wanted or ("resnet18" if field.default == "resnet50" and not gpu else str(field.default),)


def check_cases(cases: list[StepCase], device: torch.device, seed: int) -> Costs:
    """The cost of a step of each network. UserError for a side that a method does not take, or a batch larger than
    memory."""
    costs: Costs = {}
    for case in cases:
        if case.network not in costs:
            method = build(case.method, num_classes=CLASSES, init="none", **options_of(case))
            if case.side < method.min_side:
                what = f"{case.method} does not take images of {case.side} px"
                raise UserError(what, where="--sides", fix=f"give {method.min_side} or more")
            costs[case.network] = count_cost(method, case.side, seed)
        cost = costs[case.network]
        # About half of the saved bytes are bfloat16 under autocast: 0.6 is slightly more than measured.
        image = cost.saved * (0.6 if case.precision == "bf16" else 1.0)
        room = HEADROOM * free_memory(device) - cost.fixed
        if image * case.batch > room:
            fits = max(0, int(room / image))
            need = (image * case.batch + cost.fixed) / 1e9
            what = f"{case.name} needs about {need:.1f} GB, this machine has {free_memory(device) / 1e9:.1f} GB free"
            fix = (
                f"give {fits} or fewer, or smaller --sides"
                if fits >= 2
                else "give smaller --sides, or another backbone"
            )
            raise UserError(what, where="--batches", fix=fix)
    return costs


def count_cost(method: Method, side: int, seed: int) -> Cost:
    """Counts one step on the CPU: operations, and the bytes that autograd saves (each storage once)."""
    batch = random_batch(method, PROBE, side, torch.device("cpu"), seed)
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.net.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    method.net.train()
    with saved_tensors_hooks(count, lambda tensor: tensor), FlopCounterMode(display=False) as counter:
        parts = method.losses(method.net((seen := method.views(batch)).images), seen)
        sum(total for total, _ in parts.values()).backward()  # type: ignore[union-attr]
    fixed = 3 * sum(parameter.nbytes for parameter in method.net.parameters())
    return Cost(counter.get_total_flops() / PROBE, sum(saved.values()) / PROBE, fixed)


def random_batch(method: Method, size: int, side: int, device: torch.device, seed: int) -> Batch:
    """Images and masks of random numbers; every image has a mask of every region that the method uses."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    masks: dict[str, Tensor] = {
        region: (torch.rand(size, 1, side, side, generator=generator) > 0.9).byte().to(device)
        for region in method.regions
    }
    return Batch(
        images=images.to(device),
        labels=torch.randint(method.num_classes, (size,), generator=generator).to(device),
        masks=masks,
        has_mask={region: torch.ones(size, dtype=torch.bool, device=device) for region in method.regions},
        uniforms=torch.rand(size, method.num_uniforms, dtype=torch.float64, generator=generator),
    )


def time_steps(cases: list[StepCase], costs: Costs, device: torch.device, rounds: int, seed: int) -> list[TimedStep]:
    """Times all cases; those of the same side, batch and precision in turn, with a matrix product for reference."""
    found: list[TimedStep] = []
    for _, group in itertools.groupby(cases, key=lambda case: (case.side, case.batch, case.precision)):
        together = list(group)
        size = f"a batch of {together[0].batch} images of {together[0].side} px"
        with enough_memory(size, "--batches", "give a smaller one, or smaller --sides", device):
            found += _time_group(together, costs, device, rounds, seed)
    return found


def _time_group(cases: list[StepCase], costs: Costs, device: torch.device, rounds: int, seed: int) -> list[TimedStep]:
    times = 5 if device.type == "cuda" else 1
    multiply, operations = matrix_product(device, cases[0].precision, seed)
    ready = {case.name: prepare_step(case, device, seed) for case in cases}
    peaks = {case.name: _peak_memory(ready[case.name], costs[case.network], case, device) for case in cases}
    calls: dict[str, Callable[[], object]] = {name: partial(_repeat, step, times) for name, step in ready.items()}
    timed = time_in_turn(calls | {PRODUCT: multiply}, rounds, device=device, budget=12, seed=seed)
    product = timed.rate(PRODUCT, "TFLOP/s", operations / 1e12).value
    results = []
    for case in cases:
        baseline = _baseline_of(case, cases)
        row = timed.rate(case.name, "images/s", times * case.batch, baseline=baseline.name if baseline else None)
        if baseline:
            how = "the same" if baseline.method != case.method else "plain"
            row = replace(row, baseline=f"{baseline.method}, {how}")
        share = timed.rate(
            case.name, "", costs[case.network].flops * times * case.batch, baseline=PRODUCT, baseline_units=operations
        ).ratio
        assert share is not None
        milliseconds = 1000 * case.batch / row.value.median
        results.append(TimedStep(case, row, milliseconds, peaks[case.name], share, product))
    del ready, calls
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return results


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


def _baseline_of(case: StepCase, cases: list[StepCase]) -> StepCase | None:
    """The case to compare with: the first method's of the same kind and backbone (or the first case); for the first
    method itself the one without compiler and graph; None for that."""
    if case.method == cases[0].method:
        plain = replace(case, compile=False, graphs=False)
        return plain if plain != case and plain in cases else None
    alike = [each for each in cases if (each.compile, each.graphs) == (case.compile, case.graphs)]
    first = [each for each in alike if each.method == cases[0].method]
    return next((each for each in first if each.backbone == case.backbone), (first or cases)[0])


def prepare_step(case: StepCase, device: torch.device, seed: int) -> Callable[[], object]:
    """A function that takes one step as `train` does, on a batch on the device."""
    torch.manual_seed(seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as in a training of many steps (training/steps.py)
    method = build(case.method, num_classes=CLASSES, init="none", **options_of(case))
    method.net.to(device).to(memory_format=memory_format(method.net, device)).train()
    optimizer = make_optimizer(method, method.recipe.stages[-1])
    model: nn.Module = torch.compile(method.net, dynamic=False) if case.compile else method.net  # type: ignore[assignment]
    batch = random_batch(method, case.batch, case.side, device, seed)
    compute = partial(compute_gradients, method, model, precision=case.precision)
    graphs = StepGraphs(method.net, compute) if case.graphs else None
    return lambda: train_step(method, model, batch, optimizer, case.precision, graphs=graphs)


def _peak_memory(step: Callable[[], object], cost: Cost, case: StepCase, device: torch.device) -> float:
    if device.type != "cuda":
        return cost.saved * case.batch + cost.fixed
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize()
    # The other cases' networks and batches are there too, so weights, gradients and momentum of this one are counted.
    return float(torch.cuda.max_memory_allocated(device) - before + cost.fixed)
