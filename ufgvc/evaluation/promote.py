"""The challenger against the champion on the same test leaves, and what follows from it for the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.process import git_commit
from ufgvc.core.storage import join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.evaluation.evaluate import other_cultivars
from ufgvc.evaluation.metrics import proportion, ranking
from ufgvc.evaluation.model_card import with_decision
from ufgvc.evaluation.paired_test import PairedComparison, by_cultivar, compare_paired
from ufgvc.evaluation.promotion import Decision, Promotion, Side
from ufgvc.evaluation.promotion_checks import blockers, caveats, remedy
from ufgvc.evaluation.provenance import trained_on
from ufgvc.evaluation.score import runs_here, score_split
from ufgvc.evaluation.settings import PromoteSettings
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import CHALLENGER, list_versions, model_name
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.tracking.settings import redact
from ufgvc.tracking.versions import Version, find_version, get_champion, read_card, set_champion, write_version


@dataclass(frozen=True)
class PromoteResult:
    """promotion: what was decided.  file: URI of promotion.json."""

    promotion: Promotion
    file: str


def promote(
    data: str,
    model_uri: str | None = None,
    settings: PromoteSettings | None = None,
    context: Context = Context(),
) -> PromoteResult:
    """Decides between a version and the champion, hands the title on where the decision says so, and records it.

    model_uri: a registered version by any of its addresses; None: models:/ufgvc-<dataset>@challenger.  Leaves
    <runs>/<dataset>/promotion/<key>/promotion.json, an MLflow run, tags on both versions and a line on their cards.
    UserError if MLflow is away, or if the two cannot be compared fairly and `force` is not set.
    """
    settings = settings or PromoteSettings()
    dataset = open_dataset(data)
    name = model_name(dataset.name)
    new = find_version(model_uri or f"models:/{name}@{CHALLENGER}", name, context)
    old = get_champion(name, context)
    versions = {"challenger": new} | ({"champion": old} if old else {})
    decided = _decide(dataset, versions, settings, context)
    if decided.decision == "promoted":
        set_champion(new, old, context)
    key = short_key([name, new.number, old and old.number, dataset.fingerprint, settings.alpha, settings.force])
    folder = open_store(context.runs).child(dataset.name, "promotion", key)
    folder.write_json("promotion.json", decided.to_json())
    result = PromoteResult(decided, join(folder.uri, "promotion.json"))
    _record(decided, new, old, settings, context, result.file)
    return result


def _decide(
    dataset: Dataset,
    versions: Mapping[str, Version],
    settings: PromoteSettings,
    context: Context,
) -> Promotion:
    """versions: the challenger, and the champion if there is one."""
    new, old = versions["challenger"], versions.get("champion")
    about: dict[str, Any] = {"name": dataset.name, "uri": redact(dataset.store.uri), "fingerprint": dataset.fingerprint}
    about |= {"split": "test", "leaves": dataset.counts.get("test", 0)}
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "code": git_commit()}
    if old is not None and new.number == old.number:
        same = Side(new.number, new.run_id)
        return Promotion(new.name, "kept", "is the champion already", about, same, same, made=made)
    models = {role: _load(version, role, settings.force, context) for role, version in versions.items()}
    against = blockers(dataset, versions, models)
    if against and not settings.force:
        raise UserError("; ".join(against), where=new.uri, fix=remedy(dataset))
    label, right = _score(dataset, models, settings, context)
    held = compare_paired(right["champion"], right["challenger"], settings.alpha) if len(right) == 2 else None
    decision, reason = decide(old is None, held, fair=not against, force=settings.force)
    sides = {role: _side(version, models[role], right.get(role)) for role, version in versions.items()}
    return Promotion(
        new.name,
        decision,
        reason,
        about,
        sides["challenger"],
        sides.get("champion"),
        held,
        by_cultivar(dataset.classes, label, right.get("champion"), right["challenger"])
        if "challenger" in right
        else (),
        forced=bool(against) or reason == "forced",
        warnings=[
            *against,
            *caveats(dataset, versions, models["challenger"], list_versions(new.name, context)),
        ],
        made=made,
    )


def _load(version: Version, role: str, force: bool, context: Context) -> LoadedModel | None:
    """None for a champion whose files cannot be read: --force must be able to replace it."""
    try:
        return load_model(version.uri, context)
    except UserError:
        if force and role == "champion":
            return None
        raise


def _score(
    dataset: Dataset,
    models: Mapping[str, LoadedModel | None],
    settings: PromoteSettings,
    context: Context,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]:
    """Labels (N,) of the test leaves, and (N,) right or not for each model that names the data set's cultivars."""
    able = {role: model for role, model in models.items() if model and not other_cultivars(dataset, model)}
    if not able:
        return np.zeros(0, np.int64), {}
    with (
        contextlib.nullcontext()
        if runs_here(dataset, settings)
        else ray_session(context.ray, settings.gpus_to_wait_for)
    ):
        scored = score_split(dataset, able, settings)
    return scored.label, {role: ranking(logits)[:, 0] == scored.label for role, logits in scored.logits.items()}


