"""A replica: one process with the model. It decodes photographs, scores them in batches, and follows the alias."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count, keep_freed_memory
from ufgvc.data.file_types import READABLE_TYPES, detect_file_type
from ufgvc.data.images import BadImage, Pixels, count_pixels, decode_photograph
from ufgvc.evaluation.explanation import explain
from ufgvc.models.model import LoadedModel
from ufgvc.reports.figures import jpeg_uri
from ufgvc.reports.predicted_pictures import draw_pictures
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.serving.uploads import Photograph

log = logging.getLogger(__name__)

DECODERS = 2  # threads


@dataclass(frozen=True)
class Served:
    """A model with its version in the registry ("" if it has none)."""

    model: LoadedModel
    version: str


@dataclass(frozen=True)
class Image:
    """A decoded photograph.  square: (resize, resize, 3) uint8.  shape: height and width of the photograph.

    served: the model that it was resized for, and that will score it.
    """

    name: str
    square: Pixels
    shape: tuple[int, int]
    served: Served


class Classifier:
    """Answers for one model, and swaps it for another version between two batches.

    device: of torch.  threads: of torch on a CPU.  settings: `poll` and `max_megapixels` are used.
    """

    def __init__(self, source: ModelSource, device: str, threads: int, settings: ServiceSettings) -> None:
        import torch

        torch.set_num_threads(threads)
        keep_freed_memory()
        self.source, self.device, self.settings = source, device, settings
        self.decoders = ThreadPoolExecutor(min(DECODERS, cpu_count()), "decode")
        self.scorer = ThreadPoolExecutor(1, "score")  # a network is used by one thread at a time
        self.registry_problem = ""
        self.served = self._load(source.version())
        self.stopped = threading.Event()
        self.follower = threading.Thread(target=self._follow, name="follow", daemon=True)
        if source.moves:
            self.follower.start()

    def check(self) -> None:
        """RuntimeError if the model would not be followed any more, so that the replica is replaced."""
        if self.source.moves and not self.follower.is_alive():
            raise RuntimeError("the thread that follows the alias has ended")

    def describe(self) -> dict[str, Any]:
        """{"model", "registry"} of `Health`."""
        return {"model": self.describe_model(self.served), "registry": self.registry_problem}

    def describe_model(self, served: Served) -> dict[str, Any]:
        """The fields of `ServedModel`."""
        model = served.model
        return {
            "model": self.source.name,
            "version": served.version,
            "method": str(model.info["method"]),
            "cultivars": len(model.classes),
            "calibrated": model.calibration is not None,
            "unknown": model.unknown_name,
        }

    async def decode(self, photographs: Sequence[Photograph]) -> list[Image]:
        """Decodes photographs for the model of now. Unreadable names the first that cannot be read."""
        served, limit = self.served, self.settings.max_megapixels
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(self.decoders, _decode, each, served, limit) for each in photographs]
        return list(await asyncio.gather(*work))

    async def score(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        """The row of each image, see `score_rows`; images of two versions are scored by their own."""
        rows: list[dict[str, Any]] = [{} for _ in images]
        loop = asyncio.get_running_loop()
        for served in {id(image.served): image.served for image in images}.values():
            places = [i for i, image in enumerate(images) if image.served is served]
            squares = [images[i].square for i in places]
            scored = await loop.run_in_executor(self.scorer, score_rows, served.model, squares)
            for i, row in zip(places, scored, strict=True):
                rows[i] = row
        return rows

    async def draw(self, images: Sequence[Image]) -> list[dict[str, Any]]:
        """The picture of each image of one model: {picture: data URI, width, height, has_map}."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.scorer, _draw, images)

    def answer(self, images: Sequence[Image], rows: Sequence[dict[str, Any]], top: int) -> dict[str, Any]:
        """{"model", "predictions"} of images of one model, without pictures."""
        served = images[0].served
        predictions = []
        for image, row in zip(images, rows, strict=True):
            shortened = {name: row[name][:top] for name in ("names", "probabilities")}
            predictions.append(explain({**row, **shortened, "path": image.name}, served.model))
        return {"model": self.describe_model(served), "predictions": predictions}

    def _load(self, version: str) -> Served:
        model = self.source.load(version)
        model = model.to(self.device) if not model.exported else model
        score_rows(model, [np.zeros((64, 64, 3), np.uint8)])  # the first forward pass is the slowest
        return Served(model, version)

    def _follow(self) -> None:
        """Loads another version when the alias names one. What fails is tried again; the old version goes on."""
        while not self.stopped.wait(self.settings.poll):
            try:
                version = self.source.version()
                if version != self.served.version:
                    self.served = self._load(version)
                    log.warning("version %s answers from now on", version)
                self.registry_problem = ""
            except (UserError, OSError, RuntimeError) as error:
                if str(error) != self.registry_problem:
                    log.warning("version %s goes on: %s", self.served.version, error)
                self.registry_problem = str(error)


