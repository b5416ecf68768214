"""`python3 -m cluster.gpu.run [--parts tests bench trainings] [--dry]`: runs the parts on this host and prints a
summary last.

Results go to $OUT, else to .gpu/out: tests.json, bench.json, bench.md, experiment.json, sharing.json, trainings.json,
trainings.md, log.txt, summary.json, summary.txt.
Exit codes: 0 all parts succeeded, 1 one did not, 2 nothing could start.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.gpu.call import Call, environment, install, probe
from cluster.gpu.commands import Log
from cluster.gpu.experiment import run_experiment
from cluster.gpu.parts import Part, run_bench, run_sharing, run_tests
from cluster.gpu.paths import FOLDER, WORK, GpuCallError, git_commit, packed_commit, write_json
from cluster.gpu.trainings import BENCHMARKS, DEFAULT_BENCHMARKS, run_trainings

PARTS: dict[str, Callable[[Call, float], Part]] = {
    "tests": run_tests,
    "bench": run_bench,
    "experiment": run_experiment,
    "sharing": run_sharing,
    "trainings": run_trainings,
}
DEFAULT_PARTS = ("tests", "bench", "trainings")
# A call on that host may last 600.
SECONDS = {"tests": 150.0, "bench": 170.0, "experiment": 240.0, "sharing": 150.0, "trainings": 450.0, "all": 540.0}
# On two busy cores.
DRY_SECONDS = {"tests": 900.0, "bench": 400.0, "experiment": 300.0, "sharing": 300.0, "trainings": 700.0, "all": 2000.0}
ROOM = 11_500  # characters of output that a call brings back


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts that are asked for. Returns the exit code."""
    flags = parse_flags(arguments)
    # An exception, so that commands are ended and results are written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    out = Path(os.environ.get("OUT") or FOLDER / "out").resolve()
    for folder in (out, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    try:
        with environment() as env:
            return run_parts(flags, out, env)
    except GpuCallError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2


def parse_flags(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m cluster.gpu.run", description="tests, speeds and trainings on a GPU host"
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=list(PARTS),
        default=list(DEFAULT_PARTS),
        help=f"in this order; none: install the wheels only; default: {' '.join(DEFAULT_PARTS)}",
    )
    parser.add_argument("--bench-parts", nargs="*", default=(), help="of `ufgvc bench`; default: all")
    parser.add_argument("--bench-flags", default="", help="more flags of `ufgvc bench`, as one argument")
    parser.add_argument(
        "--benchmarks",
        nargs="*",
        choices=list(BENCHMARKS),
        default=DEFAULT_BENCHMARKS,
        help=f"of the trainings, concurrently; default: {' '.join(DEFAULT_BENCHMARKS)}",
    )
    parser.add_argument("--dry", action="store_true", help="everything on the CPU, with tiny sizes")
    for name, seconds in SECONDS.items():
        text = f"limit of {name}; default: {seconds:.0f}, dry {DRY_SECONDS[name]:.0f}"
        parser.add_argument(f"--{name}-seconds", type=float, help=text)
    parser.add_argument("--commit", help="of the code that runs; default: what git or gpu-pack says")
    flags = parser.parse_args(arguments)
    for name, seconds in (DRY_SECONDS if flags.dry else SECONDS).items():
        if getattr(flags, f"{name}_seconds") is None:
            setattr(flags, f"{name}_seconds", seconds)
    return flags


def run_parts(flags: argparse.Namespace, out: Path, env: dict[str, str]) -> int:
    """Installs the wheels, runs each part within its time limit, and writes the summary. Returns the exit code."""
    started = time.monotonic()
    print(install(env))
    about = probe(env)
    if about["device"] is None and not flags.dry:
        raise GpuCallError("there is no CUDA device here; --dry (`make gpu DRY=1`) tries everything on the CPU")
    about = {"commit": flags.commit or git_commit() or packed_commit() or "unknown", "dry": flags.dry, **about}
    env["UFGVC_COMMIT"] = about["commit"]  # for the pages and files that the commands write
    call = Call(
        dry=flags.dry,
        out=out,
        env=env,
        log=Log(out / "log.txt"),
        deadline=started + flags.all_seconds,
        device=about["device"],
        bench_parts=tuple(flags.bench_parts),
        bench_flags=tuple(shlex.split(flags.bench_flags)),
        benchmarks=tuple(flags.benchmarks),
    )
    done: list[Part] = []
    try:
        for name in flags.parts:
            limit = min(getattr(flags, f"{name}_seconds"), call.deadline - time.monotonic())
            done.append(run_part(name, call, limit))
            write_summary(out, about, done, flags.parts, time.monotonic() - started)
    finally:
        text = write_summary(out, about, done, flags.parts, time.monotonic() - started)
        print(text)
    return 0 if all(part.state == "ok" for part in done) else 1


def run_part(name: str, call: Call, limit: float) -> Part:
    """Runs one part. An error of the runner itself is that part's failure, with its traceback; the other parts still
    run.
    """
    if limit < 5:
        return Part(name, "left out", 0.0, ["no time was left"])
    print(f"{name}: at most {limit:.0f} s", flush=True)
    started = time.monotonic()
    try:
        part = PARTS[name](call, limit)
    except Exception:
        import traceback

        part = Part(name, "failed", time.monotonic() - started, [], tuple(traceback.format_exc().splitlines()[-30:]))
    print(f"{name}: {part.state} after {part.seconds:.0f} s", flush=True)
    return part


def write_summary(out: Path, about: dict[str, Any], done: Sequence[Part], wanted: Sequence[str], seconds: float) -> str:
    """Writes summary.json and summary.txt; returns the text."""
    text = summary(about, done, wanted, seconds)
    write_json(out / "summary.json", {**about, "seconds": round(seconds, 1), "parts": [asdict(part) for part in done]})
    (out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    return text


def summary(
    about: dict[str, Any], done: Sequence[Part], wanted: Sequence[str], seconds: float, room: int = ROOM
) -> str:
    """The summary as text of at most `room` characters: failures, then figures, the table of parts last."""
    lines: list[str] = []
    for part in (part for part in done if part.tail):
        lines += [f"--- {part.name}, the last lines ---", *(line[:300] for line in part.tail)]
    for part in (part for part in done if part.headline):
        lines += [f"--- {part.name} ---", *part.headline]
    device = f"{about['device']} ({about['memory_gib']} GiB)" if about["device"] else "no GPU"
    end = [
        f"commit {about['commit']}" + (", DRY RUN" if about["dry"] else ""),
        f"{device}, {about['cores']} cores, Python {about['python']}, torch {about['torch']} (CUDA {about['cuda']})",
        *(f"{part.name:<10} {part.state:<9} {part.seconds:6.0f} s" for part in done),
        *(f"{name:<10} not begun" for name in wanted if name not in {part.name for part in done}),
        f"{'together':<10} {'':<9} {seconds:6.0f} s",
    ]
    last = "\n".join(end)
    first = "\n".join(lines)
    if len(first) + len(last) > room:
        first = "... (all of it: summary.txt, log.txt)\n" + first[len(first) + len(last) + 40 - room :]
    return f"{first}\n{last}" if first else last


if __name__ == "__main__":
    sys.exit(main())
