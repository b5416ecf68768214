"""The service as an application of Ray Serve: a gateway that limits, and replicas that hold the model.

A RayService names `ufgvc.serving.app:application` (cluster/kuberay/rayservice.yaml).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import LoggingConfig

from ufgvc.core.config import describe_validation
from ufgvc.core.process import cpu_count
from ufgvc.runtime.resources import TorchDevice
from ufgvc.serving.front import GatewayReplica
from ufgvc.serving.preflight import read_token
from ufgvc.serving.replica import ClassifierReplica
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


def bind(source: ModelSource, settings: ServiceSettings, device: TorchDevice, token: bytes | None) -> Any:
    """The application, for `serve.run`.  token: its digest."""
    threads = max(1, cpu_count() // settings.replicas)
    options = {"num_cpus": 1, "num_gpus": 1 if device == "cuda" else 0}
    replica: Any = ClassifierReplica  # the decorator makes a Deployment of the class
    front: Any = GatewayReplica
    classifier = replica.options(num_replicas=settings.replicas, ray_actor_options=options)
    gateway = front.options(ray_actor_options={"num_cpus": 0})
    return gateway.bind(classifier.bind(source, device, threads, settings), settings, token)


def application(arguments: Mapping[str, Any]) -> Any:
    """The application of a RayService.

    arguments: `model`, and optionally `runs`, `tracking` and the fields of `ServiceSettings`; a `token_file` is
    demanded, and `device` must be cpu or gpu. ValueError for anything else.
    """
    own = dict(arguments)
    context = Context(own.pop("runs", "runs"), TrackingSettings.model_validate(own.pop("tracking", {})))
    source = ModelSource(own.pop("model"), context)
    try:
        settings = ServiceSettings.model_validate(own)
    except ValidationError as error:
        raise ValueError(str(describe_validation(error, "args"))) from None
    if settings.token_file is None or settings.device == "auto":
        raise ValueError("args: token_file is missing, or device is neither cpu nor gpu")
    return bind(source, settings, "cuda" if settings.device == "gpu" else "cpu", read_token(settings.token_file))
