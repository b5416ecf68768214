"""A process that records runs on MLflow: the import of MLflow and its new database take seconds of a core, which a
thread of this process would take from the training.

It ends with this process, also where that is killed. What it logs as a warning is logged here.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import logging
import os
import pickle
import queue
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.process import disable_telemetry
from ufgvc.tracking.runs import MlflowRun
from ufgvc.tracking.settings import MlflowLocation, is_remote

END_SECONDS = 5.0  # that the process may take to end; it needs milliseconds
_CLIENT, _DATABASE = "mlflow", "mlflow.store.tracking.sqlalchemy_store"  # what it imports before the first run


class RecorderLost(Exception):
    """There is no process: it could not be started, it was killed, or an error that is no UserError ended it with its
    traceback.
    """


class Recorder:
    """The process, from the side of the one that started it. RecorderLost if the machine cannot start one more."""

    def __init__(self, location: MlflowLocation) -> None:
        self._numbers, self._lock = itertools.count(), threading.Lock()
        imports = _CLIENT if is_remote(location.uri) else _DATABASE
        try:
            self._connection, theirs = Pipe()
            with theirs:
                self._process = _start(theirs.fileno(), imports)
        except OSError as error:  # no memory, no file descriptor
            raise RecorderLost(error.strerror) from error
        atexit.register(self._end)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def add(self, run: MlflowRun) -> int:
        """Gives the process a run that is not open, with this process's environment. Returns the run's number."""
        number = next(self._numbers)
        self._request((number, None, (run, dict(os.environ), os.getcwd())))
        return number

    def call(self, number: int, name: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a method of a run, or its attribute. UserError as it raises; RecorderLost."""
        return self._request((number, name, arguments))

    def _request(self, request: tuple[int, str | None, tuple[Any, ...]]) -> Any:
        with self._lock:
            try:
                self._connection.send(request)
                result, error, messages = self._connection.recv()
            except (EOFError, OSError) as lost:
                raise RecorderLost from lost
        for logger, level, text in messages:
            logging.getLogger(logger).log(level, "%s", text)
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Ends the process at once, also one that waits for a server that does not answer."""
        self._process.kill()
        self._process.wait()

    def _end(self) -> None:
        self._connection.close()
        try:
            self._process.wait(END_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.kill()


def _start(connection: int, imports: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(connection), imports],
        stdin=subprocess.DEVNULL,
        stdout=2,  # a library may print; the result of a command is on standard output
        pass_fds=[connection],
        process_group=0,  # Control-C is for this process, which then ends its runs
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # "" is the folder of a notebook
            "MLFLOW_CONFIGURE_LOGGING": "0",
        },
    )


class _Messages(logging.Handler):
    """Keeps what is logged, for the process that requested the work."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.kept: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelno, record.getMessage()))

    def take(self) -> list[tuple[str, int, str]]:
        """All messages since the last call."""
        taken, self.kept = self.kept, []
        return taken


def _receive(connection: Connection, requests: queue.SimpleQueue[bytes]) -> None:
    """Passes on the requests, and ends this process with the one that sends them, whatever it is doing."""
    try:
        while True:
            requests.put(connection.recv_bytes())
    except (EOFError, OSError):
        pass
    finally:  # also without memory for a request: the other process would wait for its answer
        os._exit(0)


def serve(connection: Connection, imports: str) -> None:
    """Answers requests of a Recorder until its process ends.  imports: a module that the first run will need."""
    requests, messages, runs = queue.SimpleQueue[bytes](), _Messages(), dict[int, MlflowRun]()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    logging.basicConfig(handlers=[messages])
    disable_telemetry()
    importlib.import_module(imports)
    while True:
        number, name, arguments = pickle.loads(requests.get())
        result: Any = None
        error: UserError | None = None
        try:
            if name is None:
                runs[number], environment, folder = arguments
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(folder)
            else:
                found = getattr(runs[number], name)
                result = found(*arguments) if callable(found) else found
        except UserError as raised:
            error = raised
        connection.send((result, error, messages.take()))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), sys.argv[2])
