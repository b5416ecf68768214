"""The command line: files and flags become settings, and a mistake in them is one message and exit code 2."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import ufgvc
from tests.documented import ROOT
from ufgvc.cli import main, parse, shared_fields
from ufgvc.commands import COMMANDS, Command
from ufgvc.core.config import load_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.places import check_absolute, check_writable
from ufgvc.runtime.session import in_ray_job

CONFIGS = sorted(path for path in (ROOT / "jobs" / "configs").rglob("*") if path.suffix in (".yaml", ".yml"))


def required_flags(command: Command, method: str = "mask_guided") -> list[str]:
    """`--name value` for everything that a command requires; the values are absolute paths, as a Ray job needs them."""
    fields = command.settings(method).model_fields
    return [text for name, field in fields.items() if field.is_required() for text in (f"--{name}", f"/tmp/{name}")]


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def settings_of(name: str, *arguments: str) -> Any:
    return parse(COMMANDS.get(name), [*arguments])


def configured(path: Path, name: str, *flags: str) -> Any:
    return settings_of(name, "--config", str(path), *required_flags(COMMANDS.get(name)), *flags)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a person reads of a command that is refused: exit code 2, one message, no traceback, nothing on standard
    output."""
    try:
        code = main([*arguments])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    output = capsys.readouterr()
    assert code == 2, output.err
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.strip()
    return " ".join(output.err.replace("│", " ").split())


def test_the_files_are_found() -> None:
    below = [Path(folder) / name for folder, _, names in os.walk(ROOT / "jobs" / "configs") for name in names]
    assert sorted(path for path in below if path.suffix in (".yaml", ".yml")) == CONFIGS
    assert {"cotton80.yaml", "soylocal200.yaml", "demo.yaml"} <= {path.name for path in CONFIGS}
    assert len({path.stem for path in CONFIGS}) == len(CONFIGS) >= 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_serves_every_command(path: Path) -> None:
    document = load_yaml(path)
    method = document.get("method", "mask_guided")
    taken: set[str] = set()
    for name in COMMANDS.names():
        command = COMMANDS.get(name)
        settings = parse(command, ["--config", str(path), *required_flags(command, method)])
        given = {key: document[key] for key in document if key in shared_fields(type(settings))}
        own = document.get(name, {}) if name not in type(settings).model_fields else {}
        for key, value in {**given, **own}.items():
            got = plain(getattr(settings, key))
            if isinstance(value, Mapping):
                assert {each: plain(got[each]) for each in value} == value, f"{name}: {key}"
            else:
                assert got == value, f"{name}: {key}"
        taken |= given.keys() | ({name} & document.keys())
    assert taken == set(document), "a key that no command takes"


def test_a_flag_overrides_the_file(config: Any) -> None:
    path = config(
        "seed: 3\nmask_kind: luminance\nmask: {confidence: 0.4}\ntrain: {epochs: 7, batch_size: 8}\nname: x\n"
    )
    assert configured(path, "train").train.epochs == 7
    assert configured(path, "train").seed == 3
    changed = configured(path, "train", "--train.epochs", "2", "--seed", "5")
    assert (changed.train.epochs, changed.train.batch_size, changed.seed) == (2, 8, 5)
    mask = configured(path, "mask", "--confidence", "0.5")
    assert (mask.mask_kind, mask.confidence) == ("luminance", 0.5)
    assert configured(path, "pipeline").mask.confidence == 0.4
    assert configured(path, "pipeline", "--mask.confidence", "0.3").mask.confidence == 0.3


@pytest.mark.parametrize("name", ["mask", "train", "evaluate", "search", "benchmark", "pipeline"])
def test_the_kind_of_masks_is_one_setting(name: str, config: Any) -> None:
    path = config("mask_kind: exact\n")
    assert configured(path, name).mask_kind == "exact"
    assert configured(path, name, "--mask-kind", "structure").mask_kind == "structure"
    flags = required_flags(COMMANDS.get(name))
    with pytest.raises(SystemExit):
        settings_of(
            name, *flags, f"--{'train' if name in ('train', 'search', 'pipeline') else name}.mask-kind", "exact"
        )
    for section in ("mask", "train", "evaluate"):
        with pytest.raises(UserError, match=rf"{section}.mask_kind: .* one setting .*\n.* at the top level"):
            configured(config(f"{section}: {{mask_kind: exact}}\n"), name)


