"""The axes of a search as single fields: each weight of a simplex by itself, with its place between the ends of its axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ufgvc.evaluation.search_record import Dimension, SearchRecord


@dataclass(frozen=True)
class Field:
    """name: dotted, as in the configuration.  label: as short as the other fields allow.  part: the weight's, of a simplex.

    low, high: the ends of its axis, widened where a trial (the paper's setting) lies outside them.  choices: as text.
    """

    axis: Dimension
    part: str | None
    label: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return _name(self.axis, self.part)

    def value(self, values: Mapping[str, Any]) -> Any:
        value = values[self.axis.name]
        return value if self.part is None else value[self.part]

    def choice(self, values: Mapping[str, Any]) -> str:
        return value_text(self.value(values))

    def place(self, values: Mapping[str, Any]) -> float:
        """From 0 at the low end to 1 at the high one; choices at equal distances."""
        if self.axis.kind == "choice":
            at, last = self.choices.index(self.choice(values)), len(self.choices) - 1
            return at / last if last else 0.5
        # A weight of 0 has no logarithm; it stands at the low end.
        number = max(self.value(values), self.low)
        low, high, value = (_scaled(self.axis, each) for each in (self.low, self.high, number))
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text): the ends, or every choice."""
        if self.axis.kind == "choice":
            last = len(self.choices) - 1
            return [(place / last if last else 0.5, text) for place, text in enumerate(self.choices)]
        return (
            [(0.0, value_text(self.low)), (1.0, value_text(self.high))]
            if self.high > self.low
            else [(0.5, value_text(self.low))]
        )


def fields_of(story: SearchRecord) -> list[Field]:
    """Every field that was searched, in the order of the axes."""
    pairs = [(axis, part) for axis in story.axes for part in (axis.parts if axis.kind == "simplex" else (None,))]
    labels = short_labels([_name(axis, part) for axis, part in pairs])
    return [_field(axis, part, label, story) for (axis, part), label in zip(pairs, labels, strict=True)]


def free_fields(story: SearchRecord) -> list[Field]:
    """Without the second of two weights, which is what the first leaves."""
    return [
        field for field in fields_of(story) if not (len(field.axis.parts) == 2 and field.part == field.axis.parts[1])
    ]


def short_labels(names: Sequence[str]) -> list[str]:
    """The last two steps of each dotted name, in words; more where that names two alike."""
    labels = [_words(name, 2) for name in names]
    return [label if labels.count(label) == 1 else _words(name, 99) for name, label in zip(names, labels, strict=True)]


def value_text(value: Any) -> str:
    """As the configuration has it, numbers to three places that count."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _words(name: str, steps: int) -> str:
    return " ".join(name.removeprefix("options.").split(".")[-steps:]).replace("_", " ")


def _name(axis: Dimension, part: str | None) -> str:
    return axis.name if part is None else f"{axis.name}.{part}"


def _field(axis: Dimension, part: str | None, label: str, story: SearchRecord) -> Field:
    if axis.kind == "simplex":
        return Field(axis, part, label)
    seen = [trial.values[axis.name] for trial in story.trials]
    if axis.kind == "choice":
        return Field(axis, part, label, choices=tuple(dict.fromkeys(map(value_text, [*axis.choices, *seen]))))
    numbers = [
        number for number in (axis.low, axis.high, *seen) if number is not None and (axis.kind != "log" or number > 0)
    ]
    return Field(axis, part, label, min(numbers), max(numbers))


def _scaled(axis: Dimension, number: float) -> float:
    return math.log(number) if axis.kind == "log" else number
