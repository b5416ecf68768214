"""The challenger against the champion on the same test leaves, and what follows from it for the registry."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.runtime import git_commit
from ufgvc.core.storage import join, open_store
from ufgvc.data.cluster import RaySettings, ray_session
from ufgvc.data.shards import Dataset, open_dataset
from ufgvc.report.card import with_decision
from ufgvc.report.contest import Contest, by_cultivar, contest
from ufgvc.report.evaluate import check_classes
from ufgvc.report.metrics import proportion, ranking
from ufgvc.report.promotion import Decision, Promotion, Side, short
from ufgvc.report.provenance import selection_of, trained_on
from ufgvc.report.scoring import runs_here, score_split
from ufgvc.report.settings import PromoteSettings
from ufgvc.track.models import LoadedModel, load_model
from ufgvc.track.registry import CHALLENGER, model_name, versions_of
from ufgvc.track.runs import recorded, start_run
from ufgvc.track.settings import TrackingSettings, redact
from ufgvc.track.versions import Version, champion_of, crown, find_version, read_card, write_on

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromoteResult:
    """promotion: what was decided.  file: URI of promotion.json."""

    promotion: Promotion
    file: str


def promote(
    data_uri: str,
    model_uri: str | None = None,
    runs_uri: str = "runs",
    settings: PromoteSettings | None = None,
    tracking: TrackingSettings | None = None,
    ray_settings: RaySettings | None = None,
) -> PromoteResult:
    """Decides between a version and the champion, hands the title on where the decision says so, and records it.

    model_uri: a registered version by any of its addresses; None: models:/ufgvc-<dataset>@challenger.  Leaves
    <runs>/<dataset>/promotion/<key>/promotion.json, an MLflow run, tags on both versions and a line on their cards.
    UserError if MLflow is away, or if the two cannot be compared fairly and `force` is not set.
    """
    settings, tracking = settings or PromoteSettings(), tracking or TrackingSettings()
    dataset = open_dataset(data_uri)
    name = model_name(dataset.name)
    new = find_version(model_uri or f"models:/{name}@{CHALLENGER}", name, tracking, runs_uri)
    old = champion_of(name, tracking, runs_uri)
    decided = _decide(dataset, name, new, old, settings, tracking, runs_uri, ray_settings)
    if decided.decision == "promoted":
        crown(new, old, tracking, runs_uri)
    key = short_key([name, new.number, old and old.number, dataset.fingerprint, settings.alpha, settings.force])
    folder = open_store(runs_uri).child(dataset.name, "promotion", key)
    folder.write_json("promotion.json", decided.to_json())
    result = PromoteResult(decided, join(folder.uri, "promotion.json"))
    _record(decided, new, old, settings, tracking, runs_uri, result.file)
    log.info("%s", decided.sentence())
    return result


def _decide(
    dataset: Dataset,
    name: str,
    new: Version,
    old: Version | None,
    settings: PromoteSettings,
    tracking: TrackingSettings,
    runs_uri: str,
    ray_settings: RaySettings | None,
) -> Promotion:
    about: dict[str, Any] = {"name": dataset.name, "uri": redact(dataset.store.uri), "fingerprint": dataset.fingerprint}
    about |= {"split": "test", "leaves": dataset.counts.get("test", 0)}
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "code": git_commit()}
    if old is not None and old.number == new.number:
        same = Side(new.number, new.run_id)
        return Promotion(name, "kept", "is the champion already", about, same, same, made=made)
    challenger = load_model(new.uri, tracking, runs_uri)
    check_classes(dataset, challenger, new.uri)
    champion, lost = _champion(dataset, old, settings.force, tracking, runs_uri)
    objections = [*lost, *_objections(dataset, new, challenger, old, champion)]
    if objections and not settings.force:
        raise UserError("; ".join(objections), where=new.uri, fix=_remedy(dataset))
    models = {"challenger": challenger} | ({"champion": champion} if champion else {})
    with contextlib.nullcontext() if runs_here(dataset, settings) else ray_session(ray_settings):
        scored = score_split(dataset, models, settings)
    right = {side: ranking(logits)[:, 0] == scored.label for side, logits in scored.logits.items()}
    held = contest(right["champion"], right["challenger"], settings.alpha) if champion else None
    decision, reason = _verdict(old, held, bool(objections), settings.force)
    return Promotion(
        name,
        decision,
        reason,
        about,
        _side(new, challenger, right["challenger"]),
        _side(old, champion, right.get("champion")) if old else None,
        held,
        by_cultivar(dataset.classes, scored.label, right.get("champion"), right["challenger"]),
        forced=settings.force and (bool(objections) or reason == "forced"),
        warnings=[*objections, *_warnings(dataset, new, challenger, old, tracking, runs_uri)],
        made=made,
    )


def _champion(
    dataset: Dataset, old: Version | None, force: bool, tracking: TrackingSettings, runs_uri: str
) -> tuple[LoadedModel | None, list[str]]:
    """The champion ready to be scored, or None with the reason why it cannot be: --force must be able to replace a broken one."""
    if old is None:
        return None, []
    try:
        model = load_model(old.uri, tracking, runs_uri)
    except UserError as error:
        if not force:
            raise
        return None, [f"the champion (version {old.number}) cannot be loaded: {error.what}"]
    if tuple(model.classes) != dataset.classes:
        theirs, ours = len(model.classes), len(dataset.classes)
        told = f"the champion (version {old.number}) names {theirs} cultivars that are not the {ours} of {dataset.name}"
        return None, [f"{told} (trained on data {short(trained_on(model))}, this is {short(dataset.fingerprint)})"]
    return model, []


def _objections(dataset: Dataset, new: Version, challenger: LoadedModel, old: Version | None, champion: LoadedModel | None) -> list[str]:
    """Why the comparison would not be fair."""
    sides = [("challenger", new, challenger)] + ([("champion", old, champion)] if old and champion else [])
    found = []
    for role, version, model in sides:
        if trained_on(model) != dataset.fingerprint:
            told = f"the {role} (version {version.number}) was trained on data {short(trained_on(model))}"
            found.append(f"{told}, this is {short(dataset.fingerprint)}: these test leaves may be among its training leaves")
    if champion and selection_of(challenger, {}) == "test" != selection_of(champion, {}):
        found.append(f"the epoch of the challenger (version {new.number}) was chosen on these test leaves, that of the champion was not")
    return found


def _remedy(dataset: Dataset) -> str:
    again = f"train and evaluate both on {dataset.store.uri} as it is now"
    return f"{again}, give the --data that they were trained on, or decide all the same with --force"


def _verdict(old: Version | None, held: Contest | None, unfair: bool, force: bool) -> tuple[Decision, str]:
    if old is None:
        return "promoted", "first champion"
    if held is not None and held.outcome == "better" and not unfair:
        return "promoted", "better"
    if force or held is None:
        return "promoted", "forced"
    return ("kept", "worse") if held.outcome == "worse" else ("undecided", "not told apart")


def _warnings(
    dataset: Dataset, new: Version, challenger: LoadedModel, old: Version | None, tracking: TrackingSettings, runs_uri: str
) -> list[str]:
    found = []
    if selection_of(challenger, {}) == "test":
        found.append("the challenger's epoch was chosen on these very test leaves, so its accuracy is too high")
    before = [v for v in versions_of(new.name, tracking, runs_uri) if v.tags.get("promotion_data") == dataset.fingerprint]
    others = sum(str(v.version) not in (new.number, old and old.number) for v in before)
    if others:
        told = f"{others} other challenger{'s were' if others > 1 else ' was'} decided on these same test leaves before"
        found.append(f"{told}: the more are tried, the likelier it is that one wins by luck")
    return found


def _side(version: Version, model: LoadedModel | None, right: NDArray[np.bool_] | None) -> Side:
    if model is None:
        return Side(version.number, version.run_id)
    info: Mapping[str, Any] = model.info
    masks = (info.get("fingerprints") or {}).get("masks")
    accuracy = proportion(int(right.sum()), len(right)) if right is not None else None
    return Side(version.number, version.run_id, model.method.name, trained_on(model), masks, info.get("mask_kind"), accuracy)


def _record(
    decided: Promotion, new: Version, old: Version | None, settings: PromoteSettings, tracking: TrackingSettings, runs: str, file: str
) -> None:
    """An MLflow run of the decision, and tags on both versions."""
    held = decided.contest
    numbers = {"promotion_p": f"{held.p:.6g}", "promotion_difference": f"{held.difference:+.6f}"} if held else {}
    shared = {"promotion_file": file, "promotion_data": decided.data["fingerprint"], **numbers}
    told = {"data": decided.data["uri"], "challenger": new.uri, "champion": old and old.uri, "settings": settings.model_dump()}
    tags = {"kind": "promote", "decision": decided.decision, "reason": decided.reason, "data": decided.data["fingerprint"]}
    with recorded(start_run(tracking, runs, decided.data["name"], f"promote version {new.number}", told, tags)) as run:
        if held:
            run.log_metrics({"p": held.p, "difference": held.difference, "gains": held.gains, "losses": held.losses})
        run.log_json(decided.to_json(), "promotion.json")
    if old is not None and old.number == new.number:
        return  # what an earlier decision wrote on the champion stays
    shared["promotion_run"] = run.id or ""
    against = {"promotion_opponent": old.number} if old else {}
    _write(new, {"promotion": decided.decision, **against, **shared}, decided, tracking, runs)
    if old is not None:
        answer = {"promoted": "replaced", "kept": "defended"}.get(decided.decision, "undecided")
        _write(old, {"promotion": answer, "promotion_opponent": new.number, **shared}, decided, tracking, runs)


def _write(version: Version, tags: Mapping[str, str], decided: Promotion, tracking: TrackingSettings, runs: str) -> None:
    line = f"{decided.made['made'][:10]}: {decided.sentence()}"
    write_on(version, tags, with_decision(read_card(version, tracking, runs), line), tracking, runs)
