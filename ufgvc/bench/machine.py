"""Describes the machine, and times matrix products on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from ufgvc.bench.timing import Spread, time_in_turn
from ufgvc.core.process import cpu_count, git_commit, versions

MORE_PACKAGES = ("timm", "opencv-python-headless", "simplejpeg", "triton")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """CPU, cores, memory, GPU, versions of packages, and the load at the start."""
    found = versions()
    for name in MORE_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": None,
        "versions": found,
        "commit": git_commit(),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        about |= {"gpu": card.name, "gpu_memory_gb": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    return about


def cpu_name() -> str:
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Free memory of the training device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def matrix_rates(device: torch.device, rounds: int, seed: int) -> dict[str, Spread]:
    """TFLOP/s of a square matrix product in both precisions."""
    products = {precision: matrix_product(device, precision, seed) for precision in ("fp32", "bf16")}
    timed = time_in_turn(
        {name: call for name, (call, _) in products.items()}, rounds, device=device, budget=2, seed=seed
    )
    return {name: timed.rate(name, "", operations / 1e12).value for name, (_, operations) in products.items()}


def matrix_product(device: torch.device, precision: str, seed: int) -> tuple[Callable[[], object], float]:
    """A function that multiplies square matrices of random numbers (zeros run faster), and its FLOPs (2 a
    multiply-add)."""
    side, times = (8192, 10) if device.type == "cuda" else (1024, 5)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(seed)
    left, right = (torch.randn(side, side, device=device, generator=generator).to(kind) for _ in range(2))

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right)

    return multiply, 2.0 * side**3 * times