def test_the_kind_of_masks_reaches_every_step_of_a_pipeline(config: Any) -> None:
    settings = configured(config("mask_kind: exact\nboxes: /tmp/boxes\nmask: {box_source: annotated}\n"), "pipeline")
    mask = settings.settings_for(
        COMMANDS.get("mask").settings(), settings.mask, detector=None, mask_kind=settings.mask_kind
    )
    assert (mask.mask_kind, mask.box_source, mask.source, settings.boxes) == (
        "exact",
        "annotated",
        "/tmp/source",
        "/tmp/boxes",
    )


def test_the_file_may_stand_anywhere_and_hold_what_is_required(config: Any) -> None:
    path = config("data: /tmp/leaves\nmethod: resnet50\n")
    for arguments in (["--seed", "1", "--config", str(path)], [f"--config={path}", "--seed", "1"]):
        settings: Any = parse(COMMANDS.get("train"), arguments)
        assert (settings.data, settings.seed, settings.method) == ("/tmp/leaves", 1, "resnet50")
    switched: Any = parse(COMMANDS.get("train"), ["--config", str(path), "--method", "mask_guided"])
    assert switched.method == "mask_guided"
    assert type(switched.options) is not type(settings.options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rate: 0.1\n", "learning_rate: not a known setting"),
        ("1: 2\nx: 3\n", "1, x: not a known setting"),
        ("train: {epoch: 3}\n", "train: epoch: is not a known setting"),
        ("train: {epochs: many}\n", "train: epochs: Input should be a valid integer"),
        ("train: {epochs: 0}\n", "train: epochs: Input should be greater than or equal to 1"),
        ("train: 3\n", "train:"),
        ("seed: -1\n", "seed:"),
        ("seed: x\n", "seed:"),
        ("method: nope\n", "there is no method named 'nope'"),
        ("method: [a]\n", "there is no method named"),
        ("options: {backbon: resnet18}\n", "options: backbon: is not a known setting"),
        ("train: {precision: fp8}\n", "precision: Input should be 'auto', 'fp32' or 'bf16'"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "key: value"),
    ],
)
def test_mistakes_in_a_file(text: str, says: str, config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(text)
    message = refused(capsys, "train", "--config", str(path), "--data", "/tmp/x")
    assert says in message
    assert str(path) in message or "no method named" in message
    assert message.count("->") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mask: {knd: box}\n", "mask.knd: not a known setting"),
        ("mask: {1: 2}\n", "mask.1"),
        ("mask: box\n", "must be a section"),
    ],
)
def test_mistakes_in_a_commands_own_section(
    text: str, says: str, config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, "mask", "--config", str(config(text)), "--data", "/tmp/x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "--data"),
        (["train", "--data", "/tmp/x", "--train.epochs", "0"], "greater than or equal to 1"),
        (["train", "--data", "/tmp/x", "--train.epochs", "two"], "--train.epochs"),
        (["train", "--data", "/tmp/x", "--epochs", "2"], "--epochs"),
        (["train", "--data", "/tmp/x", "--method", "nope"], "choose one of: "),
        (["mask", "--data", "/tmp/x", "--mask-kind", "circle"], "luminance"),
        (["train", "--data", "/tmp/x", "--config"], "--config"),
        (
            ["train", "--data", "/tmp/x", "--config", "/tmp/not-there.yaml"],
            "/tmp/not-there.yaml: there is no such configuration file",
        ),
        (["train", "--data", "/tmp/x", "--config", "/tmp"], "/tmp: cannot be read"),
        (["train", "--data", "/tmp/x", "--config", ""], "cannot be read"),
    ],
)
def test_mistakes_in_flags(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *arguments)


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "tain", "--data", "/tmp/x")
    assert message.startswith("ufgvc tain: there is no command named 'tain'")
    assert all(name in message for name in COMMANDS.names())


