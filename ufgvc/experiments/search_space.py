"""The search space: parsed from the configuration, converted to Optuna's parameters and applied to the settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ValidationError

from ufgvc.core.config import describe_validation, flatten
from ufgvc.core.errors import UserError
from ufgvc.evaluation.search_record import Dimension
from ufgvc.methods import build, options_class
from ufgvc.training.settings import TrainSettings, apply_overrides

WHERE = "search.space"
LOSS_RANGE = (0.01, 10.0)  # of loss weights in the default space; the weight of the cross-entropy is 1
# The other fields of TrainSettings would make trials incomparable (epochs, the split), or do not affect results.
SEARCHABLE = {"init", "mask_kind", "batch_size", "learning_rate", "resize", "crop", "precision", "sync_batchnorm"}


def read_space(
    space: Mapping[str, Any], method: str, options: Mapping[str, Any], train: TrainSettings
) -> tuple[Dimension, ...]:
    """Parses `search.space`; an empty one becomes the fusion and loss weights of the method, or else its learning rate.

    UserError for a setting that does not exist, and for bounds or choices that it does not accept.
    """
    published = published_settings(method, options, train)
    specs = space or _default_space(published)
    dimensions = tuple(_parse_dimension(name, spec, published) for name, spec in specs.items())
    for dimension in dimensions:
        for value in _extremes(dimension):
            apply_values(method, options, train, {dimension.name: value})
    return dimensions


def published_settings(method: str, options: Mapping[str, Any], train: TrainSettings) -> dict[str, Any]:
    """{"options": ..., "train": ...}: every setting, with the method's published value where the user gave none."""
    built = build(method, 2, **options)
    recipe = apply_overrides(built.recipe, train, built.whole_leaf)
    from_recipe = {
        "learning_rate": recipe.stages[0].lr,
        "batch_size": recipe.batch_size,
        "resize": recipe.resize,
        "crop": recipe.crop,
        "epochs": recipe.epochs,
    }
    return {"options": built.options, "train": dict(train) | from_recipe}


def paper_values(
    dimensions: Sequence[Dimension], method: str, options: Mapping[str, Any], train: TrainSettings
) -> dict[str, Any]:
    """The published value of every dimension, whatever the user's configuration says about it: trial 0."""
    bare = {"options": _plain(options), "train": dict(train)}
    defaults = dict(TrainSettings())
    for dimension in dimensions:
        section, *path = dimension.name.split(".")
        if section == "train":
            bare["train"][path[0]] = defaults[path[0]]
        else:
            _remove(bare["options"], path)
    published = published_settings(method, bare["options"], TrainSettings.model_validate(bare["train"]))
    values = {}
    for dimension in dimensions:
        value = _get(published, dimension.name.split("."))
        simplex = dimension.kind == "simplex"
        values[dimension.name] = {part: _get(value, part.split(".")) for part in dimension.parts} if simplex else value
    return values


def apply_values(
    method: str, options: Mapping[str, Any], train: TrainSettings, values: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainSettings]:
    """(options, training settings) with these values, by dotted name. UserError for a value that a setting rejects."""
    settings = {"options": _plain(options), "train": train.model_dump()}
    for name, value in values.items():
        for part, each in value.items() if isinstance(value, Mapping) else [("", value)]:
            *path, last = f"{name}.{part}".rstrip(".").split(".")
            place = settings
            for key in path:
                place = place.setdefault(key, {})  # weights of the user that are not searched stay
            place[last] = each
    try:
        applied = options_class(method).model_validate(settings["options"]).model_dump(mode="json")
        return applied, TrainSettings.model_validate(settings["train"])
    except ValidationError as error:
        raise describe_validation(error, f"{WHERE}, {', '.join(values)}") from None