def decide(first: bool, held: PairedComparison | None, fair: bool, force: bool) -> tuple[Decision, str]:
    """The decision and its reason.  held: None where the two could not be compared, which only --force lets pass."""
    if first:
        return "promoted", "first champion"
    if held is not None and held.outcome == "better" and fair:
        return "promoted", "better"
    if force or held is None:
        return "promoted", "forced"
    return ("kept", "worse") if held.outcome == "worse" else ("undecided", "not told apart")


def _side(version: Version, model: LoadedModel | None, right: NDArray[np.bool_] | None) -> Side:
    if model is None:
        return Side(version.number, version.run_id)
    masks = (model.info.get("fingerprints") or {}).get("masks")
    accuracy = proportion(int(right.sum()), len(right)) if right is not None else None
    return Side(
        version.number,
        version.run_id,
        model.method.name,
        trained_on(model),
        masks,
        model.info.get("mask_kind"),
        accuracy,
    )


def _record(
    decided: Promotion,
    new: Version,
    old: Version | None,
    settings: PromoteSettings,
    context: Context,
    file: str,
) -> None:
    """An MLflow run of the decision, and tags on both versions."""
    held = decided.contest
    shared = {
        "promotion_file": file,
        "promotion_data": decided.data["fingerprint"],
        "promotion_p": f"{held.p:.6g}" if held else "not compared",
        "promotion_difference": f"{held.difference:+.6f}" if held else "not compared",
    }
    told = {
        "data": decided.data["uri"],
        "challenger": new.uri,
        "champion": old and old.uri,
        "settings": settings.model_dump(),
    }
    tags = {
        "kind": "promote",
        "decision": decided.decision,
        "reason": decided.reason,
        "data": decided.data["fingerprint"],
    }
    with finish_run_on_exit(
        start_run(context, decided.data["name"], f"promote version {new.number}", told, tags)
    ) as run:
        if held:
            run.log_metrics({"p": held.p, "difference": held.difference, "gains": held.gains, "losses": held.losses})
        run.log_json(decided.to_json(), "promotion.json")
    if old is not None and new.number == old.number:
        return  # what an earlier decision wrote on the champion stays
    shared["promotion_run"] = run.id or ""
    against = {"promotion_opponent": old.number} if old else {}
    _write(new, {"promotion": decided.decision, **against, **shared}, decided, context)
    if old is not None:
        answer = {"promoted": "replaced", "kept": "defended"}.get(decided.decision, "undecided")
        _write(old, {"promotion": answer, "promotion_opponent": new.number, **shared}, decided, context)


def _write(version: Version, tags: Mapping[str, str], decided: Promotion, context: Context) -> None:
    line = f"{decided.made['made'][:10]}: {decided.sentence()}"
    write_version(version, tags, with_decision(read_card(version, context), line), context)
