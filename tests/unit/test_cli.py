"""Files and flags become settings; a mistake in them is one message and exit code 2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.command_line import refused, settings_of
from tests.documented import ROOT
from ufgvc.cli import parse, shared_fields
from ufgvc.commands import COMMANDS, Command
from ufgvc.core.config import load_yaml
from ufgvc.core.errors import UserError

CONFIGS = sorted(path for path in (ROOT / "jobs" / "configs").rglob("*") if path.suffix in (".yaml", ".yml"))


def required_flags(command: Command, method: str = "mask_guided") -> list[str]:
    """`--name value` for everything that a command requires; the values are absolute paths, as a Ray job needs them."""
    fields = command.settings(method).model_fields
    return [text for name, field in fields.items() if field.is_required() for text in (f"--{name}", f"/tmp/{name}")]


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def configured(path: Path, name: str, *flags: str) -> Any:
    return settings_of(name, "--config", str(path), *required_flags(COMMANDS.get(name)), *flags)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


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
    with pytest.raises(UserError, match=r"there is no such flag; did you mean --mask-kind\?"):
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
        ("train: {epochs: many}\n", "train: epochs: must be a valid integer"),
        ("train: {epochs: 0}\n", "train: epochs: must be greater than or equal to 1"),
        ("train: 3\n", "train:"),
        ("seed: -1\n", "seed:"),
        ("seed: x\n", "seed:"),
        ("method: nope\n", "there is no method named 'nope'"),
        ("method: [a]\n", "there is no method named"),
        ("options: {backbon: resnet18}\n", "options: backbon: is not a known setting"),
        ("train: {precision: fp8}\n", "precision: must be 'auto', 'fp32' or 'bf16'"),
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
