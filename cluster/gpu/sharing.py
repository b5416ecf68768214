"""`python3 -m cluster.gpu.sharing`: images a second of several trainings that share one GPU, a process each.

Each takes steps of mask_guided (ResNet-50, 448 px, batches of 16, bf16) on a resident batch, with CUDA graphs or
without. All begin together after their first steps and end together.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from torch import multiprocessing

from ufgvc.bench.steps import StepCase, prepare_step

SECONDS = 4.0
BATCH = 16


def take_steps(graphs: bool, ready: Any, rates: Any) -> None:
    """The body of one process: steps for SECONDS; puts its images a second into `rates`."""
    device = torch.device("cuda", 0)
    torch.set_num_threads(1)
    step = prepare_step(StepCase("mask_guided", "resnet50", 448, BATCH, "bf16", graphs=graphs), device, 0)
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    ready.wait(120)
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < SECONDS:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        steps += 5
    rates.put(BATCH * steps / (time.monotonic() - started))


def measure(processes: int, graphs: bool) -> list[float]:
    """Images a second of each of so many processes at the same time."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(processes), context.Queue()
    started = [context.Process(target=take_steps, args=(graphs, ready, rates)) for _ in range(processes)]
    for process in started:
        process.start()
    found = [rates.get(timeout=180) for _ in started]
    for process in started:
        process.join()
    return found


if __name__ == "__main__":
    for graphs in (False, True):
        for processes in (1, 2, 4):
            rates = measure(processes, graphs)
            row = {"cuda_graphs": graphs, "processes": processes, "images_per_second": round(sum(rates))}
            print(json.dumps(row), flush=True)
