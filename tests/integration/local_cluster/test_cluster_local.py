"""cluster/local.py and jobs on it: open ports, authentication, stopped jobs, and what `down` ends."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.stack import Stack, marked_processes, read_stack
from tests.conftest import stop
from tests.factories import three_cultivars
from tests.integration.served_models import post
from tests.integration.submission import Running, local, wait_until
from ufgvc.core.storage import open_store
from ufgvc.synthetic import SynthSettings, synthesize

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
TINY = [
    "--method",
    "resnet50",
    "--options.backbone",
    "shufflenet_v2_x0_5",
    "--train.init",
    "none",
    "--train.epochs",
    "8",
    "--train.batch-size",
    "4",
    "--train.resize",
    "40",
    "--train.crop",
    "32",
    "--train.checkpoint-seconds",
    "0",
    "--train.cpus-per-worker",
    "0.5",
]


@pytest.fixture(scope="module")
def stack(checkout: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("stack")
    try:
        yield Running.up(checkout, folder, home, "--cpus", "2", "--object-store-mb", "200")
    finally:
        local(checkout, "down", "--folder", str(folder), home=home)


def use(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `source env.sh` does."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in running.exports.items():
        monkeypatch.setenv(name, value)


def described(running: Running) -> Stack:
    found = read_stack(running.folder)
    assert found is not None
    return found


def everything(running: Running) -> set[psutil.Process]:
    marked = set(marked_processes(described(running).mark).values())
    return marked | {child for process in marked for child in process.children(recursive=True)}


def test_status_and_a_second_up(stack: Running) -> None:
    shown = stack.local("status")
    assert shown.returncode == 0, shown.stdout
    for part in ("s3", "mlflow", "ray head", "ray node 1"):
        assert part in shown.stdout
    assert "down" not in shown.stdout
    again = stack.local("up")
    assert again.returncode == 0, again.stderr
    assert "up already" in again.stdout
    assert f"export RAY_API_SERVER_ADDRESS={stack.exports['RAY_API_SERVER_ADDRESS']}" in again.stdout
    assert described(stack).count_alive_nodes() == 2


def test_nothing_listens_beyond_loopback_and_secrets_are_their_owners(stack: Running) -> None:
    sockets = [
        socket
        for process in everything(stack)
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(sockets) > 10
    assert {socket.laddr.ip for socket in sockets} <= set(LOOPBACK)
    assert {
        name: (stack.folder / name).stat().st_mode & 0o777 for name in ("token", "env.sh", "stack.json")
    } == dict.fromkeys(("token", "env.sh", "stack.json"), 0o600)
    secret = stack.exports["AWS_SECRET_ACCESS_KEY"]
    for process in everything(stack):
        assert secret not in " ".join(process.cmdline())
    assert not list(stack.home.iterdir()), "something was written into the home folder"


def test_only_who_has_the_token_may_submit(stack: Running) -> None:
    job = {"entrypoint": "true"}
    for token in (None, "0" * 64):
        with pytest.raises(urllib.error.HTTPError) as caught:
            stack.ask("/api/jobs/", token, body=job)
        assert caught.value.code in (401, 403)
    assert b"submission_id" in stack.ask("/api/jobs/", (stack.folder / "token").read_text(), body=job)


@pytest.mark.slow
def test_a_stopped_job_says_killed_and_the_same_command_goes_on(
    stack: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(stack, monkeypatch)
    three_cultivars("s3://ufgvc/three")
    command = ["python", "-m", "jobs.train", "--data", "s3://ufgvc/three", "--runs", "s3://ufgvc/runs"]
    command += ["60" if each == "8" else each for each in TINY]  # epochs: eight end before the stop comes
    stack.ray_job("submit", "--no-wait", "--submission-id", "first", "--working-dir", ".", "--", *command)
    runs = open_store("s3://ufgvc/runs")

    def checkpointed() -> bool:
        return any(name.endswith("progress.json") for name in runs.list())

    def one_epoch_or_the_end() -> bool:
        return checkpointed() or b"FAILED" in stack.ask("/api/jobs/first", (stack.folder / "token").read_text())

    wait_until(one_epoch_or_the_end, "the first epoch")
    assert checkpointed(), stack.try_ray_job("logs", "first").stdout
    assert "was stopped" in stack.ray_job("stop", "first")
    log = stack.ray_job("logs", "first")
    assert "stopped; the same command continues from the last checkpoint" in log
    assert "Traceback" not in log
    (run,) = stack.runs("tiny")
    assert run["info"]["status"] == "KILLED"
    assert not any(name.endswith("model.json") for name in runs.list()), "it was stopped too late to show anything"

    log = stack.submit(*command)
    assert "epoch 60/60" in log
    assert "epoch 1/60" not in log
    (resumed,) = stack.runs("tiny")
    assert (resumed["info"]["run_id"], resumed["info"]["status"]) == (run["info"]["run_id"], "FINISHED")
    assert stack.metric(run["info"]["run_id"], "loss") == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_train_evaluate_promote_predict_serve_by_submission(
    stack: Running,
    serve: Callable[..., subprocess.Popen[bytes]],
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(stack, monkeypatch)
    leaves = synthesize(
        tmp_path / "leaves", SynthSettings(cultivars=3, train_per_cultivar=4, test_per_cultivar=2, size=64)
    )
    open_store("s3://ufgvc").upload(leaves, "photos")
    data, runs = ["--data", "s3://ufgvc/leaves"], ["--runs", "s3://ufgvc/runs"]

    def job(name: str, *flags: str) -> str:
        return stack.submit("python", "-m", f"jobs.{name}", *flags)

    where = stack.submit("python", "-c", "import os, ufgvc; print('code', ufgvc.__file__)")
    assert re.search(rf"code {re.escape(str(described(stack).session))}\S*/working_dir_files/", where), where
    assert "3 cultivars, 12 train, 6 test leaves" in job("ingest", "--source", "s3://ufgvc/photos", *data)
    assert "masks (box) of 18 leaves" in job("mask", *data, *runs, "--box-source", "annotated")
    small = TINY[TINY.index("--options.backbone") :]
    log = job(
        "train",
        *data,
        *runs,
        "--method",
        "mask_guided",
        *small,
        "--train.workers",
        "2",
        "--train.epochs",
        "2",
        "--train.batch-size",
        "8",
    )
    model = re.search(r"model (s3://ufgvc/runs/leaves/mask_guided/\S+/model)", log)
    assert model, log
    log = job("evaluate", *data, *runs, "--model", model[1], "--cam-leaves", "2", "--region-leaves", "2")
    assert "of 6" in log
    assert "promoted" in job("promote", *data, *runs)
    champion = "models:/ufgvc-leaves@champion"
    job("predict", "--source", "s3://ufgvc/photos/images", "--model", champion, "--out", "s3://ufgvc/named", *runs)
    rows = list(csv.DictReader(io.StringIO(open_store("s3://ufgvc/named").read_text("predictions.csv"))))
    assert len(rows) == 18

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", champion, "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    programs = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server = serve(command, f"{url}/ping", log=tmp_path / "serve.log", env=stack.exports | programs, within=300)
    try:
        row = rows[0]
        photograph = next(path for path in (leaves / "images").iterdir() if path.name == Path(row["path"]).name)
        body = {"dataframe_records": [{"image": base64.b64encode(photograph.read_bytes()).decode()}]}
        status, answers = post(url, body)
        assert status == 200, answers
        assert answers[0]["cultivar"] == row["cultivar"]
        assert float(answers[0]["probability"]) == pytest.approx(float(row["probability"]), abs=1e-3)
    finally:
        stop(server)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--data", "leaves", "--runs", "s3://ufgvc/runs"],
            "--data: the relative path 'leaves' would lie in Ray's copy",
        ),
        (["--data", "s3://leaf-that-nobody-made/x", "--runs", "s3://ufgvc/runs"], "no such bucket"),
        (
            ["--data", "s3://ufgvc/six", "--runs", "s3://ufgvc/bad", "--train.cpus-per-worker", "40"],
            "40 CPUs leave none of the 4",
        ),
        (["--data", "s3://ufgvc/six", "--runs", "/tmp/ufgvc-runs"], "is a local path, but the cluster has 2 nodes"),
    ],
)
def test_a_mistake_is_one_message_in_the_jobs_log(
    stack: Running, flags: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(stack, monkeypatch)
    if not open_store("s3://ufgvc/six").exists("dataset.json"):
        three_cultivars("s3://ufgvc/six")
    done = stack.try_ray_job(
        "submit", "--working-dir", ".", "--", "python", "-m", "jobs.train", *TINY[:6], "--train.batch-size", "4", *flags
    )
    assert done.returncode == 1
    assert says in done.stdout
    assert "Traceback" not in done.stdout


def test_down_ends_what_up_started_and_nothing_else(stack: Running) -> None:
    """The last test of this stack."""
    before, was = everything(stack), described(stack)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        node = next(part for part in was.servers if part.name == "ray node 1")
        assert node.pid is not None
        psutil.Process(node.pid).kill()
        wait_until(lambda: not psutil.pid_exists(node.pid), "the end of a node")
        shown = stack.local("status")
        assert shown.returncode == 1
        assert "down" in shown.stdout
        again = stack.local("up")
        assert again.returncode == 2
        assert "ray node 1" in again.stderr

        assert stack.local("down").returncode == 0
        assert not [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not was.session.exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert stack.local("status").returncode == 1
    assert stack.local("down").returncode == 0
