"""A replica of the model as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from ufgvc.serving.classifier import Classifier, Image, Unreadable, add_thumbnails
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.serving.uploads import Photograph

BATCH_WAIT_S = 0.01


@serve.deployment(
    name="classifier",
    max_ongoing_requests=1000,
    health_check_period_s=10,
    health_check_timeout_s=120,
    max_constructor_retry_count=3,
)
class ClassifierReplica:
    """`Classifier` behind Ray Serve: what cannot be answered is returned, not raised."""

    def __init__(self, source: ModelSource, device: str, threads: int, settings: ServiceSettings) -> None:
        self.classifier = Classifier(source, device, threads, settings)
        batching: Any = self._score
        batching.set_max_batch_size(settings.batch_size)

    def check_health(self) -> None:
        """Called by Ray Serve."""
        self.classifier.check()

    async def describe(self) -> dict[str, Any]:
        """{"model", "registry"} of `Health`."""
        return self.classifier.describe()

    async def classify(self, photographs: list[Photograph], pictures: bool, top: int) -> dict[str, Any]:
        """{"model", "predictions"}, or {"status", "error"} if a photograph cannot be read."""
        try:
            images = await self.classifier.decode(photographs)
        except Unreadable as error:
            return {"status": 422 if error.is_photograph else 415, "error": str(error)}
        rows = await asyncio.gather(*(self._score(image) for image in images))
        answer = self.classifier.answer(images, rows, top)
        if pictures:
            drawn = await self.classifier.draw(images)
            for prediction, row, picture in zip(answer["predictions"], rows, drawn, strict=True):
                prediction |= picture
                add_thumbnails(prediction, row, images[0].served.model)
        return answer

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _score(self, images: list[Image]) -> list[dict[str, Any]]:
        return await self.classifier.score(images)