class Unreadable(Exception):
    """A photograph that cannot be read.  is_photograph: whether its first bytes are those of one."""

    def __init__(self, name: str, reason: str, is_photograph: bool) -> None:
        super().__init__(f"{name}: {reason}")
        self.is_photograph = is_photograph


def _decode(photograph: Photograph, served: Served, max_megapixels: float) -> Image:
    try:
        if (found := count_pixels(photograph.content) / 1e6) > max_megapixels:
            raise BadImage(f"has {found:.0f} million pixels; send at most {max_megapixels:g} million")
        pixels = decode_photograph(photograph.content)
    except BadImage as error:
        is_photograph = detect_file_type(photograph.content) in READABLE_TYPES
        raise Unreadable(photograph.name, error.reason, is_photograph) from None
    return Image(photograph.name, served.model.resize(pixels), pixels.shape[:2], served)


def score_rows(model: LoadedModel, squares: Sequence[Pixels]) -> list[dict[str, Any]]:
    """For `explain`, of each image: known, ood_score, relative_length, names and probabilities of all cultivars, the
    likeliest first, neighbours and distances.
    """
    logits, ood_score, features = model.score_with_features(squares, max(1, len(squares)))
    order, probabilities = model.top_k(logits, len(model.classes))
    nearest: Sequence[Any] = [[]] * len(logits)
    distances: Sequence[Any] = [[]] * len(logits)
    if model.leaves is not None and features is not None:
        nearest, distances = (found.tolist() for found in model.leaves.nearest(features))
    known = model.is_known(ood_score).tolist()
    lengths = model.relative_lengths(features, len(logits))
    scores = (known, ood_score.tolist(), lengths, order.tolist(), probabilities.tolist(), nearest, distances)
    return [
        {
            "known": known,
            "ood_score": score,
            "relative_length": length,
            "names": [model.classes[i] for i in classes],
            "probabilities": values,
            "neighbours": neighbours,
            "distances": apart,
        }
        for known, score, length, classes, values, neighbours, apart in zip(*scores, strict=True)
    ]


def _draw(images: Sequence[Image]) -> list[dict[str, Any]]:
    model = images[0].served.model
    drawn = draw_pictures(model, [image.square for image in images], [image.shape for image in images])
    return [
        {"picture": jpeg_uri(jpeg), "width": width, "height": height, "has_map": has_map}
        for jpeg, width, height, has_map in drawn
    ]


def add_thumbnails(prediction: dict[str, Any], row: dict[str, Any], model: LoadedModel) -> None:
    """Adds to each of the nearest training leaves its `thumbnail`, a data URI."""
    if model.leaves is None:
        return
    for leaf, index in zip(prediction["nearest"], row["neighbours"], strict=True):
        leaf["thumbnail"] = jpeg_uri(model.leaves.thumbnails[index])
