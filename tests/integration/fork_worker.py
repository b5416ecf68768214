"""Ray starts this in place of its own set-up of a worker: `forked_workers.py` forks the worker, and this process waits
for its end. It imports next to nothing, because it is started for each worker.
"""

import os
import select
import socket
import sys
from collections.abc import Sequence

SOCKET = "UFGVC_TESTS_WORKERS"


def send(connection: socket.socket, data: bytes, files: Sequence[int]) -> None:
    socket.send_fds(connection, [len(data).to_bytes(4, "big")], files)
    connection.sendall(data)


def main() -> None:
    parent = os.getppid()
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    parts = [os.getcwd(), str(len(sys.argv) - 1), *sys.argv[1:], *environment]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        send(connection, "\0".join(parts).encode("utf-8", "surrogateescape"), [0, 1, 2])
        # Until the worker, which has the other end, has ended, or Ray, which started this process.
        while not select.select([connection], [], [], 1)[0] and os.getppid() == parent:
            pass


if __name__ == "__main__":
    main()
