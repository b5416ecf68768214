"""A local stack for one machine: an S3 server, MLflow and a Ray cluster, on loopback, without root.

    python cluster/local.py up       starts it, prints the addresses, and writes the environment variables to use it
    python cluster/local.py status   prints what answers; exit code 1 if something does not
    python cluster/local.py down     ends what `up` started, and nothing else

Exit codes: 0 done, 1 something is down, 2 an error in the settings or a server that did not start, 130 and 143
interrupted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run by its path: the project is found as it is with `python -m cluster.local`
    sys.path[0] = str(ROOT)

if TYPE_CHECKING:
    from cluster.stack import Stack


def up(
    folder: Path = ROOT / ".stack",
    nodes: int = 1,
    cpus: int | None = None,
    object_store_mb: int = 512,
    s3: str | None = None,
    bucket: str = "ufgvc",
    mlflow_store: str | None = None,
    quiet: bool = False,
) -> int:
    """Start the stack, or print that it is up.

    Args:
        folder: keeps its state, logs and MLflow's database.
        nodes: worker nodes of Ray in addition to the head, all on this machine.
        cpus: CPU slots of each node; default: this machine's cores, at least 2 (slots share cores).
        object_store_mb: memory of each node's object store, MiB.
        s3: URL of a running S3 server, with your AWS_* credentials; default: moto, which loses everything at `down`.
        bucket: the bucket for data, runs and MLflow's artifacts; made if it does not exist.
        mlflow_store: SQLAlchemy URI of MLflow's database, such as postgresql+psycopg2://... (needs psycopg2-binary);
            default: SQLite in the folder.
        quiet: print only the exports, for `eval "$(python cluster/local.py up --quiet)"`.
    """
    from cluster.launch import StackSettings, launch
    from cluster.stack import read_stack
    from ufgvc.core.errors import UserError
    from ufgvc.core.process import cpu_count

    if nodes < 0 or (cpus is not None and cpus < 1) or object_store_mb < 100:
        raise UserError("--nodes is 0 or more, --cpus 1 or more, --object-store-mb 100 or more")
    folder = folder.expanduser().resolve()
    settings = StackSettings(
        nodes=nodes,
        cpus=cpus or max(2, cpu_count()),
        s3=s3,
        bucket=bucket,
        mlflow_store=mlflow_store,
        object_store_mb=object_store_mb,
    )
    with _lock(folder):
        stack = read_stack(folder)
        found = stack is not None
        if stack is not None:
            failed = [name for name, answers in stack.check().items() if not answers]
            if failed or not stack.exports.exists():
                what = f"a stack is there, and {', '.join(failed) or 'its start'} did not survive"
                raise UserError(what, where=str(folder), fix="`down` ends the rest of it; then `up` again")
        stack = stack or launch(folder, settings)
    exports = stack.exports.read_text()
    if quiet:
        print(exports, end="")
        return 0
    print("the stack is up already" if found else "the stack is up")
    show(stack)
    places = f"--data s3://{stack.bucket}/leaves --runs s3://{stack.bucket}/runs"
    print(f"\nto use it:  source {stack.exports}\n\n{exports}")
    print(f"then, e.g.: ray job submit --working-dir . -- python -m jobs.train {places}")
    return 0


def status(folder: Path = ROOT / ".stack") -> int:
    """Print what answers and what does not.

    Args:
        folder: the folder that `up` was given.
    """
    from cluster.stack import read_stack

    folder = folder.expanduser().resolve()
    stack = read_stack(folder)
    if stack is None:
        print(f"no stack is up in {folder}")
        return 1
    return 0 if show(stack) else 1


def down(folder: Path = ROOT / ".stack") -> int:
    """End what `up` started, with the jobs that run on it. Logs and MLflow's database stay; what moto held in memory is
    lost.

    Args:
        folder: the folder that `up` was given.
    """
    from cluster.stack import read_stack

    folder = folder.expanduser().resolve()
    stack = read_stack(folder)
    if stack is None:
        print(f"no stack is up in {folder}")
        return 0
    with _lock(folder):
        stack.end()
    print("the stack is down")
    return 0


def show(stack: Stack) -> bool:
    """Prints the servers as a table; whether all of them answer."""
    from rich.console import Console
    from rich.table import Table

    answers = stack.check()
    table = Table("server", "address", "process", "", "log")
    for server in stack.servers:
        address = server.url or f"joins {stack.gcs}"
        state = "[green]answers[/]" if answers[server.name] else "[red]down[/]"
        table.add_row(server.name, address, str(server.pid or "not ours"), state, str(server.log or ""))
    # A pipe has no width: the path of a log must not be cut there.
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=True).print(table)
    return all(answers.values())


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One command at a time: two would each start, or end, half a stack."""
    from filelock import FileLock, Timeout

    from ufgvc.core.errors import UserError

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError("another `up` or `down` is running here", where=str(folder), fix="wait for it") from None


def main() -> int:
    """Runs the command; its exit code."""
    import tyro

    from ufgvc.core.errors import user_error_in
    from ufgvc.core.process import Stopped, sigterm_as_interrupt

    commands = {"up": up, "status": status, "down": down}
    try:
        with sigterm_as_interrupt():
            return int(tyro.extras.subcommand_cli_from_dict(commands, description=__doc__))
    except KeyboardInterrupt as stop:
        print("interrupted; nothing of a new stack keeps running", file=sys.stderr)
        return 143 if isinstance(stop, Stopped) else 130
    except Exception as error:
        users_error = user_error_in(error)
        if users_error is None:
            raise
        print(f"cluster/local.py: {users_error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
