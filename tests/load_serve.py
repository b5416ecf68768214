"""Measures the service on loopback: the bare model, the service at its limit, and latency at half of that.

    python -m tests.load_serve --model MODEL --source FOLDER [--seconds 10] [--clients 8] [--replicas 1]

MODEL as of `ufgvc serve`; FOLDER holds photographs. Prints a Markdown table for docs/results/serve.md. On a busy
machine the CPU seconds tell more than the rates.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ufgvc.core.process import cpu_count, let_idle_threads_sleep

SIZES = (1, 8)  # photographs in a forward pass of the bare model
BOUNDARY = "a-boundary"
Note = Callable[[int, float], None]  # of a request: its status, and the seconds until its answer was read
Noted = tuple[list[float], Counter[int]]  # the seconds of answered requests, and how often each status came
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=1)
    given = parser.parse_args()
    photographs = [path.read_bytes() for path in sorted(given.source.iterdir()) if path.is_file()]
    let_idle_threads_sleep()  # as `ufgvc serve` does, before torch is imported
    from ufgvc.models.model import load_model

    rows = [("cores, and load before", f"{cpu_count()}, {os.getloadavg()[0]:.1f}")]
    model = load_model(given.model)
    before = [bare(model, photographs, size, given.seconds) for size in SIZES]
    with service(given.model, given.replicas) as (port, process):
        ask(port, photographs[0])
        used = cpu_seconds(process)
        seconds, statuses = closed_loop(port, photographs, given.clients, given.seconds)
        limit, used = statuses[200] / given.seconds, (cpu_seconds(process) - used) / statuses[200]
        rows.append((f"service, {given.clients} clients that wait for each answer", describe(limit, used)))
        rows.append(("their p50 and p99", percentiles(seconds)))
        seconds, statuses = open_loop(port, photographs, limit / 2, given.seconds)
        rows.append((f"p50 and p99 at half of that, {statuses[200]} of {sum(statuses.values())}", percentiles(seconds)))
        _, flooded = closed_loop(port, photographs, 200, given.seconds / 2)
        rows.append(("200 clients: answered, refused with 429, other", counts(flooded)))
        rows.append(("one request after the flood", str(ask(port, photographs[0])[0])))
    after = [bare(model, photographs, size, given.seconds) for size in SIZES]
    for size, *pairs in zip(SIZES, before, after, strict=True):
        rows.append((f"bare model, {size} a forward pass, before", describe(*pairs[0])))
        rows.append((f"bare model, {size} a forward pass, after", describe(*pairs[1])))
    rows.append(("load after", f"{os.getloadavg()[0]:.1f}"))
    print("\n".join(["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of a process and all that it has started and that still run."""
    tree = psutil.Process(process.pid)
    return sum(sum(each.cpu_times()[:2]) for each in (tree, *tree.children(recursive=True)))


def describe(per_second: float, cpu: float) -> str:
    """A rate, and what a photograph costs, in text."""
    return f"{per_second:.1f} photographs/s, {cpu:.2f} CPU seconds each"


def percentiles(seconds: list[float]) -> str:
    """p50 and p99 in text."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"{p50:.0f} and {p99:.0f} ms ({len(seconds)} requests)"


def counts(statuses: Counter[int]) -> str:
    """Answered, refused, other, in text."""
    other = sum(statuses.values()) - statuses[200] - statuses[429]
    return f"{statuses[200]}, {statuses[429]}, {other}"


def bare(model: Any, photographs: list[bytes], size: int, seconds: float) -> tuple[float, float]:
    """Photographs a second, decoded and scored in this process `size` at a time, and CPU seconds for each."""
    endless = itertools.cycle(photographs)
    model.score_with_features([model.read(photographs[0])])
    started, used, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        model.score_with_features([model.read(next(endless)) for _ in range(size)])
        done += size
    return done / (time.perf_counter() - started), (time.process_time() - used) / done


@contextmanager
def service(model: str, replicas: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A service of its own: its port and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ufgvc", "serve", "--model", model, "--port", str(port)]
    command += ["--rate", "100000000", "--replicas", str(replicas)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until_ready(port, process)
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def wait_until_ready(port: int, process: subprocess.Popen[bytes], within: float = 400) -> None:
    """Returns once the service answers."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the service did not start")


def ask(port: int, content: bytes, connection: http.client.HTTPConnection | None = None) -> tuple[int, float]:
    """The status of an answer and the seconds until it was read."""
    own = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="leaf.jpg"\r\n\r\n'
    started = time.perf_counter()
    own.request("POST", "/predict", head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode(), HEADERS)
    answer = own.getresponse()
    answer.read()
    return answer.status, time.perf_counter() - started


def closed_loop(port: int, photographs: list[bytes], clients: int, seconds: float) -> Noted:
    """Each client asks again as soon as it has its answer."""
    end = time.perf_counter() + seconds

    def client(number: int, note: Note) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for content in itertools.islice(itertools.cycle(photographs), number, None):
            if time.perf_counter() > end:
                return
            note(*ask(port, content, connection))

    return run_clients(clients, client)


def open_loop(port: int, photographs: list[bytes], per_second: float, seconds: float) -> Noted:
    """Requests at a steady rate, whether or not earlier ones were answered."""
    requests = max(20, int(per_second * seconds))
    started = time.perf_counter()

    def client(number: int, note: Note) -> None:
        time.sleep(max(0.0, started + number / per_second - time.perf_counter()))
        note(*ask(port, photographs[number % len(photographs)]))

    return run_clients(requests, client)


def run_clients(clients: int, client: Callable[[int, Note], None]) -> Noted:
    """The seconds of answered requests, and how often each status came, from a thread for each client."""
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    lock = threading.Lock()

    def note(status: int, taken: float) -> None:
        with lock:
            statuses[status] += 1
            if status == 200:
                seconds.append(taken)

    threads = [threading.Thread(target=client, args=(number, note)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, statuses


if __name__ == "__main__":
    main()
