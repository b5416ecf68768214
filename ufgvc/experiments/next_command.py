"""The command that comes next: what a data set lacks on the way to a champion that predicts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ufgvc.experiments.status import MaskStatus, RegistryStatus, Status, VersionStatus
from ufgvc.experiments.status_runs import RunStatus
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import redact

MIN_BOXES = 4  # leaves with boxes that `detect` needs


@dataclass(frozen=True)
class NextCommand:
    """command: to be typed, with <...> where a word of the user's own belongs.  reason: why it comes next."""

    command: str
    reason: str


def next_command(status: Status, context: Context = Context()) -> NextCommand:
    """What to type next.  context: of the status, whose runs folder and MLflow the command gets."""
    writer = _Writer(status, context)
    current = [run for run in status.runs if run.finished and not run.stale]
    if not current:
        return _before_training(status, writer)
    models = [run for run in current if run.validation != "kfold"]
    waiting = [run for run in models if not run.evaluated]
    if len(waiting) == 1 and _can_be_calibrated(waiting[0], status):  # of several, only the best is worth it
        return writer.calibrate(waiting[0], "and `ufgvc evaluate` registers it as it is")
    if waiting:
        what = f"{waiting[0].method}/{waiting[0].key} has not been scored on the test leaves"
        return writer.of_model("evaluate", waiting[0], what)
    changed = next((run for run in models if run.calibrated_since), None)
    if changed is not None:
        what = f"{changed.method}/{changed.key} was calibrated after its evaluation: this registers it as it is now"
        return writer.of_model("evaluate", changed, what)
    registry = status.registry
    challenger = next((each for each in registry.versions if each.number == registry.challenger), None)
    undecided = challenger is not None and _is_undecided(challenger, registry.champion)
    used = _run_of(models, registry, registry.challenger if undecided else registry.champion)
    if used is not None and _can_be_calibrated(used, status):
        return writer.calibrate(used, "and `ufgvc evaluate` then registers it anew")
    if challenger is not None and undecided:
        return writer.promote(challenger)
    best = current[0]
    model = f"models:/{registry.model}@champion" if registry.champion else str(best.model)
    words = f"predict --source <photographs> --model {shlex.quote(model)} --out <folder>"
    return NextCommand(f"ufgvc {words}{writer.runs}", "everything is done and current")


def _is_undecided(challenger: VersionStatus, champion: str | None) -> bool:
    """Whether `promote` has not compared the challenger with this champion on these photographs."""
    return challenger.number != champion and (champion is None or challenger.decided != champion)


def _can_be_calibrated(run: RunStatus, status: Status) -> bool:
    """Whether the model calls no leaf unknown, and there are leaves to calibrate it on."""
    return not run.has_threshold and (run.validation == "holdout" or status.can_hold_out)


def _run_of(models: list[RunStatus], registry: RegistryStatus, number: str | None) -> RunStatus | None:
    """The run that made a registered version, if it is one of these; without versions the best one."""
    if not registry.versions:
        return models[0] if models else None
    ids = [each.run_id for each in registry.versions if each.number == number and each.run_id is not None]
    return next((run for run in models if run.run_id in ids), None)


def _before_training(status: Status, writer: _Writer) -> NextCommand:
    lacking = next((masks for masks in status.masks if masks.stale), None)
    has_boxes = status.boxes is not None and not status.boxes.stale and status.boxes.leaves >= MIN_BOXES
    detector = status.detector is not None and not status.detector.stale
    if status.boxes is not None and status.boxes.stale:
        words = f"ufgvc ingest --source <photographs> --data {shlex.quote(status.data)}"
        return NextCommand(words, f"the boxes were {status.boxes.stale}")
    if lacking is not None and (lacking.kind == "exact" or lacking.boxes == "annotated" or detector):
        return writer.command("mask", f"the masks ({lacking.kind}) were {lacking.stale}", _mask_flags(lacking))
    if has_boxes and not detector and not [masks for masks in status.masks if not masks.stale]:
        assert status.boxes is not None
        return writer.command("detect", f"{status.boxes.leaves} leaves have boxes, and there is no detector of them")
    if detector and not [masks for masks in status.masks if not masks.stale]:
        return writer.command("mask", "there is a detector, and there are no masks")
    started = [run for run in status.runs if not run.finished and not run.stale]
    reason = "nothing has been trained on these photographs; `ufgvc audit` says what they are worth"
    if started:
        reason = (
            f"{started[0].method}/{started[0].key} is at epoch {started[0].epochs}; its own command goes on with it"
        )
    return writer.command("train", reason, "--method auto")


def _mask_flags(masks: MaskStatus) -> str:
    flags = f"--mask-kind {masks.kind}"
    if masks.kind == "exact":
        return f"{flags} --source <photographs>"
    return flags if masks.boxes in ("", "detected") else f"{flags} --box-source {masks.boxes}"


@dataclass(frozen=True)
class _Writer:
    """Writes commands with the data set, the runs folder and MLflow of the status."""

    status: Status
    context: Context

    @property
    def runs(self) -> str:
        """The flags for the runs folder and MLflow, where they are not the defaults."""
        runs, uri = self.context.runs, self.context.tracking.uri
        flags = "" if runs == Context().runs else f" --runs {shlex.quote(runs)}"
        return flags if uri is None else f"{flags} --tracking.uri {shlex.quote(redact(uri))}"

    def command(self, name: str, reason: str, flags: str = "") -> NextCommand:
        """A command of that name on the data set.  flags: of its own, as text."""
        words = f"ufgvc {name} --data {shlex.quote(self.status.data)}"
        return NextCommand(f"{words}{' ' if flags else ''}{flags}{self.runs}", reason)

    def of_model(self, name: str, run: RunStatus, reason: str) -> NextCommand:
        """A command of that name on the data set and the model of a run."""
        return self.command(name, reason, f"--model {shlex.quote(str(run.model))}")

    def promote(self, challenger: VersionStatus) -> NextCommand:
        """The comparison with the champion, which `promote` refuses where the champion learned from other leaves."""
        registry = self.status.registry
        old = next((each for each in registry.versions if each.number == registry.champion), None)
        if old is not None and old.stale:
            what = f"champion {old.number} may have learned from test leaves of now, so no test can decide for you"
            return self.command("promote", f"challenger {challenger.number}; {what}", "--force")
        rival = f"champion {registry.champion}" if registry.champion else "no champion yet"
        return self.command("promote", f"challenger {challenger.number}, {rival}")

    def calibrate(self, run: RunStatus, then: str) -> NextCommand:
        """then: what follows, for the reason."""
        return self.of_model("calibrate", run, f"{run.method}/{run.key} calls no leaf unknown yet, {then}")
