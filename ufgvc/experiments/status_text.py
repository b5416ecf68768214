"""The status of a data set as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.text import plural
from ufgvc.experiments.next_command import NextCommand
from ufgvc.experiments.status import RegistryStatus, Status
from ufgvc.experiments.status_runs import RunStatus
from ufgvc.reports.tables import Table, count_of, percent

SHOWN_RUNS = 20
STALE = "stale"
_NOTES = {"test": "selected on test", "kfold": "one fold", "holdout": "leaves held out"}


def status_lines(status: Status) -> Iterator[str]:
    """A line for each thing that there is, the runs left out."""
    leaves = ", ".join(f"{count} {split}" for split, count in status.leaves.items())
    counts = f"{plural(status.cultivars, 'cultivar')}, {leaves} leaves"
    yield f"data      {status.name}: {counts}; fingerprint {status.fingerprint[:12]}"
    if status.regions != PAPER_REGIONS:
        yield f"regions   {', '.join(status.regions)}"
    boxes, detector = status.boxes, status.detector
    yield f"boxes     {f'on {boxes.leaves} leaves{_mark(boxes.stale)}' if boxes else 'none'}"
    if detector is None:
        yield "detector  none"
    else:
        measured = f"mAP@0.5 {detector.map50:.3f} on {detector.evaluated} {detector.evaluated_on}"
        yield f"detector  {measured}{_mark(detector.stale)}"
    if not status.masks:
        yield "masks     none"
    for masks in status.masks:
        yield f"masks     {masks.kind}: every region on {masks.complete} of {masks.n} leaves{_mark(masks.stale)}"
    finished = sum(run.finished for run in status.runs)
    trials = status.trials
    more = f"; {trials.ended} of {trials.started} trials of comparisons ended" if trials.started else ""
    yield f"runs      {finished} finished, {len(status.runs) - finished} not finished{more}"
    yield f"registry  {_registry(status.registry)}"


def runs_table(status: Status) -> Table | None:
    """The runs, the best first; None without any. It fits 100 columns."""
    if not status.runs:
        return None
    rows: list[list[str | None]] = [
        [run.method, run.key, _score(run) or _progress(run), _note(run)] for run in status.runs[:SHOWN_RUNS]
    ]
    left = len(status.runs) - SHOWN_RUNS
    note = f"and {plural(left, 'more run')}" if left > 0 else ""
    columns = ("Method", "Run", "Leaves right", "Note")
    return Table("Runs", columns, rows, frozenset({0, 1, 2, 3}), note)


def closing_lines(status: Status, following: NextCommand) -> Iterator[str]:
    """What is stale, and the next command."""
    yield from (f"stale: {sentence}" for sentence in status.stale)
    yield f"next: {following.command}"
    yield f"      ({following.reason})"


def _mark(stale: str) -> str:
    return f" ({STALE})" if stale else ""


def _progress(run: RunStatus) -> str:
    if run.finished:
        return "finished, not evaluated"
    return f"epoch {run.epochs}, not finished" if run.epochs else "not finished"


def _score(run: RunStatus) -> str | None:
    score = run.score
    if score is None:
        return None
    text = f"{count_of(score.k, score.n)} {score.on} = {percent(score.value)}"
    if score.low is None or score.high is None:
        return text
    return f"{text} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _note(run: RunStatus) -> str:
    if run.stale:
        return STALE
    return _NOTES.get(run.validation, "")


def _registry(registry: RegistryStatus) -> str:
    if registry.problem:
        return f"not read ({registry.problem})"
    if not registry.versions:
        return f"no version of {registry.model}"
    accuracies = {version.number: version.accuracy.replace("/", " of ") for version in registry.versions}

    def named(role: str, number: str | None) -> str:
        if number is None:
            return f"no {role}"
        right = accuracies.get(number)
        return f"{role} {number}" + (f" ({right} right)" if right else "")

    roles = f"{named('champion', registry.champion)}, {named('challenger', registry.challenger)}"
    return f"{registry.model}: {plural(len(registry.versions), 'version')}; {roles}"
