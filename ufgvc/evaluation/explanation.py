"""What a prediction says of one photograph: its name, the next candidates, why it is unknown, the nearest leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ufgvc.models.model import LoadedModel


def explain(row: Mapping[str, Any], model: LoadedModel) -> dict[str, Any]:
    """A row of `predict` that was read, as JSON values.

    path, cultivar (`model.unknown_name` for an unknown leaf), probability of the likeliest cultivar in [0, 1], known,
    ood_score (None without a threshold), why_unknown (None for a known leaf), candidates: {cultivar, probability}, and
    nearest: {cultivar, distance in [0, 2], image_id} of training leaves, the nearest first.
    """
    known = bool(row["known"])
    pairs = zip(row["names"], row["probabilities"], strict=True)
    return {
        "path": row["path"],
        "cultivar": row["names"][0] if known else model.unknown_name,
        "probability": round(row["probabilities"][0], 6),
        "known": known,
        "ood_score": None if model.subspace is None else round(row["ood_score"], 6),
        "why_unknown": None if known else why_unknown(row, model),
        "candidates": [{"cultivar": name, "probability": round(value, 6)} for name, value in pairs],
        "nearest": nearest_leaves(row, model),
    }


def nearest_leaves(row: Mapping[str, Any], model: LoadedModel) -> list[dict[str, Any]]:
    """The nearest training leaves of a row of `predict`; none for a model that carries none."""
    leaves = model.leaves
    if leaves is None:
        return []
    return [
        {
            "cultivar": model.classes[int(leaves.labels[index])],
            "distance": round(distance, 6),
            "image_id": leaves.image_ids[index],
        }
        for index, distance in zip(row["neighbours"], row["distances"], strict=True)
    ]


def why_unknown(row: Mapping[str, Any], model: LoadedModel) -> str:
    """A sentence for a leaf above the threshold.  row: of `predict`."""
    calibration, relative_length = model.calibration, row["relative_length"]
    if calibration is None or calibration.threshold is None or model.subspace is None:
        raise ValueError("a model without a threshold calls no leaf unknown")
    why = (
        f"its out-of-distribution score {row['ood_score']:.3f} is above {calibration.threshold:.3f}, "
        f"which {100 * calibration.coverage:g} % of {calibration.num_images} leaves of known cultivars do not exceed"
    )
    if relative_length is not None and model.subspace.is_longer_than_leaves(relative_length):
        why += (
            f"; its features are {relative_length:.1f} times as long as those of the training leaves: perhaps no leaf"
        )
    return why
