"""Several machines on this one, for tests that lose one of them.

With root and the tools of Linux a machine is made of the kernel's namespaces: an address on a bridge, a host name that
means loopback (as on Debian), its own processes, /tmp and shared memory. All of it hangs on processes that die with
this one, and the kernel takes it down with the last of them. Elsewhere the machines are groups of processes on
loopback, which share this machine's folders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

WITH_US = ("setpriv", "--pdeathsig", "KILL")  # the process dies when this one does
TOOLS = ("ip", "nsenter", "setpriv", "unshare", "mount")


@dataclass
class Machine:
    """tmp: its temporary folder, seen from here, and own_tmp: as it is called there.

    started: what was started on it; everything else that runs there descends from these.
    """

    name: str
    address: str
    tmp: Path
    own_tmp: str
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    def processes(self, named: str = "") -> list[psutil.Process]:
        """What runs on it and has `named` in its command line."""
        return [process for each in self.started for process in tree(each.pid) if named in command_line(process)]


class Machines(Protocol):
    kind: str
    hub: Machine
    """A machine for servers that all others reach, and so does this process."""

    def add(self, name: str) -> Machine: ...

    def run(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
        """Starts a command on a machine; its output goes to the file."""

    def lose(self, machine: Machine) -> None:
        """Its cable is pulled (where it has one) and every process of it gets SIGKILL."""


def machines(folder: Path) -> contextlib.AbstractContextManager[Machines]:
    """Namespaces where they are allowed, else loopback. Nothing is left of them after the block.

    folder: for their /tmp.
    """
    return opened(Namespaces(folder) if namespaces_work() else Loopback(folder))


@contextlib.contextmanager
def opened(place: Namespaces | Loopback) -> Iterator[Machines]:
    try:
        place.open()
        yield place
    finally:
        place.close()


def namespaces_work() -> bool:
    if os.getuid() != 0 or not all(map(shutil.which, TOOLS)):
        return False
    probe = (
        "mount -t tmpfs none /tmp && ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge"
    )
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "bash", "-c", probe]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


class Namespaces:
    """A bridge in a network namespace of its own, a cable from it to each machine and one to this process."""

    kind = "network namespaces"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = f"198.18.{os.getpid() % 256}"  # a range that is set aside for tests of networks
        self.hub = Machine("hub", f"{self.net}.1", folder, str(folder))
        self.outside = f"uf{os.getpid()}"
        self._holders: dict[str, subprocess.Popen[Any]] = {}
        self._machines = [self.hub]

    def open(self) -> None:
        self._holders["hub"] = subprocess.Popen([*WITH_US, "unshare", "--net", "sleep", "infinity"])
        wait_for(lambda: _namespace(self._holders["hub"].pid) != _namespace(os.getpid()), "the bridge's namespace")
        self._in_hub("ip link set lo up; ip link add bridge type bridge; ip link set bridge up")
        self._in_hub(f"ip address add {self.hub.address}/24 dev bridge")
        _shell(f"ip link add {self.outside} type veth peer name outside netns {self._holders['hub'].pid}")
        _shell(f"ip address add {self.net}.254/24 dev {self.outside}; ip link set {self.outside} up")
        self._in_hub("ip link set outside master bridge; ip link set outside up")

    def add(self, name: str) -> Machine:
        number = len(self._holders)
        machine = Machine(name, f"{self.net}.{10 + number}", self.folder / name, "/tmp")
        machine.tmp.mkdir(parents=True)
        hosts = machine.tmp / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        # The shell is process 1 of the machine: it clears orphans away, and all the others die with it.
        becoming = (
            f"hostname {name} && mount -t tmpfs shm /dev/shm && mount --bind {hosts} /etc/hosts && "
            f"{_own_tmp(machine.tmp)} && "
            f"until ip link set eth0 up; do sleep 0.1; done && "
            f"ip address add {machine.address}/24 dev eth0 && ip link set lo up && "
            "touch /tmp/ready; while :; do sleep 60; done"
        )
        namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc", "--kill-child"]
        with (machine.tmp / "init.log").open("wb") as output:
            holder = subprocess.Popen(
                [*WITH_US, "unshare", *namespaces, "bash", "-c", becoming], stdout=output, stderr=output
            )
        self._holders[name] = holder
        self._machines.append(machine)
        wait_for(lambda: psutil.Process(holder.pid).children(), f"{name}'s first process")
        self._in_hub(f"ip link add to-{name} type veth peer name eth0 netns {self._first(machine)}")
        self._in_hub(f"ip link set to-{name} master bridge; ip link set to-{name} up")
        wait_for((machine.tmp / "ready").exists, f"{name}'s address")
        return machine

    def run(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
        where = ["--net"] if machine is self.hub else ["--net", "--mount", "--pid", "--uts", "--ipc"]
        entering = [*WITH_US, "nsenter", "--target", str(self._first(machine)), *where, f"--wd={os.getcwd()}", "--"]
        return _start(machine, [*entering, *command], env, log)

    def lose(self, machine: Machine) -> None:
        self._in_hub(f"ip link set to-{machine.name} down")
        os.kill(self._first(machine), 9)
        for process in [*machine.started, self._holders[machine.name]]:
            process.wait(60)

    def close(self) -> None:
        end(*(process.pid for process in self.hub.started))
        for holder in self._holders.values():  # the kernel ends all that is within
            holder.kill()
        for process in [*self._holders.values(), *(each for machine in self._machines for each in machine.started)]:
            process.wait(60)

    def _first(self, machine: Machine) -> int:
        """The process that a machine stands and falls with."""
        holder = self._holders[machine.name].pid
        return holder if machine is self.hub else int(psutil.Process(holder).children()[0].pid)

    def _in_hub(self, commands: str) -> None:
        _shell(commands, "nsenter", "--target", str(self._holders["hub"].pid), "--net")


def _own_tmp(folder: Path) -> str:
    """A shell command that puts a folder in the place of /tmp, with this checkout in it where that lies below /tmp."""
    seen = f"mount --rbind {folder} /tmp"
    checkout = Path(__file__).resolve().parents[2]
    if not checkout.is_relative_to("/tmp"):
        return seen
    place = folder / checkout.relative_to("/tmp")
    place.mkdir(parents=True)
    return f"mount --bind {checkout} {place} && {seen}"


class Loopback:
    """Groups of processes, each with an address of its own on loopback."""

    kind = "processes on loopback"

    def __init__(self, folder: Path) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="uf-")
        )  # pytest's own has too long a name for the sockets of a raylet
        self.hub = Machine("hub", "127.0.0.1", folder, str(folder))
        self._machines = [self.hub]

    def open(self) -> None:
        pass

    def add(self, name: str) -> Machine:
        machine = Machine(name, "127.0.0.1", self.folder / name, str(self.folder / name))
        machine.tmp.mkdir(parents=True)
        self._machines.append(machine)
        return machine

    def run(self, machine: Machine, command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
        return _start(machine, command, env, log)

    def lose(self, machine: Machine) -> None:
        end(*(process.pid for process in machine.started))
        for process in machine.started:
            process.wait(60)

    def close(self) -> None:
        for machine in self._machines:
            self.lose(machine)
        shutil.rmtree(self.folder)


def _start(machine: Machine, command: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
    with log.open("ab") as output:
        # A group of its own: Ray ends groups of processes, and within a machine those from without all seem to be one.
        own = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
        process = subprocess.Popen(["nice", "-n", "5", *command], env=dict(env), **own)
    machine.started.append(process)
    return process


def _shell(commands: str, *within: str) -> None:
    done = subprocess.run([*within, "bash", "-ec", commands], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{commands}: {done.stderr}"


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; [] if it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end(*pids: int) -> None:
    """SIGKILL for these processes and all that descend from them, and for what they start meanwhile."""
    while alive := [process for pid in pids for process in tree(pid) if runs(process)]:
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)  # psutil's own waiting would take a child's exit code away from whoever started it


def wait_for(condition: Any, what: str, within: float = 60) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {within:.0f} s for {what}")


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
