"""The card of a registered version, in Markdown: what it is, what it was measured to do, and what nobody measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DECISIONS = "## Decisions"
_NONE_YET = "None yet: `ufgvc promote` compares this version with the champion."
_NAMED = 12  # cultivars that are listed by name
_LONGEST = 200  # characters of one setting
LICENCE = (
    "The code is free software under the AGPL-3.0-or-later. The photographs and the weights that were learnt from them belong to whoever "
    "made them: this card grants no right to either."
)


@dataclass(frozen=True)
class SeedScore:
    """A training of the same setting with another seed: k of n test leaves right."""

    seed: str
    k: int
    n: int


@dataclass(frozen=True)
class Card:
    """Everything on a card but its version and its decisions, so that whatever can fail has been written before anything is registered."""

    what: str
    figures: str
    limits: str
    facts: str

    def of(self, name: str, version: str, decided: Sequence[str] = ()) -> str:
        """The Markdown of a version, which ends with a newline.  decided: lines of earlier promotions."""
        chapters = [
            f"# {name}, version {version}",
            self.what,
            "## Figures",
            self.figures,
            DECISIONS,
            _bullets(decided) or _NONE_YET,
            "## Limits",
            self.limits,
            "## How to load it",
            _loading(name, version),
            "## What made it",
            self.facts,
            "## Licence",
            LICENCE,
        ]
        return "\n\n".join(chapters) + "\n"


def model_card(
    info: Mapping[str, Any], metrics: Mapping[str, Any], facts: Mapping[str, str], seeds: Sequence[SeedScore] = ()
) -> Card:
    """The card of a model, before it is registered.

    info: model.json.  metrics: metrics.json of its evaluation.  facts: name and text of what made the figures.  seeds: this training
    and others of the same setting.
    """
    return Card(
        _what(info),
        _bullets(_figures(info, metrics, seeds)),
        _bullets(_limits(info, metrics)),
        _bullets(f"{key}: {_short(value)}" for key, value in facts.items()),
    )


def decisions(card: str) -> list[str]:
    """The lines that promotions have written on a card."""
    _, found, rest = card.partition(f"{DECISIONS}\n")
    chapter = rest.partition("\n## ")[0]
    return [line.removeprefix("- ") for line in chapter.splitlines() if line.startswith("- ")] if found else []


def with_decision(card: str, line: str) -> str:
    """The card with one more line under its decisions; a text without that chapter gets one."""
    before, found, rest = card.partition(f"{DECISIONS}\n")
    if not found:
        return f"{card.rstrip()}\n\n{DECISIONS}\n\n- {line}\n".lstrip()
    _, heading, after = rest.partition("\n## ")
    lines = _bullets([*decisions(card), line])
    return f"{before}{DECISIONS}\n\n{lines}\n{heading}{after}"


def _what(info: Mapping[str, Any]) -> str:
    classes = list(info["classes"])
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return f"Names one of {len(classes)} cultivars from a photograph of one leaf: {', '.join(map(_short, classes[:_NAMED]))}{more}."


def _figures(info: Mapping[str, Any], metrics: Mapping[str, Any], seeds: Sequence[SeedScore]) -> list[str]:
    one = next(iter(metrics["models"].values()))
    right, classes = one["accuracy"], len(info["classes"])
    interval = f"95 % interval {100 * right['low']:.1f} to {100 * right['high']:.1f}; chance {100 / classes:.1f} %"
    lines = [
        f"Right on {right['k']} of {right['n']} test leaves of {metrics['dataset']} = {100 * right['value']:.1f} % ({interval})."
    ]
    lines.append(f"Balanced over the cultivars: {100 * one['balanced_accuracy']:.1f} %.")
    for key, value in one.items():
        if key.startswith("top") and isinstance(value, Mapping):
            lines.append(f"True cultivar among the {key.removeprefix('top')} likeliest: {value['k']} of {value['n']}.")
    return [*lines, _spread(seeds), *_calibrated(info, one)]


def _spread(seeds: Sequence[SeedScore]) -> str:
    if len(seeds) < 2:
        return "Spread between training seeds: not measured (one seed)."
    deviation = 100 * statistics.stdev(one.k / one.n for one in seeds)
    told = ", ".join(f"{one.k} of {one.n} (seed {one.seed})" for one in seeds)
    return f"Spread between training seeds: {told}; standard deviation {deviation:.1f} points."


def _calibrated(info: Mapping[str, Any], one: Mapping[str, Any]) -> list[str]:
    told = info.get("calibration")
    if not told:
        return ["Probabilities: not calibrated; the network's own."]
    measured = one.get("reliability") or {}
    error = measured.get("calibrated_error")
    lines = [
        f"Probabilities: temperature {told['temperature']:.3g}, from {told['num_images']} {told['source']}"
        + (f"; calibration error on the test leaves {100 * error:.1f} %." if error is not None else ".")
    ]
    if told["threshold"] is None:
        return [*lines, "No leaf is called unknown: no threshold was fitted (`ufgvc calibrate` fits one)."]
    called = measured.get("unknown")
    share = f"unknown above an out-of-distribution score of {told['threshold']:.3g}, so that {100 * told['coverage']:g} % of those leaves are known"
    lines.append(f"A leaf is called {share}" + (f"; of the test leaves {called} were." if called is not None else "."))
    return lines


def _limits(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    named = [str(text) for text in metrics.get("warnings", ()) if str(text).startswith("this model: ")]
    lines = [text.removeprefix("this model: ").strip() for text in named]
    lines.append(
        "Measured on the test leaves of this one data set. Other fields, years, cameras, light and growth stages: not measured."
    )
    if (info.get("calibration") or {}).get("threshold") is not None:
        lines.append(
            "The threshold for unknown leaves was chosen on leaves of the known cultivars; other species: see the project's README."
        )
    else:
        lines.append("It names one of its cultivars whatever it is shown, another plant too.")
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
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
