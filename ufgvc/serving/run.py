"""Starts the service in a Ray session and waits until it is stopped."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.process import Stopped, cpu_count, sigterm_as_interrupt
from ufgvc.core.storage import open_store
from ufgvc.models.onnx import has_gpu_provider
from ufgvc.runtime.resources import (
    TorchDevice,
    alive_nodes,
    choose_device,
    count_slots,
    describe_nodes,
    describe_resources,
)
from ufgvc.runtime.session import cluster_address, ray_session
from ufgvc.serving.preflight import check_address, page_urls, token_digest
from ufgvc.serving.settings import Ended, ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import OFF, resolve

log = logging.getLogger(__name__)

NAME = "ufgvc"
LOOK_SECONDS = 2.0  # between two looks at which version answers
DESCRIBE_SECONDS = 30.0
# Uploads pass through Ray's object store. Where it is full a request is refused; nothing is written to the disk.
NO_SPILLING = ("RAY_automatic_object_spilling_enabled", "0")


def serve_model(model: str, settings: ServiceSettings, context: Context) -> Ended:
    """Serves the model until Control-C or SIGTERM.

    UserError before anything is started: no such model, no token for a public address, the port is in use, no room.
    """
    token = token_digest(settings)
    check_address(settings.host, settings.port)
    source = absolute_source(model, context)
    loaded = source.load(source.version())  # a missing or damaged one ends here
    can_use_gpu = not loaded.exported or has_gpu_provider()
    del loaded
    os.environ.setdefault(*NO_SPILLING)
    cpus = context.ray.cpus or max(4, cpu_count(), settings.replicas)
    ray = context.ray.model_copy(update={"cpus": cpus})
    try:
        gpus = settings.replicas if settings.device == "gpu" else 0
        with sigterm_as_interrupt(), ray_session(ray, gpus):
            device = check_room(settings, can_use_gpu)
            _serve(source, settings, device, token, joined=cluster_address(ray) is not None)
    except KeyboardInterrupt as stop:
        print("stopped")
        url = page_urls(settings.host, settings.port)[-1]
        return Ended(url, "SIGTERM" if isinstance(stop, Stopped) else "Control-C")
    raise RuntimeError("the service ended by itself")


def absolute_source(model: str, context: Context) -> ModelSource:
    """The model with places that are the same for every process."""
    if not model.startswith(("models:", "runs:")):
        return ModelSource(open_store(model).uri, context)
    location = resolve(context.tracking, context.runs)
    uri = OFF if location is None else location.uri
    return ModelSource(model, dataclasses.replace(context, tracking=context.tracking.model_copy(update={"uri": uri})))


def check_room(settings: ServiceSettings, can_use_gpu: bool) -> TorchDevice:
    """The device of the replicas. Inside of a Ray session. UserError if they do not fit."""
    nodes = alive_nodes()
    gpus = sum(node.get("GPU", 0) for node in nodes) if can_use_gpu else 0
    enough = settings.device == "gpu" or gpus >= settings.replicas
    device = choose_device(settings.device, gpus, settings.replicas) if enough else "cpu"
    each = {"CPU": 1.0} | ({"GPU": 1.0} if device == "cuda" else {})
    room = count_slots(nodes, each)
    if room < settings.replicas:
        what = f"there is room for {room} replicas with {describe_resources(each)} each ({describe_nodes(nodes, each)})"
        raise UserError(what, where=f"--replicas {settings.replicas}", fix="give fewer, or raise --ray.cpus")
    return device


def _serve(
    source: ModelSource, settings: ServiceSettings, device: TorchDevice, token: bytes | None, joined: bool
) -> None:
    """Serves until it is interrupted.  joined: Ray goes on without us, so that Ray Serve is ended as well."""
    from ray import serve

    from ufgvc.serving.app import QUIET, bind

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    http = {"host": settings.host, "port": settings.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=QUIET)
        serve.run(bind(source, settings, device, token), name=NAME, route_prefix="/", logging_config=QUIET)
        urls = page_urls(settings.host, settings.port)
        answer = "answers" if len(urls) == 1 else "answer"
        print(f"{' and '.join(urls)} {answer}, on {settings.replicas} x {device}; Control-C ends it", flush=True)
        _report_versions(serve.get_deployment_handle("classifier", NAME))
    finally:
        if joined:
            serve.shutdown()
        else:
            serve.delete(NAME)


def _report_versions(handle: Any) -> None:
    """Says which version answers, and what is wrong with the registry, whenever that changes. Never returns."""
    before = ""
    while True:
        now = _state(handle)
        if now != before:
            log.info("%s", now)
        before = now
        time.sleep(LOOK_SECONDS)


def _state(handle: Any) -> str:
    """One line: which version answers, or that none does now; Ray Serve then replaces the process."""
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import RayServeException

    try:
        state = handle.describe.remote().result(timeout_s=DESCRIBE_SECONDS)
    except (RayActorError, RayServeException, TimeoutError):
        return "a process of the model has ended or does not answer"
    version = f"version {state['model']['version']}" if state["model"]["version"] else "the model"
    return f"{version} answers" + (f"; the registry: {state['registry']}" if state["registry"] else "")
