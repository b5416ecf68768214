"""Registers an evaluated model in MLflow, with a model card in Markdown: figures, limits, provenance, loading."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ufgvc.core.config import short_key
from ufgvc.data.dataset import Dataset
from ufgvc.evaluation.provenance import run_store
from ufgvc.models.model import LoadedModel
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import list_versions, model_name, register
from ufgvc.tracking.settings import resolve
from ufgvc.tracking.versions import find_version, read_card, write_version

DECISIONS = "## Decisions"
_NONE_YET = "None yet: `ufgvc promote` compares this version with the champion."
_MAX_LISTED = 12  # cultivars that are listed by name
_MAX_LENGTH = 200  # characters of one setting
LICENCE = (
    "The code is free software under the AGPL-3.0-or-later. The photographs and the weights trained on them "
    "belong to their owners: this card grants no right to either."
)


@dataclass(frozen=True)
class SeedScore:
    """A training of the same setting with another seed: k of n test leaves right."""

    seed: str
    k: int
    n: int


@dataclass(frozen=True)
class Card:
    """The chapters of a card without its version and decisions."""

    what: str
    figures: str
    limits: str
    facts: str

    def to_markdown(self, name: str, version: str, decisions: Sequence[str] = ()) -> str:
        """The card of a version.  decisions: lines of earlier promotions."""
        chapters = [
            f"# {name}, version {version}",
            self.what,
            "## Figures",
            self.figures,
            DECISIONS,
            _bullets(decisions) or _NONE_YET,
            "## Limits",
            self.limits,
            "## How to load it",
            _loading(name, version),
            "## Provenance",
            self.facts,
            "## Licence",
            LICENCE,
        ]
        return "\n\n".join(chapters) + "\n"


def model_card(
    info: Mapping[str, Any], metrics: Mapping[str, Any], facts: Mapping[str, str], seeds: Sequence[SeedScore] = ()
) -> Card:
    """The card of a model.

    info: model.json.  metrics: metrics.json of its evaluation.  facts: {name: text} of what made the figures.
    seeds: scores of this training and of others that differ in their seed only.
    """
    return Card(
        _what(info),
        _bullets(_figures(info, metrics, seeds)),
        _bullets(_limits(info, metrics)),
        _bullets(f"{key}: {_short(value)}" for key, value in facts.items()),
    )


def read_decisions(card: str) -> list[str]:
    """The lines that promotions have added to a card."""
    _, found, rest = card.partition(f"{DECISIONS}\n")
    chapter = rest.partition("\n## ")[0]
    return [line.removeprefix("- ") for line in chapter.splitlines() if line.startswith("- ")] if found else []


def add_decision(card: str, line: str) -> str:
    """The card with one more line in its chapter of decisions, which is added to a text without it."""
    before, found, rest = card.partition(f"{DECISIONS}\n")
    if not found:
        return f"{card.rstrip()}\n\n{DECISIONS}\n\n- {line}\n".lstrip()
    _, heading, after = rest.partition("\n## ")
    lines = _bullets([*read_decisions(card), line])
    return f"{before}{DECISIONS}\n\n{lines}\n{heading}{after}"


def register_version(
    model_uri: str,
    model: LoadedModel,
    dataset: Dataset,
    metrics: Mapping[str, Any],
    facts: Mapping[str, str],
    context: Context,
) -> str | None:
    """Registers the model as `challenger` and returns its version.

    None without tracking, or for a model outside of a run.

    metrics: metrics.json of the evaluation, in which the model is the first.  facts: {name: text} of what made them.
    """
    in_a_run = model_uri.startswith(("runs:", "models:")) or run_store(model_uri) is not None
    if not in_a_run or resolve(context.tracking, context.runs) is None:
        return None
    name = model_name(dataset.name)
    first = next(iter(metrics["models"].values()))
    accuracy = first["accuracy"]
    tags = {
        "accuracy": f"{accuracy['k']}/{accuracy['n']}",
        "accuracy_low": f"{accuracy['low']:.4f}",
        "accuracy_high": f"{accuracy['high']:.4f}",
        "balanced_accuracy": f"{first['balanced_accuracy']:.4f}",
        "data_fingerprint": dataset.fingerprint,
        "setting": setting_key(model.info),
        "seed": str(model.info.get("seed", "")),
    }
    card = model_card(model.info, metrics, facts, seed_scores(list_versions(name, context), tags))
    number = register(model_uri, name, tags, context)
    if number is None:
        return None
    version = find_version(f"models:/{name}/{number}", name, context)
    write_version(version, {}, card.to_markdown(name, number, read_decisions(read_card(version, context))), context)
    return number


def setting_key(info: Mapping[str, Any]) -> str:
    """A key that trainings share if they differ in their seed only.  info: model.json."""
    names = ("method", "options", "input", "recipe", "init", "mask_kind", "validation", "fingerprints")
    return short_key([info.get(name) for name in names])


def seed_scores(versions: list[Any], tags: Mapping[str, str]) -> list[SeedScore]:
    """Scores of the version with these tags, and of other seeds of its setting on its data; the newest of each seed.

    versions: registered before it, newest first.
    """
    if not tags["seed"]:
        return []
    found: dict[str, SeedScore] = {}
    for other in (tags, *(version.tags for version in versions)):
        if all(other.get(key) == tags[key] for key in ("setting", "data_fingerprint")):
            k, _, n = other["accuracy"].partition("/")
            found.setdefault(other["seed"], SeedScore(other["seed"], int(k), int(n)))
    return [found[seed] for seed in sorted(found, key=int)]


def _what(info: Mapping[str, Any]) -> str:
    classes = list(info["classes"])
    more = f" and {len(classes) - _MAX_LISTED} more" if len(classes) > _MAX_LISTED else ""
    named = ", ".join(map(_short, classes[:_MAX_LISTED]))
    return f"Predicts one of {len(classes)} cultivars from a photograph of one leaf: {named}{more}."


def _figures(info: Mapping[str, Any], metrics: Mapping[str, Any], seeds: Sequence[SeedScore]) -> list[str]:
    one = next(iter(metrics["models"].values()))
    right, classes = one["accuracy"], len(info["classes"])
    interval = f"95 % interval {100 * right['low']:.1f} to {100 * right['high']:.1f}; chance {100 / classes:.1f} %"
    lines = [
        f"Accuracy on the test leaves of {metrics['dataset']}: {right['k']} of {right['n']} "
        f"= {100 * right['value']:.1f} % ({interval}).",
        f"Balanced accuracy (mean recall of the cultivars): {100 * one['balanced_accuracy']:.1f} %.",
    ]
    for key, value in one.items():
        if key.startswith("top") and isinstance(value, Mapping):
            lines.append(f"Top-{key.removeprefix('top')} accuracy: {value['k']} of {value['n']}.")
    return [*lines, _spread(seeds), *_calibrated(info, one)]


def _spread(seeds: Sequence[SeedScore]) -> str:
    if len(seeds) < 2:
        return "Variation between training seeds: not measured (one seed)."
    deviation = 100 * statistics.stdev(one.k / one.n for one in seeds)
    scores = ", ".join(f"{one.k} of {one.n} (seed {one.seed})" for one in seeds)
    return f"Variation between training seeds: {scores}; standard deviation {deviation:.1f} points."


def _calibrated(info: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    calibration = info.get("calibration")
    if not calibration:
        return ["Probabilities: not calibrated."]
    measured = one.get("reliability") or {}
    error, unknown = measured.get("calibrated_error"), measured.get("unknown")
    source = f"{calibration['num_images']} {calibration['source']}"
    line = f"Probabilities: temperature {calibration['temperature']:.3g}, from {source}"
    lines = [line + (f"; calibration error on the test leaves {100 * error:.1f} %." if error is not None else ".")]
    if calibration["threshold"] is None:
        return [*lines, "No leaf is called unknown: no threshold was fitted (`ufgvc calibrate` fits one)."]
    line = f"A leaf is called unknown above an out-of-distribution score of {calibration['threshold']:.3g}, "
    line += f"so that {100 * calibration['coverage']:g} % of those leaves are known"
    return [*lines, line + (f"; of the test leaves {unknown} are called unknown." if unknown is not None else ".")]


def _limits(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    named = [str(text) for text in metrics.get("warnings", ()) if str(text).startswith("this model: ")]
    lines = [text.removeprefix("this model: ").strip() for text in named]
    what = "Measured on the test leaves of this one data set. "
    lines.append(f"{what}Other fields, years, cameras, light and growth stages: not measured.")
    if (info.get("calibration") or {}).get("threshold") is not None:
        what = "The threshold for unknown leaves was fitted on leaves of the known cultivars; "
        lines.append(f"{what}other species: see the project's README.")
    else:
        lines.append("It predicts one of its cultivars for any photograph, also for one of another plant.")
    return [*lines, "One leaf a photograph. Several leaves, whole plants and drawings: not measured."]


def _loading(name: str, version: str) -> str:
    uri = f"models:/{name}/{version}"
    return f"""In an environment of its own, with `MLFLOW_TRACKING_URI` set to this MLflow:

```sh
pip install mlflow
mlflow artifacts download --artifact-uri {uri} --dst-path model
cd model && pip install -r requirements.txt
```

```python
import mlflow, pandas

model = mlflow.pyfunc.load_model("{uri}")
print(model.predict(pandas.DataFrame({{"image": [open("leaf.jpg", "rb").read()]}})))
```

The champion is `models:/{name}@champion`. Over HTTP: `mlflow models serve -m {uri}`."""


def _short(text: str) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
