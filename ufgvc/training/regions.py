"""The regions that a method is trained on: those that its options name, or all of the data set; and their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import join_names
from ufgvc.data.dataset import Dataset, read_manifest
from ufgvc.methods import options_class
from ufgvc.methods.method import Method


def use_regions(method: str, options: Mapping[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    """The options of a method for a data set with these regions.

    They are all used if the method takes regions (with the default None, as mask_guided and region_tokens) and the
    options name none. UserError for a weight of a region that the data set does not have.
    """
    for section in ("fusion", "loss_weights"):
        weights = options.get(section)
        given = weights.get("regions") or () if isinstance(weights, Mapping) else ()
        if unknown := [region for region in given if region not in regions]:
            what = f"there is a weight of {join_names(unknown)}, the regions of the data set are {join_names(regions)}"
            raise UserError(what, where=f"options.{section}.regions", fix="correct the name, or leave it out")
    field = options_class(method).model_fields.get("regions")
    if field is None or field.default is not None or options.get("regions") is not None:
        return dict(options)
    return {**options, "regions": list(regions)}


def check_regions(method: str, wanted: Sequence[str], regions: Sequence[str]) -> None:
    """UserError if a method uses regions that the data set does not have.  regions: of the data set."""
    missing = [region for region in wanted if region not in regions]
    if missing:
        what = f"{method} asks for {join_names(missing)}, the regions of the data set are {join_names(regions)}"
        fix = f"use `--options.regions {' '.join(regions)}`, some of these or none, or ingest with other --regions"
        raise UserError(what, where="options.regions", fix=fix)


def mask_fingerprint(dataset: Dataset, method: Method, kind: str) -> str | None:
    """Fingerprint of the masks that a method is trained on; None if it needs none.

    UserError if they do not exist, or if the method uses regions that the data set does not have.
    """
    check_regions(method.name, method.regions, dataset.regions)
    return read_manifest(dataset, f"masks/{kind}").fingerprint if method.regions else None