def test_a_process_of_its_own(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ufgvc", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    done = run("nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "ufgvc nope: there is no command named 'nope'"
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_help_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-h"]) == main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS.names())
    assert main([]) == 2


@pytest.mark.parametrize("name", COMMANDS.names())
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    output = capsys.readouterr()
    assert stopped.value.code == 0
    fields = COMMANDS.get(name).settings("mask_guided").model_fields
    assert all(f"--{field.replace('_', '-')}" in output.out for field in fields)
    assert output.err == ""


def test_a_job_is_known_by_rays_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    assert not in_ray_job()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert in_ray_job()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["train", "--data", "leaves", "--runs", "/tmp/runs"], "--data"),
        (["train", "--data", "s3://bucket/leaves"], "--runs"),  # the default is relative too
        (
            ["predict", "--source", "/tmp/new", "--model", "/tmp/m", "--out", "./out", "--runs", "s3://bucket/runs"],
            "--out",
        ),
        (["sync", "--run", "runs/x", "--runs", "/tmp/runs"], "--run"),
        (["mask", "--data", "s3://b/d", "--runs", "s3://b/r", "--detector", "model"], "--detector"),
        (["train", "--data", "s3://b/d", "--runs", "s3://b/r", "--train.init", "weights/net.pt"], "--train.init"),
        (
            [
                "evaluate",
                "--data",
                "s3://b/d",
                "--runs",
                "s3://b/r",
                "--model",
                "models:/a@b",
                "--compare",
                "old=runs/m",
            ],
            "--compare",
        ),
        (
            ["detect", "--data", "s3://b/d", "--runs", "s3://b/r", "--init", "coco", "--coco-weights", "yolo.pt"],
            "--coco-weights",
        ),
        (
            ["pipeline", "--source", "s3://b/p", "--data", "s3://b/d", "--runs", "s3://b/r", "--detect.init", "a/b.pt"],
            "--detect.init",
        ),
    ],
)
def test_a_ray_job_refuses_relative_places(
    arguments: list[str], flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    message = refused(capsys, *arguments)
    assert f"{flag}: the relative path" in message
    assert "s3://" in message


def test_absolute_places_and_names_are_accepted_in_a_job() -> None:
    with pytest.raises(UserError):
        check_absolute(settings_of("train", "--data", "leaves"))
    check_absolute(settings_of("train", "--data", "~/leaves", "--runs", "s3://bucket/runs"))
    shared = ["--data", "s3://b/d", "--runs", "s3://b/r"]
    check_absolute(settings_of("mask", *shared, "--box-source", "annotated"))  # a choice, no place
    check_absolute(settings_of("train", *shared, "--train.init", "imagenet"))
    models = ["--model", "models:/ufgvc-x@champion", "--compare", "old=runs:/0123/model"]
    check_absolute(settings_of("evaluate", *shared, *models))


def test_a_pipeline_asks_for_an_mlflow_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = ["--source", str(tmp_path), "--data", str(tmp_path / "data"), "--runs", "s3://b/r"]
    assert "--runs s3://b/r: MLflow keeps its database" in refused(capsys, "pipeline", *places)
    assert not (tmp_path / "data").exists()


def test_what_is_written_must_be_writable_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below, data = str(tmp_path / "file" / "below"), ["--data", str(tmp_path)]
    for flags in (["--runs", below], ["--tracking.artifacts", below]):
        with pytest.raises(UserError):
            check_writable(settings_of("train", *data, *flags))
        check_writable(settings_of("calibrate", *data, "--model", "x", *flags))  # only reads there
    with pytest.raises(UserError):
        check_writable(settings_of("ingest", "--source", str(tmp_path), "--data", below))
    check_writable(settings_of("train", "--data", below))


PUBLIC = ["ingest", "detect", "mask", "train", "evaluate", "predict", "load_model"]


def test_importing_the_package_is_quick() -> None:
    program = "import time, sys; start = time.process_time(); import ufgvc; print(time.process_time() - start); "
    program += "print(sorted({'torch', 'ray', 'mlflow', 'numpy', 'pyarrow', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = done.stdout.splitlines()
    assert float(seconds) < 0.3
    assert heavy == "[]"


def test_ray_tasks_and_controllers_do_not_import_what_they_do_not_need() -> None:
    """Each is a process of its own: torch takes 1.6 CPU seconds, and torchvision 1.8 more."""
    program = (
        "import sys, ufgvc.data.ingest, ufgvc.data.stream, ufgvc.regions.exact_masks; print('torch' in sys.modules); "
    )
    program += "import ufgvc.training.distributed; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", ufgvc.__all__)
def test_the_public_functions(name: str) -> None:
    assert name in dir(ufgvc)
    public = getattr(ufgvc, name)
    if name != "__version__":
        assert public.__doc__
    if name in PUBLIC:
        assert "context" in inspect.signature(public).parameters or name == "ingest"
        assert f"ufgvc.{name}(" in str(ufgvc.__doc__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ufgvc.nothing  # noqa: B018
