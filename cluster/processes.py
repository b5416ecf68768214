"""The processes of a stack. Each carries the stack's mark in its environment, so that no other is ever taken for one of them.

A number alone would not do: once a process has ended, the system may give its number to anybody's. Only the owner can read an environment.
"""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
from pathlib import Path

import psutil

MARK = "UFGVC_STACK"


def start(command: list[str], environment: dict[str, str], mark: str, log: Path) -> int:
    """Starts a server in a session of its own, which outlives the terminal; its process id. log: where it writes."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | {MARK: mark},
            cwd=log.parent,
            start_new_session=True,
        )
    return process.pid


def alive(mark: str) -> dict[int, psutil.Process]:
    """The running processes that carry the mark, by process id."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # another's, or just ended
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    return found


def end(mark: str, patience: float = 20.0) -> None:
    """Ends the marked processes and all that they started: the topmost are asked first, what is left after `patience` seconds is killed.

    psutil remembers when each process began and refuses to signal another one under the same number.
    """
    marked = list(alive(mark).values())
    everything = set(marked)
    for process in marked:
        with contextlib.suppress(psutil.Error):
            everything |= set(
                process.children(recursive=True)
            )  # Ray's workers write their titles over their environment
    numbers = {process.pid for process in everything}
    for process in marked:
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in numbers:
                process.terminate()
    _, left = psutil.wait_procs(everything, timeout=patience)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=patience)


def last_line(log: Path) -> str:
    """What a server said last; "" if it said nothing."""
    try:
        lines = [
            line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""


def free_ports(number: int) -> list[int]:
    """So many different ports of loopback that nobody listens on now.

    Between Ray's worker ports and those that the system gives to whoever asks for any, so that neither takes one before its server does.
    """
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        while len(ports) < number:
            probe, port = probes.enter_context(socket.socket()), random.randrange(20_000, 32_000)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports
