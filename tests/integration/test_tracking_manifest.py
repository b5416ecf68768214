"""MLflow's server with the flags of cluster/kuberay/tracking.yaml, on this machine: it answers to its own names and
to no other.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cluster.manifests import containers


def status(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host})
    return connection.getresponse().status


@pytest.mark.slow
def test_the_server_of_the_manifest_answers_to_its_name(
    serve: Callable[..., Any], free_port: Callable[[], int], tmp_path: Path
) -> None:
    server = containers()["ufgvc-mlflow"]
    port = free_port()
    flags = [flag for flag in server["args"] if not flag.startswith(("--host=", "--port="))]
    program = str(Path(sys.executable).with_name("mlflow"))
    env = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    env |= {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
    }
    command = [program, "server", "--host=127.0.0.1", f"--port={port}", *flags]
    serve(command, f"http://127.0.0.1:{port}/health", env=env, log=tmp_path / "log", within=300)
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert status(port, server["readinessProbe"]["httpGet"]["path"], "10.1.2.3:5000") == 200  # as Kubernetes asks
    names = (
        "ufgvc-mlflow",
        "ufgvc-mlflow.ufgvc",
        "ufgvc-mlflow.ufgvc.svc",
        "ufgvc-mlflow.ufgvc.svc.cluster.local",
        "localhost",
        "127.0.0.1",
    )
    for host in (form for name in names for form in (name, f"{name}:5000", f"{name}:80")):
        assert status(port, path, host) == 200, host
    for host in (
        "elsewhere.example",
        "ufgvc-mlflow.elsewhere.example",
        "ufgvc-mlflow.ufgvc.svc.elsewhere.example:5000",
        "10.1.2.3:5000",
    ):
        assert status(port, path, host) == 403, host
