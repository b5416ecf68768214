"""Real Ray and real S3 servers for the integration tests."""

from __future__ import annotations

import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration import ray_head as ray_head_process
from tests.integration.run_folder import made_once
from tests.integration.s3_servers import KEY, SECRET
from ufgvc.core.process import disable_telemetry

# Files that take longest, which begin first (`--no-loadscope-reorder`): else one of them runs alone at the end.
LONGEST = [
    "serve", "local_cluster/test_cluster_local", "two_nodes", "bench", "gpu_pack", "fresh_environment", "search",
    "every_command", "training", "pipeline", "calibrate_predict",
    "s3_faults", "tracking", "status", "benchmark", "promotion/test_decisions", "report_pages", "model_serving",
    "promotion/test_refusals", "embedding_pool", "predictions_page", "odd_names", "auto",
]  # fmt: skip
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {FOLDER / (f"{name}.py" if "/" in name else f"test_{name}.py"): at for at, name in enumerate(LONGEST)}
    missing = [str(path) for path in order if not path.exists()]
    assert not missing, f"LONGEST names files that are not there: {missing}"
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_for_the_detector() -> Iterator[None]:
    """The threads of a training on a few tiny images wait for each other while other tests have the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ufgvc.regions.yolo.cpu_count", lambda: 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def _migrate_mlflow_once() -> Iterator[None]:
    """A new SQLite database of MLflow in this process is a copy, for the 50 migrations of an empty one take a second;
    and no write waits for the disk.
    """
    disable_telemetry()  # MLflow reads that when it is imported
    from mlflow.store.db import utils
    from sqlalchemy import Engine, event

    migrate = utils._initialize_tables

    def copy(engine: Any) -> None:
        if not (engine.url.drivername == "sqlite" and engine.url.database and utils._is_empty_database(engine)):
            migrate(engine)
            return
        template = made_once("mlflow.db", lambda path: migrate(utils.create_sqlalchemy_engine(f"sqlite:///{path}")))
        with closing(sqlite3.connect(template)) as source, closing(sqlite3.connect(engine.url.database)) as target:
            source.backup(target)

    def hurry(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", hurry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", copy)
        yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(scope="session")
def ray_head() -> dict[str, str]:
    """Environment variables with which a command joins the Ray head of this pytest run."""
    return {"RAY_ADDRESS": ray_head_process.shared_address()}


@pytest.fixture(scope="session")
def ray_local(ray_head: dict[str, str]) -> Iterator[None]:
    """This process joined to the Ray head; code that opens a session joins it too."""
    import logging

    from ufgvc.runtime import session

    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**ray_head, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}.items():
            environment.setenv(name, value)
        session._prepare_environment()
        import ray

        # What Ray's workers print would mix with the output that tests capture.
        ray.init(address=ray_head["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.WARNING)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint(serve, free_port) -> str:
    """moto's S3 server over HTTP, in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve([sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)], url)
    return url


@pytest.fixture(scope="session")
def rclone_endpoint(serve, free_port, tmp_path_factory: pytest.TempPathFactory) -> str:
    """rclone's S3 server: it checks signatures, and a directory marker hides a whole folder."""
    port = free_port()
    folder = tmp_path_factory.mktemp("rclone")
    program = str(Path(sys.executable).with_name("rclone"))
    address = f"127.0.0.1:{port}"
    keys = f"{KEY},{SECRET}"
    command = [program, "serve", "s3", "--auth-key", keys, "--addr", address, "--vfs-cache-mode", "off", str(folder)]
    serve(command, f"http://{address}", env={"RCLONE_CONFIG": str(folder / "none.conf")})
    return f"http://{address}"


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_endpoint


@pytest.fixture
def s3(s3_environment: str) -> str:
    """The URI of a new, empty bucket on the S3 server, reachable through the usual AWS variables."""
    import boto3

    bucket = f"leaf-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=s3_environment).create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def small_dataset(ray_local: None) -> str:
    """An ingested set of three cultivars with exact masks: 9 training leaves and 12 test leaves of 64 px. Its drawn
    leaves are next to it in source/.
    """
    from ufgvc.data.dataset import open_dataset
    from ufgvc.data.ingest import ingest
    from ufgvc.regions.exact_masks import exact_masks
    from ufgvc.synthetic import SynthSettings, synthesize

    def make(folder: Path) -> None:
        settings = SynthSettings(cultivars=3, train_per_cultivar=3, test_per_cultivar=4, size=64)
        source = synthesize(folder / "source", settings, seed=3)
        ingest(str(source), str(folder / "data"), name="leaves")
        exact_masks(open_dataset(str(folder / "data")), str(source))

    return str(made_once("small_dataset", make) / "data")
