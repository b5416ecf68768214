"""What is searched: read from the configuration, checked against the method's own settings, and turned into settings again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ValidationError

from ufgvc.core.config import describe_validation
from ufgvc.core.errors import UserError
from ufgvc.evaluation.search_record import Dimension
from ufgvc.methods import build, options_class
from ufgvc.training.settings import apply_overrides
from ufgvc.training.settings import TrainSettings

WHERE = "search.space"
LOSS_RANGE = (0.01, 10.0)  # of a loss weight that nothing else is said about, with the cross-entropy at 1
# What another value would make incomparable (epochs, what is held out) or cannot matter (where it runs).
FIXED = {
    "epochs",
    "validation",
    "holdout",
    "folds",
    "fold",
    "workers",
    "cpus_per_worker",
    "gpu",
    "cache",
    "checkpoint_seconds",
    "keep",
}
FIXED |= {"max_failures", "compile"}


def read_space(
    told: Mapping[str, Any], method: str, options: Mapping[str, Any], train: TrainSettings
) -> tuple[Dimension, ...]:
    """The axes of `search.space`; of an empty one the fusion weights and loss weights that the method has, else its learning rate.

    UserError for a field that there is not, and for bounds or choices that it does not take.
    """
    start = published(method, options, train)
    axes = tuple(_axis(name, spec, start) for name, spec in (told or _usual(start)).items())
    for axis in axes:
        for value in _extremes(axis):
            configured(method, options, train, {axis.name: value})
    return axes


def published(method: str, options: Mapping[str, Any], train: TrainSettings) -> dict[str, Any]:
    """{"options": every option, "train": every setting} with the published value wherever the user has said nothing."""
    made = build(method, 2, **options)
    recipe = apply_overrides(made.recipe, train)
    told = {
        "learning_rate": recipe.stages[0].lr,
        "batch_size": recipe.batch_size,
        "resize": recipe.resize,
        "crop": recipe.crop,
    }
    return {"options": made.options, "train": train.model_dump(mode="json") | told | {"epochs": recipe.epochs}}


def paper_values(
    axes: Sequence[Dimension], method: str, options: Mapping[str, Any], train: TrainSettings
) -> dict[str, Any]:
    """The published value of every axis, whatever the user's own configuration says of it: trial 0."""
    bare = {"options": _deep(options), "train": train.model_dump()}
    defaults = TrainSettings().model_dump()
    for axis in axes:
        section, *path = axis.name.split(".")
        if section == "train":
            bare["train"][path[0]] = defaults[path[0]]
        else:
            _forget(bare["options"], path)
    found = published(method, bare["options"], TrainSettings.model_validate(bare["train"]))
    return {axis.name: _part_of(axis, _at(found, axis.name.split("."))) for axis in axes}


def configured(
    method: str, options: Mapping[str, Any], train: TrainSettings, values: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainSettings]:
    """(options, training settings) with the values of axes in them. UserError for a value that the setting does not take."""
    whole = {"options": _deep(options), "train": train.model_dump()}
    for name, value in values.items():
        *path, last = name.split(".")
        place = whole
        for step in path:
            # The user's own weights of parts that are not searched stay.
            place = place.setdefault(step, {})
        place[last] = dict(value) if isinstance(value, Mapping) else value
    try:
        chosen = options_class(method).model_validate(whole["options"]).model_dump(mode="json")
        return chosen, TrainSettings.model_validate(whole["train"])
    except ValidationError as error:
        raise describe_validation(error, f"{WHERE}, {', '.join(values)}") from None


