"""Images a second of several trainings that share one GPU, a process each: what the part `sharing` runs.

Each takes steps of mask_guided on a resident batch, with CUDA graphs or without. All begin together after their first
steps, and each counts its own for as long.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from torch import multiprocessing

from ufgvc.bench.steps import StepCase, prepare_step

PROCESSES = (1, 2, 4)
WAIT = 150.0  # seconds for imports and first steps of all processes
CASES = {
    "cuda": (StepCase("mask_guided", "resnet50", 448, 16, "bf16"), 4.0),
    "cpu": (StepCase("mask_guided", "resnet18", 64, 2, "fp32"), 0.5),
}  # device: the step, and for how many seconds it is repeated


def take_steps(kind: str, graphs: bool, ready: Any, rates: Any) -> None:
    """The body of one process; puts its images a second into `rates`, or None, and the others end too, if it fails."""
    try:
        rates.put(rate_of_steps(kind, graphs, ready))
    except BaseException:
        ready.abort()
        rates.put(None)
        raise


def rate_of_steps(kind: str, graphs: bool, ready: Any) -> float:
    """Images a second of this process, from the time when all are ready."""
    case, seconds = CASES[kind]
    device = torch.device(kind, 0)
    torch.set_num_threads(1)
    case = StepCase(case.method, case.backbone, case.side, case.batch, case.precision, graphs=graphs)
    step = prepare_step(case, device, 0)

    def take(count: int) -> None:
        for _ in range(count):
            step()
        if kind == "cuda":
            torch.cuda.synchronize()

    take(10)
    ready.wait(WAIT)
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        take(5)
        steps += 5
    return case.batch * steps / (time.monotonic() - started)


def measure(kind: str, processes: int, graphs: bool) -> float:
    """Images a second of so many processes at the same time, all together. RuntimeError if one of them fails."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(processes), context.Queue()
    started = [context.Process(target=take_steps, args=(kind, graphs, ready, rates)) for _ in range(processes)]
    for process in started:
        process.start()
    found = [rates.get(timeout=WAIT) for _ in started]
    for process in started:
        process.join()
    if None in found:
        raise RuntimeError(f"one of {processes} processes failed, see above")
    return float(sum(found))


def main() -> None:
    """Measures each case and appends its row to the file, as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python3 -m cluster.gpu.sharing", description="several trainings on one GPU")
    parser.add_argument("--device", choices=list(CASES), default="cuda")
    parser.add_argument("--out", required=True, help="the file that a line is appended to for each case")
    flags = parser.parse_args()
    for graphs in (False, True) if flags.device == "cuda" else (False,):
        for processes in PROCESSES:
            rate = round(measure(flags.device, processes, graphs), 1)
            line = json.dumps({"cuda_graphs": graphs, "processes": processes, "images_per_second": rate})
            print(line, flush=True)
            with open(flags.out, "a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
