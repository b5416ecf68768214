"""A stack of one machine as it stands: its parts, whether they answer, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from cluster.processes import alive, end
from ufgvc.core.config import Settings


class Part(Settings):
    """One server.  pid: None where somebody else runs it.  url: None for a worker node of Ray, which has no address for people."""

    name: str
    pid: int | None
    url: str | None
    log: Path | None


class Stack(Settings):
    """What was started in `folder`.  mark: carried by its processes.  session: Ray's folder.  gcs: where drivers join (host:port).

    nodes: of Ray, the head among them.  parts: in the order in which they were started.
    """

    folder: Path
    mark: str
    session: Path
    bucket: str
    gcs: str
    dashboard: str
    nodes: int
    parts: tuple[Part, ...] = ()

    def started(self, part: Part) -> Stack:
        """With one more part, or another try at one. Written at once: whatever happens next, `down` finds it."""
        more = self.model_copy(update={"parts": (*(each for each in self.parts if each.name != part.name), part)})
        more.write()
        return more

    def write(self) -> None:
        write_private(self.folder / "stack.json", self.model_dump_json(indent=2) + "\n")

    def answering(self) -> dict[str, bool]:
        """Whether each part runs and answers, by its name."""
        running = alive(self.mark)
        return {
            part.name: (part.pid is None or part.pid in running)
            and (part.url is None or self.ask(part.url) is not None)
            for part in self.parts
        }

    def nodes_alive(self) -> int:
        """Nodes that Ray's head counts as alive; 0 if it does not answer."""
        answer = self.ask(f"{self.dashboard}/nodes?view=summary")
        try:
            summary = json.loads(answer or b"{}")["data"]["summary"]
        except (ValueError, KeyError):
            return 0
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in summary)

    def ask(self, url: str) -> bytes | None:
        """What a server answers, whatever its status; None if nobody does. Ray's dashboard is shown the token."""
        token = {"Authorization": f"Bearer {self.token.read_text()}"} if url.startswith(self.dashboard) else {}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, headers=token), timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as refusal:
            return refusal.read()
        except OSError:
            return None

    @property
    def token(self) -> Path:
        return self.folder / "token"

    @property
    def exports(self) -> Path:
        return self.folder / "env.sh"

    def end(self, keep_logs: bool = False) -> None:
        """Ends what was started and removes Ray's folder (keep_logs: its logs are put to the others); MLflow's database stays."""
        end(self.mark)
        for logs in self.session.glob("*/session_latest/logs") if keep_logs else ():
            shutil.copytree(logs, self.folder / "logs" / "ray" / logs.parts[-3], dirs_exist_ok=True)
        shutil.rmtree(self.session, ignore_errors=True)
        for file in (self.exports, self.token, self.folder / "stack.json"):
            file.unlink(missing_ok=True)


def read_stack(folder: Path) -> Stack | None:
    """The stack that was started in a folder and not ended; None if there is none."""
    try:
        return Stack.model_validate_json((folder / "stack.json").read_bytes())
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.unlink(missing_ok=True)  # an older file would keep its mode
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
