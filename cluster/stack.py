"""A running local stack: its servers, whether they answer, and how they end.

Every process carries the stack's mark in its environment, so that `down` never ends another one. A process id would not
do, because the system gives it to somebody else once the process has ended. Only the owner of a process can read its
environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from ufgvc.core.config import Settings

MARK = "UFGVC_STACK"


class Server(Settings):
    """One server.  pid: None if somebody else runs it.  url: None for a worker node of Ray, which has no address for
    users.
    """

    name: str
    pid: int | None
    url: str | None
    log: Path | None


class Stack(Settings):
    """What was started in `folder`.  mark: carried by its processes.  session: Ray's folder.  gcs: address of Ray's
    head (host:port).

    nodes: of Ray, with the head.  servers: in the order in which they were started.
    """

    folder: Path
    mark: str
    session: Path
    bucket: str
    gcs: str
    dashboard: str
    nodes: int
    servers: tuple[Server, ...] = ()

    @property
    def token(self) -> Path:
        """File of the Ray token."""
        return self.folder / "token"

    @property
    def exports(self) -> Path:
        """File of the variables to export."""
        return self.folder / "env.sh"

    def with_server(self, server: Server) -> Stack:
        """A copy with this server, in place of one of the same name. Written at once, so that `down` finds it whatever
        happens next.
        """
        others = (each for each in self.servers if each.name != server.name)
        stack = self.model_copy(update={"servers": (*others, server)})
        stack.write()
        return stack

    def write(self) -> None:
        """Writes stack.json, readable by this user only."""
        write_private(self.folder / "stack.json", self.model_dump_json(indent=2) + "\n")

    def check(self) -> dict[str, bool]:
        """Whether each server runs and answers, by its name."""
        running = marked_processes(self.mark)
        return {
            server.name: (server.pid is None or server.pid in running)
            and (server.url is None or self.request(server.url) is not None)
            for server in self.servers
        }

    def count_alive_nodes(self) -> int:
        """Nodes that Ray's head counts as alive; 0 if it does not answer."""
        answer = self.request(f"{self.dashboard}/nodes?view=summary")
        try:
            summary = json.loads(answer or b"{}")["data"]["summary"]
        except (ValueError, KeyError):
            return 0
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)

    def request(self, url: str) -> bytes | None:
        """The body of a server's answer, whatever its status; None if there is no answer. Ray's dashboard gets the
        token.
        """
        token = {"Authorization": f"Bearer {self.token.read_text()}"} if url.startswith(self.dashboard) else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, headers=token), timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            return error.read()
        except OSError:
            return None

    def end(self, keep_logs: bool = False) -> None:
        """Ends the processes and removes Ray's folder; MLflow's database stays.  keep_logs: copies Ray's logs to the
        others.
        """
        end_processes(self.mark)
        for logs in self.session.glob("*/session_latest/logs") if keep_logs else ():
            shutil.copytree(logs, self.folder / "logs" / "ray" / logs.parts[-3], dirs_exist_ok=True)
        shutil.rmtree(self.session, ignore_errors=True)
        for file in (self.exports, self.token, self.folder / "stack.json"):
            file.unlink(missing_ok=True)


def read_stack(folder: Path) -> Stack | None:
    """The stack that was started in a folder and has not been ended; None if there is none."""
    try:
        return Stack.model_validate_json((folder / "stack.json").read_bytes())
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.unlink(missing_ok=True)  # an older file would keep its mode
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def start_process(command: list[str], environment: dict[str, str], mark: str, log: Path) -> subprocess.Popen[bytes]:
    """Starts a server in a session of its own, which outlives the terminal.  log: the file that it writes to."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | {MARK: mark},
            cwd=log.parent,
            start_new_session=True,
        )


def marked_processes(mark: str) -> dict[int, psutil.Process]:
    """The running processes that carry the mark, by process id."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # another user's, or just ended
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
    return found


def end_processes(mark: str, timeout: float = 20.0) -> None:
    """Terminates the topmost marked processes, and kills what is left of them and their children after `timeout`
    seconds.

    psutil remembers when each process began, and refuses to signal another one with the same id.
    """
    marked = list(marked_processes(mark).values())
    processes = set(marked)
    for process in marked:
        with contextlib.suppress(psutil.Error):
            processes |= set(process.children(recursive=True))  # Ray's workers overwrite their environment
    pids = {process.pid for process in processes}
    for process in marked:
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in pids:
                process.terminate()
    _, left = psutil.wait_procs(processes, timeout=timeout)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=timeout)
