"""The command line: files and flags become settings, a mistake is one message and exit code 2, a fault of ours keeps its traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ufgvc import cli
from ufgvc.cli import NESTED, SECTIONS, main, parse
from ufgvc.commands import COMMANDS, Command
from ufgvc.core.config import Settings, load_yaml
from ufgvc.core.errors import UserError
from ufgvc.runtime.session import in_ray_job

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "jobs" / "configs").rglob("*") if path.suffix in (".yaml", ".yml"))


def required_flags(command: Command, method: str = "mask_guided") -> list[str]:
    """`--name value` for everything that a command cannot do without; the values are absolute paths, as a Ray job wants them."""
    fields = command.settings(method).model_fields
    return [text for name, field in fields.items() if field.is_required() for text in (f"--{name}", f"/tmp/{name}")]


def plain(value: Any) -> Any:
    return (
        value.model_dump(mode="json")
        if isinstance(value, BaseModel)
        else list(value)
        if isinstance(value, tuple)
        else value
    )


def told(path: Path, command: str, *flags: str) -> Any:
    return parse(
        command, COMMANDS.get(command), ["--config", str(path), *required_flags(COMMANDS.get(command)), *flags]
    )


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def outside_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a person reads of a command that is refused: exit code 2, one message, no traceback, nothing on standard output."""
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
        settings = parse(name, command, ["--config", str(path), *required_flags(command, method)])
        fields = type(settings).model_fields
        own = document.get(name, {}) if name not in NESTED else {}
        filling = {key for key in document if key in fields and (key not in SECTIONS or name in NESTED)}
        for key, value in {**{key: document[key] for key in filling}, **own}.items():
            got = plain(getattr(settings, key))
            if isinstance(value, Mapping):
                assert {each: plain(got[each]) for each in value} == value, f"{name}: {key}"
            else:
                assert got == value, f"{name}: {key}"
        taken |= filling | {key for key in document if key == name}
    assert taken == set(document), "a key that no command takes"


def test_a_flag_beats_the_file(config: Any) -> None:
    path = config("seed: 3\nmask: {kind: luminance, confidence: 0.4}\ntrain: {epochs: 7, batch_size: 8}\nname: x\n")
    assert told(path, "train").train.epochs == 7
    assert told(path, "train").seed == 3
    changed = told(path, "train", "--train.epochs", "2", "--seed", "5")
    assert (changed.train.epochs, changed.train.batch_size, changed.seed) == (2, 8, 5)
    assert (told(path, "mask").kind, told(path, "mask").confidence) == ("luminance", 0.4)
    assert (told(path, "mask", "--kind", "box").kind, told(path, "mask", "--kind", "box").confidence) == ("box", 0.4)
    assert told(path, "pipeline").mask.kind == "luminance"
    assert told(path, "pipeline", "--mask.kind", "box").mask.kind == "box"


def test_the_file_may_stand_anywhere_and_hold_what_is_required(config: Any) -> None:
    path = config("data: /tmp/leaves\nmethod: resnet50\n")
    for arguments in (["--seed", "1", "--config", str(path)], [f"--config={path}", "--seed", "1"]):
        settings: Any = parse("train", COMMANDS.get("train"), arguments)
        assert (settings.data, settings.seed, settings.method) == ("/tmp/leaves", 1, "resnet50")
    switched: Any = parse("train", COMMANDS.get("train"), ["--config", str(path), "--method", "mask_guided"])
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
        (["mask", "--data", "/tmp/x", "--kind", "circle"], "luminance"),
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
        command = [sys.executable, "-m", "ufgvc.cli", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    done = run("train", "--data", "/tmp/x", "--method", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "ufgvc train: there is no method named 'nope'"
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


class Nothing(Settings):
    data: str = "x"


def _raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: object) -> None:
        raise error

    monkeypatch.setitem(COMMANDS._known, "mask", Command("fails", lambda method: Nothing, run))


def run_without_a_reader(program: list[str], unbuffered: bool) -> tuple[int, str]:
    """The exit code and standard error of a process whose output nobody reads any more, as behind `| head`."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    try:
        done = subprocess.run(
            [sys.executable, *program],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
            env=environment,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("arguments", [["--help"], ["synth", "--help"], ["train", "--help"]])
def test_output_that_nobody_reads_to_its_end(arguments: list[str], unbuffered: bool) -> None:
    assert run_without_a_reader(["-m", "ufgvc.cli", *arguments], unbuffered) == (141, "")


def test_a_job_whose_result_nobody_reads_and_a_server_that_hangs_up() -> None:
    program = (
        "import sys\n"
        "from ufgvc import cli, commands\n"
        "def work(settings):\n"
        "    {}\n"
        "commands.COMMANDS._known['sync'] = commands.Command('works', commands.COMMANDS.get('sync').settings, work)\n"
        "raise SystemExit(cli.main(['sync', '--runs', '/tmp/x']))\n"
    )
    assert run_without_a_reader(["-c", program.format("print('done')")], unbuffered=False) == (141, "")
    done = subprocess.run(
        [sys.executable, "-c", program.format("raise BrokenPipeError('the server hung up')")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "BrokenPipeError: the server hung up"


def test_a_fault_of_ours_keeps_its_traceback(outside_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(ZeroDivisionError("ours"), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        main(["mask"])
    program = (
        "from ufgvc import cli, commands\n"
        "def fail(settings): raise ZeroDivisionError('ours')\n"
        "commands.COMMANDS._known['sync'] = commands.Command('fails', commands.COMMANDS.get('sync').settings, fail)\n"
        "raise SystemExit(cli.main(['sync', '--runs', '/tmp/x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: ours"


def test_a_mistake_found_deep_within_a_framework(
    outside_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = UserError("is empty", where="leaf.png", fix="remove it")
    _raising(wrapped, monkeypatch)
    assert refused(capsys, "mask") == "ufgvc mask: leaf.png: is empty -> remove it"


def test_control_c(outside_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _raising(KeyboardInterrupt(), monkeypatch)
    assert main(["mask"]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err


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
        (["mask", "--data", "s3://b/d", "--runs", "s3://b/r", "--model", "detector"], "--model"),
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


def test_places_are_free_outside_of_a_job_and_absolute_ones_within(
    outside_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = parse("train", COMMANDS.get("train"), ["--data", "leaves"])
    cli.refuse_relative_places(relative)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    cli.refuse_relative_places(
        parse("train", COMMANDS.get("train"), ["--data", "~/leaves", "--runs", "s3://bucket/runs"])
    )
    shared = ["--data", "s3://b/d", "--runs", "s3://b/r"]
    cli.refuse_relative_places(
        parse("mask", COMMANDS.get("mask"), [*shared, "--boxes", "annotated"])
    )  # a choice, no place
    cli.refuse_relative_places(parse("train", COMMANDS.get("train"), [*shared, "--train.init", "imagenet"]))
    models = ["--model", "models:/ufgvc-x@champion", "--compare", "old=runs:/0123/model"]
    cli.refuse_relative_places(parse("evaluate", COMMANDS.get("evaluate"), [*shared, *models]))
    with pytest.raises(UserError):
        cli.refuse_relative_places(relative)
