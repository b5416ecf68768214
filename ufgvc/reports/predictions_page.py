"""predictions.html: what a model named each photograph, why, and which training leaves are nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ufgvc.core.storage import Store, join
from ufgvc.core.text import plural
from ufgvc.evaluation.drift import Drift
from ufgvc.evaluation.explanation import why_unknown
from ufgvc.evaluation.predict import Predicted
from ufgvc.models.model import LoadedModel
from ufgvc.reports.figures import jpeg_uri
from ufgvc.reports.gallery import Gallery
from ufgvc.reports.page import Page, Section, footer
from ufgvc.reports.predicted_pictures import make_pictures

PAGE, PICTURES = "predictions.html", "predictions-page"
MAX_INSIDE = 100  # photographs; the pictures of more lie in a folder next to the page, which would grow heavy
TEXT = (
    "Each photograph as the network sees it and, next to it, the map of what spoke for the likeliest cultivar: bright "
    "regions raised its score. The map is that of the last layer with places; a probe that pools several layers looks "
    "at more. Below: the likeliest cultivars, and the training leaves whose embeddings are nearest (distance 1 - cos, "
    "0 to 2); a frame marks those of the likeliest cultivar."
)


def write_predictions_page(predicted: Predicted) -> str:
    """Writes predictions.html, for many photographs with a folder of pictures, and returns its URI."""
    out = predicted.out
    inside = len(predicted.rows) <= MAX_INSIDE
    written: list[str] = []

    def place(jpeg: bytes, name: str) -> str:
        if inside:
            return jpeg_uri(jpeg)
        written.append(f"{PICTURES}/{name}.jpg")
        out.write_bytes(written[-1], jpeg)
        return written[-1]

    gallery = compose_gallery(predicted, place)
    out.write_text(PAGE, compose_page(predicted, gallery).to_html())
    _delete_stale(out, written)
    return join(out.uri, PAGE)


def compose_gallery(predicted: Predicted, place: Callable[[bytes, str], str]) -> Gallery:
    """The photographs with their pictures.

    place: (JPEG file, name without suffix) -> the address under which the page finds it.
    """
    model, rows = predicted.model, predicted.rows
    index = {name: number for number, name in enumerate(model.classes)}
    used = sorted({number for row in rows for number in row["neighbours"]})
    position = {number: place_in_list for place_in_list, number in enumerate(used)}
    paths = [row["path"] for row in rows]
    pictures = make_pictures(predicted.photographs, paths, model, predicted.settings, predicted.ray)
    leaves: list[dict[str, Any]] = []
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        if row["path"] != picture["path"]:
            raise RuntimeError(f"the picture of {picture['path']} came for {row['path']}")
        nearest = zip(row["neighbours"], row["distances"], strict=True)
        candidates = zip(row["names"], row["probabilities"], strict=True)
        leaves.append(
            {
                "path": row["path"],
                "known": row["known"],
                "why": "" if row["known"] else why_unknown(row, model),
                "candidates": [[index[name], round(value, 4)] for name, value in candidates],
                "nearest": [[position[leaf], round(distance, 4)] for leaf, distance in nearest],
                "picture": place(picture["picture"], f"{number:06d}") if picture["picture"] else "",
                **{name: picture[name] for name in ("width", "height", "has_map")},
            }
        )
    training = []
    if model.leaves is not None:
        thumbnails, labels = model.leaves.thumbnails, model.leaves.labels
        training = [(int(labels[number]), place(thumbnails[number], f"training-{number:06d}")) for number in used]
    return Gallery(model.classes, leaves, training, model.unknown_name)


def compose_page(predicted: Predicted, gallery: Gallery) -> Page:
    """The whole page."""
    result, model, drift = predicted.result, predicted.model, predicted.drift
    shown = len(gallery.leaves)
    count = f"the {shown} most doubtful of {result.predicted} photographs" if shown < result.predicted else ""
    text = f"These are {count} (--page N shows more). {TEXT}" if count else TEXT
    photographs = plural(result.predicted, "photograph")
    certain = f"{photographs} named" if not result.unknown else photographs
    named = "photograph named" if result.predicted == 1 else "photographs named"
    return Page(
        eyebrow="ufgvc predictions",
        title=f"{model.info['method']}: {photographs}, {plural(len(model.classes), 'cultivar')}",
        headline=str(result.unknown if result.has_threshold else result.predicted),
        explanation=f"of {certain} unknown to the model"
        if result.has_threshold
        else f"{named}; the model has no threshold for unknown leaves, which `ufgvc calibrate` fits",
        stats=_stats(predicted),
        sections=[Section("Photographs", text, [gallery])],
        facts=_facts(predicted, drift, model),
        warnings=[*drift.warnings(), *_lacks(model)],
        footer=footer(),
    )


def _stats(predicted: Predicted) -> list[tuple[str, str]]:
    drift, result = predicted.drift, predicted.result
    stats = [(f"{drift.cultivars} of {drift.classes}", "cultivars named")]
    if drift.distance_median is not None:
        stats.append((f"{drift.distance_median:.3f}", "median distance to the nearest training leaf"))
    if drift.ood_median is not None:
        stats.append((f"{drift.ood_median:.3f}", "median out-of-distribution score"))
    return [*stats, (str(result.rejected), "files that are no readable photograph")]


def _lacks(model: LoadedModel) -> list[str]:
    found = []
    if model.leaves is None:
        found.append("This model carries no training leaves to compare with: train it again with `--train.neighbours`.")
    if model.calibration is None:
        found.append("The probabilities are not calibrated: see `ufgvc calibrate`.")
    return found


def _facts(predicted: Predicted, drift: Drift, model: LoadedModel) -> dict[str, str]:
    result = predicted.result
    facts = {
        "Photographs": predicted.photographs.uri,
        "Predictions": result.csv,
        "Method": str(model.info["method"]),
        "Data set": str(model.info.get("dataset", "unknown")),
        "Drift": drift.summary().removeprefix("drift: "),
    }
    if model.calibration is not None:
        facts["Calibrated on"] = f"{model.calibration.num_images} leaves: {model.calibration.source}"
    if model.leaves is not None:
        facts["Training leaves carried"] = str(len(model.leaves))
    return facts


def _delete_stale(out: Store, written: list[str]) -> None:
    """Deletes the pictures of an earlier prediction into the same folder."""
    out.delete(*sorted(set(out.list(PICTURES)) - set(written)))