def distributions(axes: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's view. A simplex of k weights is k - 1 independent uniform numbers; see `decode`."""
    found: dict[str, BaseDistribution] = {}
    for axis in axes:
        if axis.kind == "simplex":
            found |= {f"{axis.name}/{part}": FloatDistribution(0.0, 1.0) for part in axis.parts[:-1]}
        elif axis.kind == "choice":
            # Optuna takes plain values only, so it chooses a place in the list.
            found[axis.name] = CategoricalDistribution(tuple(range(len(axis.choices))))
        else:
            low, high = _bounds(axis)
            kind = IntDistribution if isinstance(low, int) else FloatDistribution
            found[axis.name] = kind(low, high, log=axis.kind == "log")  # type: ignore[arg-type]
    return found


def decode(axes: Sequence[Dimension], params: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's numbers -> the values of the axes.

    Of k weights each takes the share 1 - (1 - u)^(1 / weights after it) of what is left, which makes independent uniform u a uniform
    point of the simplex (Devroye, Non-Uniform Random Variate Generation, V.2): no draw is rejected.
    """
    values: dict[str, Any] = {}
    for axis in axes:
        if axis.kind == "simplex":
            left, point = 1.0, {}
            for after, part in zip(range(len(axis.parts) - 1, 0, -1), axis.parts, strict=False):
                point[part] = left * (1 - (1 - params[f"{axis.name}/{part}"]) ** (1 / after))
                left -= point[part]
            values[axis.name] = point | {axis.parts[-1]: max(left, 0.0)}
        elif axis.kind == "choice":
            values[axis.name] = axis.choices[params[axis.name]]
        else:
            values[axis.name] = params[axis.name]
    return values


def encode(axes: Sequence[Dimension], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inverse of `decode`; None for values outside the space, which Optuna cannot learn from."""
    params: dict[str, Any] = {}
    for axis in axes:
        value = values[axis.name]
        if axis.kind == "simplex":
            left = sum(value[part] for part in axis.parts)
            for after, part in zip(range(len(axis.parts) - 1, 0, -1), axis.parts, strict=False):
                share = value[part] / left if left > 0 else 0.0
                params[f"{axis.name}/{part}"] = min(max(1 - (1 - share) ** after, 0.0), 1.0)
                left -= value[part]
        elif axis.kind == "choice":
            if value not in axis.choices:
                return None
            params[axis.name] = axis.choices.index(value)
        else:
            low, high = _bounds(axis)
            if not low <= value <= high:
                return None
            params[axis.name] = value
    return params


def grid(axes: Sequence[Dimension], points: int) -> list[dict[str, Any]]:
    """Every combination of `points` values an axis (evenly spaced; a simplex: the lattice with steps of 1 / (points - 1))."""
    return [
        dict(zip((axis.name for axis in axes), each, strict=True))
        for each in itertools.product(*(_ticks(a, points) for a in axes))
    ]


def _ticks(axis: Dimension, points: int) -> list[Any]:
    if axis.kind == "choice":
        return list(axis.choices)
    if axis.kind == "simplex":
        steps = points - 1
        cuts = itertools.product(range(steps + 1), repeat=len(axis.parts))
        return [{part: n / steps for part, n in zip(axis.parts, cut, strict=True)} for cut in cuts if sum(cut) == steps]
    low, high = _bounds(axis)
    spaced = np.geomspace if axis.kind == "log" else np.linspace
    found = [float(value) for value in spaced(low, high, points)]
    return list(dict.fromkeys(round(value) for value in found)) if isinstance(low, int) else found


def _bounds(axis: Dimension) -> tuple[float, float]:
    """Both whole numbers (of type int) for a setting that takes only those."""
    assert axis.low is not None, "a simplex and a list of choices have no bounds"
    assert axis.high is not None
    return axis.low, axis.high


def _usual(start: Mapping[str, Any]) -> dict[str, Any]:
    options = start["options"]
    usual: dict[str, Any] = {}
    if len(_weights(options.get("fusion"))) > 1:
        usual["options.fusion"] = "simplex"
    for part in _weights(options.get("loss_weights")):
        if part != "classification":
            usual[f"options.loss_weights.{part}"] = {"low": LOSS_RANGE[0], "high": LOSS_RANGE[1], "log": True}
    rate = start["train"]["learning_rate"]
    return usual or {"train.learning_rate": {"low": rate / 10, "high": rate * 10, "log": True}}


def _weights(value: Any) -> dict[str, float]:
    """The parts of a set of weights that are in use."""
    return {part: weight for part, weight in value.items() if weight is not None} if isinstance(value, Mapping) else {}


def _axis(name: str, spec: Any, start: Mapping[str, Any]) -> Dimension:
    where = f"{WHERE}, {name}"
    path = name.split(".")
    if path[0] == "train" and len(path) == 2 and path[1] in FIXED:
        raise UserError("is the same in every trial of a search", where=where, fix="set it under `train:`")
    if path[0] not in start or len(path) < 2 or not _has(start, path):
        known = [f"{key}.{field}" for key in start for field in start[key] if not (key == "train" and field in FIXED)]
        raise UserError(
            "there is no such setting",
            where=where,
            fix=f"one of {', '.join(known)}, or a part of one (options.fusion.base)",
        )
    if spec == "simplex":
        parts = tuple(_weights(_at(start, path)))
        if len(parts) < 2:
            raise UserError(
                "is no set of two or more weights in use", where=where, fix="give a range or a list of choices"
            )
        return Dimension(name, "simplex", parts=parts)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if len(spec) < 2:
            raise UserError(
                "a list of choices needs two or more",
                where=where,
                fix="leave it out, or set it under `options:` or `train:`",
            )
        return Dimension(name, "choice", choices=tuple(spec))
    if not isinstance(spec, Mapping) or not {"low", "high"} <= set(spec) <= {"low", "high", "log"}:
        raise UserError(
            f"{spec!r} is not a range",
            where=where,
            fix="write {low: 0.01, high: 10, log: true}, [a, b, ...] or simplex",
        )
    low, high, log = spec["low"], spec["high"], bool(spec.get("log", False))
    if not all(
        isinstance(bound, int | float) and not isinstance(bound, bool) and math.isfinite(bound) for bound in (low, high)
    ):
        raise UserError(
            f"the bounds {low!r} and {high!r} are not both numbers", where=where, fix="write {low: 0.01, high: 10}"
        )
    if low >= high or (log and low <= 0):
        what = f"the range from {low} to {high} is empty" if low >= high else f"a log scale cannot start at {low}"
        raise UserError(what, where=where, fix="give a low bound below the high one" + (", and above 0" if log else ""))
    if not isinstance(_at(start, path), int):
        low, high = float(low), float(high)
    elif not (isinstance(low, int) and isinstance(high, int)):
        raise UserError(
            "takes whole numbers only", where=where, fix=f"write {{low: {round(low)}, high: {round(high)}}}"
        )
    return Dimension(name, "log" if log else "linear", low, high)


def _extremes(axis: Dimension) -> list[Any]:
    if axis.kind == "simplex":
        return [{part: float(part == one) for part in axis.parts} for one in axis.parts]
    return list(axis.choices) if axis.kind == "choice" else [axis.low, axis.high]


def _part_of(axis: Dimension, value: Any) -> Any:
    return {part: value[part] for part in axis.parts} if axis.kind == "simplex" else value


def _deep(value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return {key: _deep(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _has(whole: Any, path: Sequence[str]) -> bool:
    for step in path:
        if not isinstance(whole, Mapping) or step not in whole:
            return False
        whole = whole[step]
    return True


def _at(whole: Any, path: Sequence[str]) -> Any:
    for step in path:
        whole = whole[step]
    return whole


def _forget(options: dict[str, Any], path: Sequence[str]) -> None:
    *before, last = path
    for step in before:
        options = options.get(step) or {}
    options.pop(last, None)
