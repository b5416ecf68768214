"""`python3 -m cluster.gpu.kernels`: which kernels the GPU spends a training step on (mask_guided, 448 px, bf16)."""

from __future__ import annotations

import argparse
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from ufgvc.bench.steps import StepCase, prepare_step

KINDS = {  # by a part of a kernel's name, the first that fits
    "normalisation": ("batch_norm", "native_batch", "bn_"),
    "optimizer": ("multi_tensor", "fused_sgd", "FusedSgd"),
    "pooling": ("pool",),
    "copies and casts": ("copy", "Memcpy", "Memset", "nchwToNhwc", "nhwcToNchw", "cast"),
    "convolutions and products": ("cudnn", "xmma", "cutlass", "gemm", "conv", "sm90", "sm80", "wgrad", "dgrad"),
    "elementwise": ("elementwise", "relu", "threshold"),
    "compiled": ("triton",),
    "sums": ("reduce",),
}


def kind_of(kernel: str) -> str:
    """The group of a kernel."""
    return next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), "other")


def main() -> None:
    """Prints the milliseconds of each kind of kernel a step, and the longest kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    flags = parser.parse_args()
    step = prepare_step(StepCase("mask_guided", "resnet50", 448, flags.batch, "bf16"), torch.device("cuda", 0), 0)
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(flags.steps):
            step()
        torch.cuda.synchronize()
    kernels: dict[str, float] = defaultdict(float)
    for event in found.events():
        if str(event.device_type).endswith("CUDA"):
            kernels[event.name] += event.device_time_total / 1000 / flags.steps
    kinds: dict[str, float] = defaultdict(float)
    for name, spent in kernels.items():
        kinds[kind_of(name)] += spent
    print(f"batch {flags.batch}: {sum(kinds.values()):.1f} ms of kernels a step")
    for name, spent in sorted(kinds.items(), key=lambda pair: -pair[1]):
        print(f"{spent:7.2f} ms  {name}")
    for name, spent in sorted(kernels.items(), key=lambda pair: -pair[1])[:12]:
        print(f"    {spent:7.2f} ms  {name[:110]}")


if __name__ == "__main__":
    main()
