"""Decides whether the challenger replaces the champion, by McNemar's test on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ufgvc.evaluation.metrics import proportion
from ufgvc.evaluation.model_card import add_decision
from ufgvc.evaluation.paired_test import CultivarChange, PairedComparison, changes_by_cultivar, compare_paired
from ufgvc.evaluation.promotion_checks import blockers, caveats, fix_for
from ufgvc.evaluation.promotion_record import Decision, Promotion, Side
from ufgvc.evaluation.provenance import class_mismatch, data_fingerprint
from ufgvc.evaluation.score import score_split, session_for_scores
from ufgvc.evaluation.settings import PromoteSettings
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import CHALLENGER, list_versions, model_name
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.tracking.settings import redact
from ufgvc.tracking.versions import Version, find_version, get_champion, read_card, set_champion, write_version


@dataclass(frozen=True)
class PromoteResult:
    """promotion: the decision.  file: URI of promotion.json."""

    promotion: Promotion
    file: str


def promote(
    data: str, model_uri: str | None = None, settings: PromoteSettings | None = None, context: Context = Context()
) -> PromoteResult:
    """Compares a registered version with the champion, promotes it if it is better, and records the decision.

    Writes <runs>/<dataset>/promotion/<key>/promotion.json, an MLflow run, tags of both versions and a line of their
    cards.

    Args:
        data: the data set; its test split is scored.
        model_uri: any address of a registered version; None: models:/ufgvc-<dataset>@challenger.

    Raises:
        UserError: MLflow is unavailable, or the comparison is not fair and `force` is not set.
    """
    settings = settings or PromoteSettings()
    dataset = open_dataset(data)
    name = model_name(dataset.name)
    new = find_version(model_uri or f"models:/{name}@{CHALLENGER}", name, context)
    old = get_champion(name, context)
    promotion = _compare(dataset, new, old, settings, context)
    if promotion.decision == "promoted":
        set_champion(new, old, context)
    key = short_key([name, new.number, old and old.number, dataset.fingerprint, settings.alpha, settings.force])
    folder = open_store(context.runs).child(dataset.name, "promotion", key)
    folder.write_json("promotion.json", promotion.to_json())
    result = PromoteResult(promotion, join(folder.uri, "promotion.json"))
    _record(result, new, old, settings, context)
    return result


def decide(
    first: bool, comparison: PairedComparison | None, fair: bool, force: bool, recalibrated: bool = False
) -> tuple[Decision, str]:
    """The decision and its reason.

    first: there is no champion.  comparison: None where the two could not be compared.  fair: nothing blocks it.
    recalibrated: the challenger is the champion's network with a newer calibration, which no test of names can tell.
    """
    if first:
        return "promoted", "first champion"
    if comparison is not None and comparison.outcome == "better" and fair:
        return "promoted", "better"
    if recalibrated and comparison is not None and comparison.gains == comparison.losses == 0 and fair:
        return "promoted", "recalibrated"
    if force or comparison is None:
        return "promoted", "forced"
    return ("kept", "worse") if comparison.outcome == "worse" else ("undecided", "not significant")


def _compare(
    dataset: Dataset, new: Version, old: Version | None, settings: PromoteSettings, context: Context
) -> Promotion:
    about: dict[str, Any] = {"name": dataset.name, "uri": redact(dataset.store.uri), "fingerprint": dataset.fingerprint}
    about |= {"split": "test", "leaves": dataset.counts.get("test", 0)}
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "code": git_commit()}
    if old is not None and new.number == old.number:
        same = Side(new.number, new.run_id)
        return Promotion(new.name, "kept", "is the champion already", about, same, same, made=made)
    versions = {"challenger": new} | ({"champion": old} if old else {})
    models = {role: _load(version, role, settings.force, context) for role, version in versions.items()}
    blocking = blockers(dataset, versions, models)
    if blocking and not settings.force:
        raise UserError("; ".join(blocking), where=new.uri, fix=fix_for(dataset))
    label, right = _score(dataset, models, settings, context)
    both = len(right) == 2
    comparison = compare_paired(right["champion"], right["challenger"], settings.alpha) if both else None
    recalibrated = old is not None and _is_recalibrated(new, old, models)
    decision, reason = decide(old is None, comparison, not blocking, settings.force, recalibrated)
    sides = {role: _side(version, models[role], right.get(role)) for role, version in versions.items()}
    changes: Sequence[CultivarChange] = ()
    if "challenger" in right:
        changes = changes_by_cultivar(dataset.classes, label, right.get("champion"), right["challenger"])
    warnings = [*blocking, *caveats(dataset, versions, models["challenger"], list_versions(new.name, context))]
    return Promotion(
        model=new.name,
        decision=decision,
        reason=reason,
        data=about,
        challenger=sides["challenger"],
        previous=sides.get("champion"),
        comparison=comparison,
        cultivars=changes,
        forced=bool(blocking) or reason == "forced",
        warnings=warnings,
        made=made,
    )


def _is_recalibrated(new: Version, old: Version, models: Mapping[str, LoadedModel | None]) -> bool:
    """Whether `new` is a later version of the same training, with a threshold and another calibration."""
    challenger, champion = models["challenger"], models["champion"]
    if challenger is None or champion is None or new.run_id is None or new.run_id != old.run_id:
        return False
    fitted = challenger.calibration
    changed = fitted is not None and fitted.threshold is not None and fitted != champion.calibration
    return changed and int(new.number) > int(old.number)


def _load(version: Version, role: str, force: bool, context: Context) -> LoadedModel | None:
    """None for a champion that cannot be loaded, with --force: it must be possible to replace it."""
    try:
        return load_model(version.uri, context)
    except UserError:
        if force and role == "champion":
            return None
        raise


def _score(
    dataset: Dataset, models: Mapping[str, LoadedModel | None], settings: PromoteSettings, context: Context
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]:
    """Labels (N,) of the test images, and (N,) right or not of each model with the classes of the data set."""
    usable = {role: model for role, model in models.items() if model and not class_mismatch(dataset, model)}
    if not usable:
        return np.zeros(0, np.int64), {}
    with session_for_scores(dataset, settings, context.ray):
        scored = score_split(dataset, usable, settings)
    return scored.label, scored.right()


def _side(version: Version, model: LoadedModel | None, right: NDArray[np.bool_] | None) -> Side:
    if model is None:
        return Side(version.number, version.run_id)
    masks = (model.info.get("fingerprints") or {}).get("masks")
    accuracy = proportion(int(right.sum()), len(right)) if right is not None else None
    data, kind = data_fingerprint(model), model.info.get("mask_kind")
    return Side(version.number, version.run_id, model.method.name, data, masks, kind, accuracy)


def _record(
    result: PromoteResult, new: Version, old: Version | None, settings: PromoteSettings, context: Context
) -> None:
    """Logs the decision as an MLflow run, and writes tags and cards of both versions."""
    promotion, one = result.promotion, result.promotion.comparison
    params = {
        "data": promotion.data["uri"],
        "challenger": new.uri,
        "champion": old and old.uri,
        "settings": settings.model_dump(),
    }
    tags = {"kind": "promote", "decision": promotion.decision, "reason": promotion.reason}
    tags["data"] = promotion.data["fingerprint"]
    run = start_run(context, promotion.data["name"], f"promote version {new.number}", params, tags)
    with finish_run_on_exit(run):
        if one:
            run.log_metrics({"p": one.p, "difference": one.difference, "gains": one.gains, "losses": one.losses})
        run.log_json(promotion.to_json(), "promotion.json")
    if old is not None and new.number == old.number:
        return  # the tags of the decision that made it champion stay
    shared = {
        "promotion_file": result.file,
        "promotion_data": promotion.data["fingerprint"],
        "promotion_p": f"{one.p:.6g}" if one else "not compared",
        "promotion_difference": f"{one.difference:+.6f}" if one else "not compared",
        "promotion_run": run.id or "",
    }
    opponent = {"promotion_opponent": old.number} if old else {}
    _write(new, {"promotion": promotion.decision, **opponent, **shared}, promotion, context)
    if old is not None:
        outcome = {"promoted": "replaced", "kept": "stays champion"}.get(promotion.decision, "undecided")
        _write(old, {"promotion": outcome, "promotion_opponent": new.number, **shared}, promotion, context)


def _write(version: Version, tags: Mapping[str, str], promotion: Promotion, context: Context) -> None:
    line = f"{promotion.made['made'][:10]}: {promotion.sentence()}"
    write_version(version, tags, add_decision(read_card(version, context), line), context)
