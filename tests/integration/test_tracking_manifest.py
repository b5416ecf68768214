"""MLflow's server with the flags of cluster/kuberay/tracking.yaml, on this machine: it answers to its own name and to no other."""

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
def test_the_server_of_the_manifest_answers_to_its_name(serve: Callable[..., Any], free_port: Callable[[], int], tmp_path: Path) -> None:
    server = containers()["ufgvc-mlflow"]
    port = free_port()
    flags = [flag for flag in server["args"] if not flag.startswith(("--host=", "--port="))]
    program = str(Path(sys.executable).with_name("mlflow"))
    env = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    env |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
    command = [program, "server", "--host=127.0.0.1", f"--port={port}", *flags]
    serve(command, f"http://127.0.0.1:{port}/health", env=env, log=tmp_path / "log", within=300)
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert status(port, server["readinessProbe"]["httpGet"]["path"], "10.1.2.3:5000") == 200  # as Kubernetes asks
    assert status(port, path, "ufgvc-mlflow:5000") == 200
    assert status(port, path, "localhost:5000") == 200
    assert status(port, path, "elsewhere.example") == 403
