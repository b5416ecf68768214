"""The gateway as a deployment of Ray Serve. Its process imports no torch."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import ObjectStoreFullError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ufgvc.serving.gateway import Gateway, make_app
from ufgvc.serving.refused import Refused
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.uploads import Photograph

DESCRIBE_SECONDS = 10.0
AWAY = "no process of the model answers now; try again soon"


class RayReplicas:
    """`Replicas` of the gateway: the deployment of `ClassifierReplica`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def classify(self, photographs: list[Photograph], pictures: bool, top: int) -> dict[str, Any]:
        """See `Replicas`."""
        answer = await self._call("classify", photographs, pictures, top)
        if "error" in answer:
            raise Refused(answer["status"], answer["error"])
        return answer

    async def describe(self) -> dict[str, Any]:
        """See `Replicas`."""
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                return await self._call("describe")
        except TimeoutError:
            raise Refused(503, AWAY, retry_after=1) from None

    async def _call(self, method: str, *arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await getattr(self.handle, method).remote(*arguments)
        except (RayActorError, DeploymentUnavailableError, BackPressureError, ObjectStoreFullError):
            raise Refused(503, AWAY, retry_after=1) from None
        return answer


@serve.deployment(name="gateway", num_replicas=1, max_ongoing_requests=10_000)
@serve.ingress()
class GatewayReplica:
    """`Gateway` behind Ray Serve. There is one, so its limits and counters hold for the whole service."""

    def __init__(self, handle: DeploymentHandle, settings: ServiceSettings, token: bytes | None) -> None:
        self.gateway = Gateway.of(RayReplicas(handle), settings, token)

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Ray Serve."""
        return make_app(self.gateway)