def optuna_distributions(dimensions: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter; a simplex of k weights has k - 1 uniform ones (see `decode_params`)."""
    found: dict[str, BaseDistribution] = {}
    for dimension in dimensions:
        if dimension.kind == "simplex":
            found |= {f"{dimension.name}/{part}": FloatDistribution(0.0, 1.0) for part in dimension.parts[:-1]}
        elif dimension.kind == "choice":
            # Optuna accepts plain values only, so the parameter is the index of the choice.
            found[dimension.name] = CategoricalDistribution(tuple(range(len(dimension.choices))))
        else:
            low, high = _bounds(dimension)
            kind = IntDistribution if isinstance(low, int) else FloatDistribution
            found[dimension.name] = kind(low, high, log=dimension.kind == "log")  # type: ignore[arg-type]
    return found


def decode_params(dimensions: Sequence[Dimension], params: Mapping[str, Any]) -> dict[str, Any]:
    """Converts Optuna's parameters to the values of the dimensions.

    Each weight of a simplex takes the fraction 1 - (1 - u)^(1 / number of weights after it) of what is left.
    Independent uniform u then give a uniform point of the simplex (Devroye, Non-Uniform Random Variate Generation,
    V.2), without rejection.
    """
    values: dict[str, Any] = {}
    for dimension in dimensions:
        if dimension.kind == "simplex":
            left, point = 1.0, {}
            for after, part in zip(range(len(dimension.parts) - 1, 0, -1), dimension.parts, strict=False):
                point[part] = left * (1 - (1 - params[f"{dimension.name}/{part}"]) ** (1 / after))
                left -= point[part]
            values[dimension.name] = point | {dimension.parts[-1]: max(left, 0.0)}
        elif dimension.kind == "choice":
            values[dimension.name] = dimension.choices[params[dimension.name]]
        else:
            values[dimension.name] = params[dimension.name]
    return values


def encode_values(dimensions: Sequence[Dimension], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The inverse of `decode_params`; None for values outside the space, from which Optuna cannot learn."""
    params: dict[str, Any] = {}
    for dimension in dimensions:
        value = values[dimension.name]
        if dimension.kind == "simplex":
            left = sum(value[part] for part in dimension.parts)
            for after, part in zip(range(len(dimension.parts) - 1, 0, -1), dimension.parts, strict=False):
                share = value[part] / left if left > 0 else 0.0
                params[f"{dimension.name}/{part}"] = min(max(1 - (1 - share) ** after, 0.0), 1.0)
                left -= value[part]
        elif dimension.kind == "choice":
            if value not in dimension.choices:
                return None
            params[dimension.name] = dimension.choices.index(value)
        else:
            low, high = _bounds(dimension)
            if not low <= value <= high:
                return None
            params[dimension.name] = value
    return params


def make_grid(dimensions: Sequence[Dimension], points: int) -> list[dict[str, Any]]:
    """Every combination of `points` values per dimension; of a simplex the lattice with steps of 1 / (points - 1)."""
    names = [dimension.name for dimension in dimensions]
    ticks = [_ticks(dimension, points) for dimension in dimensions]
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*ticks)]


def describe_dimension(dimension: Dimension) -> Any:
    """The dimension as it is written in `search.space`."""
    if dimension.kind == "simplex":
        return "simplex"
    if dimension.kind == "choice":
        return list(dimension.choices)
    return {"low": dimension.low, "high": dimension.high, "log": dimension.kind == "log"}


def _ticks(dimension: Dimension, points: int) -> list[Any]:
    if dimension.kind == "choice":
        return list(dimension.choices)
    if dimension.kind == "simplex":
        steps = points - 1
        cuts = itertools.product(range(steps + 1), repeat=len(dimension.parts))
        lattice = [cut for cut in cuts if sum(cut) == steps]
        return [{part: n / steps for part, n in zip(dimension.parts, cut, strict=True)} for cut in lattice]
    low, high = _bounds(dimension)
    spaced = np.geomspace if dimension.kind == "log" else np.linspace
    found = [float(value) for value in spaced(low, high, points)]
    return list(dict.fromkeys(round(value) for value in found)) if isinstance(low, int) else found


def _bounds(dimension: Dimension) -> tuple[float, float]:
    """Both are of type int for a setting that accepts only whole numbers."""
    assert dimension.low is not None, "a simplex and a list of choices have no bounds"
    assert dimension.high is not None
    return dimension.low, dimension.high


def _extremes(dimension: Dimension) -> list[Any]:
    """The values at which a setting must accept the dimension."""
    if dimension.kind == "simplex":
        return [{part: float(part == one) for part in dimension.parts} for one in dimension.parts]
    return list(dimension.choices) if dimension.kind == "choice" else [dimension.low, dimension.high]


