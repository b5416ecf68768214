"""The numbers of an evaluation: metrics on the test split, comparisons, calibration and provenance."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.metrics import Proportion, Scores, score
from ufgvc.evaluation.paired_test import McNemar, mcnemar
from ufgvc.evaluation.paper_results import paper_accuracy
from ufgvc.evaluation.provenance import facts, history, run_config, run_store, warnings
from ufgvc.evaluation.reliability import Reliability, reliability
from ufgvc.evaluation.score import Scored
from ufgvc.evaluation.settings import EvaluateSettings
from ufgvc.models.calibration import softmax
from ufgvc.models.model import LoadedModel
from ufgvc.models.score import rank_classes


@dataclass(frozen=True)
class Evaluation:
    """Numbers by the names of the models; the first is the model that is evaluated, the others are compared with it.

    uris: addresses.  tests: McNemar's test of each other model against the first.  paper: accuracies in the paper, None
    where it has none.  history: rows of metrics.jsonl of the first.  facts: {name: text} of its provenance.
    """

    dataset: str
    fingerprint: str
    classes: Sequence[str]
    method: str
    uris: Mapping[str, str]
    scores: Mapping[str, Scores]
    tests: Mapping[str, McNemar]
    reliability: Mapping[str, Reliability]
    paper: Mapping[str, float | None]
    history: Sequence[Mapping[str, float]]
    facts: Mapping[str, str]
    warnings: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json: rates in [0, 1], with their counts."""
        return {
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "split": "test",
            "warnings": list(self.warnings),
            "models": {name: self._model(name) for name in self.scores},
        }

    def _model(self, name: str) -> dict[str, Any]:
        one, test = self.scores[name], self.tests.get(name)
        recalls = (None if recall != recall else recall for recall in one.recall.tolist())  # JSON has no NaN
        found = {
            "uri": self.uris[name],
            "accuracy": _proportion(one.accuracy),
            "balanced_accuracy": one.balanced_accuracy,
            f"top{one.top_k}": _proportion(one.top),
            "mean_probability": one.mean_probability,
            "reliability": self.reliability[name].to_json(),
            "recall": dict(zip(self.classes, recalls, strict=True)),
        }
        if test:
            found["mcnemar"] = {"gains": test.only_second, "losses": test.only_first, "p": test.p_value}
        return found


def evaluate_scores(
    dataset: Dataset,
    models: Mapping[str, LoadedModel],
    uris: Mapping[str, str],
    scored: Scored,
    settings: EvaluateSettings,
) -> Evaluation:
    """All numbers of an evaluation.  models, uris: by name, first the model that is evaluated."""
    first = next(iter(models))
    runs = {name: run_store(uri) for name, uri in uris.items()}
    configs = {name: run_config(run) for name, run in runs.items()}
    right = scored.right()
    return Evaluation(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        classes=dataset.classes,
        method=models[first].method.name,
        uris=uris,
        scores={name: score(logits, scored.label, settings.top) for name, logits in scored.logits.items()},
        tests={name: mcnemar(right[first], right[name]) for name in models if name != first},
        reliability={name: reliability(model, scored, name) for name, model in models.items()},
        paper={
            name: paper_accuracy(settings.paper, model.method.name, model.method.options)
            for name, model in models.items()
        },
        history=history(runs[first]),
        facts=facts(dataset, models[first], uris[first], configs[first]),
        warnings=warnings(dataset, models, configs),
    )


def predictions_parquet(scored: Scored, models: Mapping[str, LoadedModel]) -> bytes:
    """The content of predictions.parquet, one row for each test image.

    Columns image_id, cultivar, and for each model the predicted class, its calibrated probability, whether it is right,
    and whether `predict` would call the image unknown.
    """
    classes = next(iter(models.values())).classes
    columns: dict[str, Any] = {"image_id": scored.image_id, "cultivar": [classes[i] for i in scored.label]}
    for name, logits in scored.logits.items():
        predicted = rank_classes(logits, 1)[:, 0]
        columns[f"{name}: predicted"] = [classes[i] for i in predicted]
        columns[f"{name}: probability"] = softmax(logits, models[name].temperature).max(axis=1)
        columns[f"{name}: right"] = predicted == scored.label
        columns[f"{name}: unknown"] = ~models[name].is_known(scored.ood_score[name])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def _proportion(one: Proportion) -> dict[str, float]:
    return {"k": one.k, "n": one.n, "value": one.value, "low": one.low, "high": one.high}
