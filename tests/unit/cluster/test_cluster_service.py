"""The RayService: Ray Serve accepts its configuration, and our application accepts its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cluster.manifests import RAY_CLUSTER, RAY_SERVICE, containers, number, of_kind, pods, request
from ufgvc.serving.settings import ServiceSettings

CONFIG: dict[str, Any] = yaml.safe_load(RAY_SERVICE["serveConfigV2"])


def test_ray_serve_accepts_the_configuration() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(CONFIG)
    (application,) = schema.applications
    assert application.import_path == "ufgvc.serving.app:application"
    assert schema.http_options.port == 8000
    assert set(CONFIG) <= set(ServeDeploySchema.model_fields)  # the schema lets unknown keys pass
    assert set(CONFIG["http_options"]) <= set(type(schema.http_options).model_fields)


def test_our_application_accepts_the_arguments(tmp_path: Path) -> None:
    from ray.serve import Application

    from ufgvc.serving.app import application

    (described,) = CONFIG["applications"]
    token = tmp_path / "token"
    token.write_text("a-long-random-word\n")
    arguments = described["args"] | {"token_file": str(token)}
    assert isinstance(application(arguments), Application)
    for wrong in ({"host_": "x"}, {"token_file": None}, {"device": "auto"}, {"replicas": 0}):
        with pytest.raises(ValueError, match="args"):
            application(arguments | wrong)


def test_the_token_and_the_port_are_those_of_the_pods() -> None:
    (described,) = CONFIG["applications"]
    port = CONFIG["http_options"]["port"]
    for name in ("service-head", "service-worker"):
        container = containers()[name]
        (mount,) = container["volumeMounts"]
        (volume,) = pods()[name]["volumes"]
        assert mount["name"] == volume["name"]
        assert described["args"]["token_file"] == f"{mount['mountPath']}/auth_token"
        assert port in {each["containerPort"] for each in container["ports"]}
        assert {"name": "RAY_automatic_object_spilling_enabled", "value": "0"} in container["env"]
    (policy,) = [document for document in of_kind("NetworkPolicy") if document["metadata"]["name"] == "ufgvc-serve"]
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port}]


def test_the_replicas_fit_the_worker() -> None:
    settings = ServiceSettings.model_validate({"replicas": CONFIG["applications"][0]["args"]["replicas"]})
    (group,) = RAY_SERVICE["rayClusterConfig"]["workerGroupSpecs"]
    worker = containers()["service-worker"]
    assert settings.replicas <= group["minReplicas"] * request(worker, "cpu")
    for name, part in (("service-head", RAY_SERVICE["rayClusterConfig"]["headGroupSpec"]), ("service-worker", group)):
        store = int(part["rayStartParams"]["object-store-memory"])
        assert store < number(containers()[name]["resources"]["limits"]["memory"]) / 2
    assert RAY_SERVICE["rayClusterConfig"]["rayVersion"] == RAY_CLUSTER["rayVersion"]
    assert RAY_SERVICE["rayClusterConfig"]["authOptions"] == RAY_CLUSTER["authOptions"]
