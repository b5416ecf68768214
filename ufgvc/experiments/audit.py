"""The `audit` command: reads every leaf once, audits the data set, and writes a page and CSV files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ufgvc.core.errors import UserError
from ufgvc.core.process import git_commit
from ufgvc.core.storage import join, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.evaluation.audit.files import audit_files
from ufgvc.evaluation.audit.leaves import Network, read_leaves
from ufgvc.evaluation.audit.record import Audit, audit_leaves, check_auditable
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.evaluation.provenance import class_mismatch
from ufgvc.methods.weights import check_init
from ufgvc.models.model import load_model
from ufgvc.reports.audit_page import compose_audit
from ufgvc.tracking.context import Context

PAGE = "audit.html"


@dataclass(frozen=True)
class AuditResult:
    """page: URI of audit.html.  found: the audit."""

    page: str
    found: Audit

    def to_json(self) -> dict[str, Any]:
        """The counts and estimates of the summary, and the ids of likely label mistakes."""
        found, image_ids = self.found, self.found.leaves.index["image_id"].to_pylist()
        return {
            "page": self.page,
            "dataset": found.name,
            "leaves": len(image_ids),
            "to_look_at": len(found.to_look_at()),
            "label_mistakes": [image_ids[row] for row in found.check.suspects.tolist()],
            "flagged": sum(map(bool, found.flags)),
            "harmful_copies": len(found.harmful_copies()),
            "accuracy": found.accuracy,
            "chance": found.chance,
            "confounders": [
                {"sees": each.sees, "accuracy": each.found, "above_chance": each.above_chance}
                for each in found.confounders
            ],
        }

    def summary(self) -> str:
        """The text for the terminal."""
        found, one = self.found, self.found.accuracy
        harmful = found.harmful_copies()
        shortcuts = [each.sees for each in found.confounders if each.above_chance and not each.legitimate]
        lines = [
            f"{found.name}: {len(found.to_look_at())} of {len(found.leaves.index)} leaves to look at; "
            f"page and CSV files: {self.page}",
            f"likely label mistakes: {len(found.check.suspects)}; "
            f"photographs with a flag: {sum(map(bool, found.flags))}; "
            f"copies in both splits or under several cultivars: {len(harmful)}",
            f"out of fold: {100 * one.value:.1f} % (95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}), "
            f"chance {100 * found.chance:.1f} %",
            f"cultivars can be named above chance from: {'; '.join(shortcuts)}"
            if shortcuts
            else "no confounder is above chance",
        ]
        return "\n".join(lines)


def audit(
    data: str,
    out: str,
    model_uri: str | None = None,
    settings: AuditSettings | None = None,
    context: Context = Context(),
) -> AuditResult:
    """Audits a data set, and writes <out>/audit.html and CSV files; files of an earlier audit are overwritten.

    data: the data set.  model_uri: models:/name@alias, runs:/<id>/model or a folder: its pooled features are used;
    None: a frozen network that has seen none of the leaves.
    UserError for a data set that cannot be audited (one cultivar, one leaf of each), a model that is not there or is of
    other cultivars, and a photograph that cannot be decoded.
    """
    settings = settings or AuditSettings()
    dataset = open_dataset(data)
    index = read_index(dataset)
    check_auditable(dataset, index["label"].to_numpy().astype(np.int64), index["group"].to_pylist())
    network, learned_from = _choose_network(dataset, model_uri, settings, context)
    leaves = read_leaves(dataset, network, settings, context.ray)
    found = audit_leaves(dataset.name, leaves, settings, context.seed, learned_from)
    found = replace(found, facts=_facts(dataset, network, model_uri, settings, context, found))
    store = open_store(out)
    for name, text in audit_files(found).items():
        store.write_text(name, text)
    store.write_text(PAGE, compose_audit(found).to_html())
    return AuditResult(join(store.uri, PAGE), found)


def _choose_network(
    dataset: Dataset, model_uri: str | None, settings: AuditSettings, context: Context
) -> tuple[Network, str | None]:
    """The network that embeds the leaves, and the split whose labels have shaped it."""
    if model_uri is None:
        check_init(settings.init, settings.backbone)
        return Network.frozen(len(dataset.classes), settings), None
    model = load_model(model_uri, context)
    if mismatch := class_mismatch(dataset, model):
        fix = "give a model that was trained on these cultivars, or leave --model out"
        raise UserError(mismatch, where=model_uri, fix=fix)
    frozen = model.method.recipe.classifier_fit  # the labels have not reached its backbone
    return Network.of_model(model), None if frozen else "train"


def _facts(
    dataset: Dataset,
    network: Network,
    model_uri: str | None,
    settings: AuditSettings,
    context: Context,
    found: Audit,
) -> dict[str, str]:
    counts = ", ".join(f"{n} {split}" for split, n in dataset.counts.items())
    width = found.leaves.embedding.shape[1]
    given = f"{settings.backbone}, frozen, weights {settings.init}" if model_uri is None else model_uri
    size = f"{network.crop} pixels" if network.crop == network.resize else f"{network.crop} of {network.resize} pixels"
    parts = settings.repeats if len(found.leaves.index) <= 2000 else 1
    rows = {
        "Data set": f"{dataset.name}: {counts} photographs at {dataset.store.uri}",
        "Fingerprint": dataset.fingerprint,
        "Embedding": f"{given}; {size}; {width} numbers, {100 * found.kept:.1f} % of their variance used",
        "Classifier": f"multinomial logistic regression; C chosen inside each fold's training leaves, median "
        f"{found.strength:g}",
        "Folds": f"{settings.folds}, {parts} partitions, seed {context.seed}; both splits together",
        "Units that folds keep together": f"{len(np.unique(found.units))}: plants, and copies of one photograph",
        "Code": git_commit() or "",
    }
    return {name: text for name, text in rows.items() if text}