def _default_space(published: Mapping[str, Any]) -> dict[str, Any]:
    options = published["options"]
    space: dict[str, Any] = {}
    if len(_used_weights(options.get("fusion"))) > 1:
        space["options.fusion"] = "simplex"
    for part in _used_weights(options.get("loss_weights")):
        if part != "classification":
            space[f"options.loss_weights.{part}"] = {"low": LOSS_RANGE[0], "high": LOSS_RANGE[1], "log": True}
    rate = published["train"]["learning_rate"]
    return space or {"train.learning_rate": {"low": rate / 10, "high": rate * 10, "log": True}}


def _used_weights(value: Any) -> dict[str, float]:
    """The weights of a section that are not None, by dotted name (base, regions.midrib)."""
    if not isinstance(value, Mapping):
        return {}
    return {part: weight for part, weight in flatten(value).items() if weight is not None}


def _parse_dimension(name: str, spec: Any, published: Mapping[str, Any]) -> Dimension:
    where = f"{WHERE}, {name}"
    value = _get(published, _setting_path(name, where, published))
    if spec == "simplex":
        parts = tuple(_used_weights(value))
        if len(parts) < 2:
            what = "is not a set of two or more weights in use"
            raise UserError(what, where=where, fix="give a range or a list of choices")
        return Dimension(name, "simplex", parts=parts)
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        if len(spec) < 2:
            fix = "leave it out, or set it under `options:` or `train:`"
            raise UserError("a list of choices needs two or more", where=where, fix=fix)
        return Dimension(name, "choice", choices=tuple(spec))
    if not isinstance(spec, Mapping) or not {"low", "high"} <= set(spec) <= {"low", "high", "log"}:
        fix = "write {low: 0.01, high: 10, log: true}, [a, b, ...] or simplex"
        raise UserError(f"{spec!r} is not a range", where=where, fix=fix)
    return _parse_range(name, spec, where, whole=isinstance(value, int))


def _setting_path(name: str, where: str, published: Mapping[str, Any]) -> list[str]:
    """UserError for a setting that does not exist, or is the same in every trial."""
    path = name.split(".")
    if path[0] == "train" and len(path) == 2 and path[1] in set(TrainSettings.model_fields) - SEARCHABLE:
        raise UserError("is the same in every trial of a search", where=where, fix="set it under `train:`")
    if len(path) < 2 or not _has(published, path):
        fields = [(section, field) for section in published for field in published[section]]
        known = [f"{s}.{field}" for s, field in fields if s != "train" or field in SEARCHABLE]
        fix = f"one of {', '.join(known)}, or a part of one (options.fusion.base)"
        raise UserError("there is no such setting", where=where, fix=fix)
    return path


def _parse_range(name: str, spec: Mapping[str, Any], where: str, whole: bool) -> Dimension:
    """whole: the setting accepts whole numbers only."""
    low, high, log = spec["low"], spec["high"], bool(spec.get("log", False))
    for bound in (low, high):
        if not isinstance(bound, int | float) or isinstance(bound, bool) or not math.isfinite(bound):
            what = f"the bounds {low!r} and {high!r} are not both numbers"
            raise UserError(what, where=where, fix="write {low: 0.01, high: 10}")
    if low >= high or (log and low <= 0):
        what = f"the range from {low} to {high} is empty" if low >= high else f"a log scale cannot start at {low}"
        raise UserError(what, where=where, fix="give a low bound below the high one" + (", and above 0" if log else ""))
    if not whole:
        low, high = float(low), float(high)
    elif not (isinstance(low, int) and isinstance(high, int)):
        fix = f"write {{low: {round(low)}, high: {round(high)}}}"
        raise UserError("takes whole numbers only", where=where, fix=fix)
    return Dimension(name, "log" if log else "linear", low, high)


def _plain(value: Any) -> Any:
    """A copy in dictionaries that may be changed."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _has(settings: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(settings, Mapping) or key not in settings:
            return False
        settings = settings[key]
    return True


def _get(settings: Any, path: Sequence[str]) -> Any:
    for key in path:
        settings = settings[key]
    return settings


def _remove(options: dict[str, Any], path: Sequence[str]) -> None:
    *parents, last = path
    for key in parents:
        options = options.get(key) or {}
    options.pop(last, None)
