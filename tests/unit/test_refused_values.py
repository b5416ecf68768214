"""A flag with a value that the settings refuse is one message: the flag, the value, and what is allowed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import tyro._errors
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from tests.command_line import refused
from ufgvc.cli import main
from ufgvc.commands import COMMANDS
from ufgvc.core.config import Settings

TRAIN = ("train", "--data", "/tmp/x")
INGEST = ("ingest", "--source", "/tmp/x", "--data", "/tmp/y")


def clean(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a refused command line, in our words only."""
    message = refused(capsys, *arguments)
    assert message.startswith(f"ufgvc {arguments[0]}: ")
    assert message.endswith(f"-> see `ufgvc {arguments[0]} --help`")
    for foreign in ("pydantic", "https:", "type=", "input_value", "validation error", "Value error", "Input should"):
        assert foreign not in message
    return message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("synth", "--out", "/tmp/x", "--cultivars", "1"), "--cultivars 1: must be greater than or equal to 2"),
        ((*INGEST, "--split", "1.5"), "--split 1.5: must be less than 1"),
        ((*INGEST, "--regions", "vein", "Vein"), "--regions Vein: 'Vein' cannot name a region: use at most 30 lower"),
        ((*INGEST, "--regions", "vein", "vein"), "--regions vein vein: vein is named twice"),
        ((*INGEST, "--regions"), "--regions: these are 0 regions: name 1 to 8"),
        ((*TRAIN, "--train.batch_size", "1"), "--train.batch-size 1: must be greater than or equal to 2"),
        (
            (*TRAIN, "--method", "leaf_traits", "--options.traits", "outline", "outline"),
            "--options.traits outline outline: outline is named twice",
        ),
        (
            (*TRAIN, "--method", "nts_net", "--options.parts", "9"),
            "--options.proposals 6, --options.parts 9: 9 parts cannot be the best of 6 proposals",
        ),
        (
            (*TRAIN, "--method", "resnet50", "--options.stages", "1", "2"),
            "--options.pooling mean, --options.stages 1 2: `stages` are pooled with `pooling: stages` only",
        ),
        (
            ("detect", "--data", "/tmp/x", "--num-annotated", "2"),
            "--num-annotated 2: num_annotated must be 0, or 4 or more",
        ),
        (
            ("detect", "--data", "/tmp/x", "--num-annotated", "0", "--init", "coco"),
            "--num-annotated 0, --init coco: without annotated leaves",
        ),
        (("benchmark", "--data", "/tmp/x", "--seeds-of", "a=0"), "--seeds-of a=0: 'a=0' is not row=seeds"),
        (("benchmark", "--data", "/tmp/x", "--lr-factors", "1", "1"), "--lr-factors 1.0 1.0: give different numbers"),
        (("bench", "--sides", "1"), "--sides 1: give numbers of 2 or more"),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, tuple) else None,
)
def test_a_check_names_flag_value_and_what_is_allowed(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in clean(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train",), "--data is missing: where the ingested data set lies"),
        (
            ("predict", "--source", "/tmp/x"),
            "--model is missing: models:/name@alias, runs:/<id>/model, or a folder; --out",
        ),
        (
            ("train", "--epoch", "3"),
            "--data is missing: where the ingested data set lies: a folder, s3://bucket/prefix, or",
        ),
        (("train", "--epochs", "3"), "--epochs: there is no such flag; did you mean --train.epochs?"),
        ((*TRAIN, "--train.epoch=3"), "--train.epoch: there is no such flag; did you mean --train.epochs?"),
        ((*TRAIN, "--nope", "3"), "--nope: there is no such flag"),
        ((*TRAIN, "7"), "7: belongs to no flag"),
        ((*TRAIN, "--train.epochs", "abc"), "--train.epochs abc: must be a whole number or None"),
        (
            (*TRAIN, "--train.epochs", "3", "--train.epochs", "abc"),
            "--train.epochs abc: must be a whole number or None",
        ),
        ((*TRAIN, "--train.learning_rate=fast"), "--train.learning-rate fast: must be a number or None"),
        ((*TRAIN, "--train.epochs"), "--train.epochs needs a value: a whole number or None"),
        (("train", "--data"), "--data needs a value: where the ingested data set lies"),
        ((*TRAIN, "--train.device", "tpu"), "--train.device tpu: must be one of auto, cpu, gpu"),
        (("bench", "--sides", "1", "b"), "--sides 1 b: must be a whole number (one or several)"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else None,
)
def test_what_tyro_cannot_read_is_one_message(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in clean(capsys, *arguments)


def bounded(settings: type[Settings], prefix: str = "--") -> Iterator[tuple[str, str]]:
    """(flag, value outside of its bounds) of all numbers with bounds, in all sections."""
    for name, field in settings.model_fields.items():
        flag = prefix + name.replace("_", "-")
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from bounded(field.annotation, f"{flag}.")
        elif (value := _outside(field)) is not None:
            yield flag, value


def _outside(field: FieldInfo) -> str | None:
    """A whole number that the bounds exclude; none for what is no flag (`tyro.conf.Suppress`)."""
    for bound in field.metadata:
        for kind, step in ((Ge, -1), (Gt, 0), (Le, 1), (Lt, 0)):
            if isinstance(bound, kind):
                limit: Any = getattr(bound, kind.__name__.lower())
                return str(int(limit) + step)
    return None


@pytest.mark.parametrize("name", COMMANDS.names())
def test_every_bound_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them at once: the one message names each."""
    settings = COMMANDS.get(name).settings()
    required = [
        text for key, field in settings.model_fields.items() if field.is_required() for text in (f"--{key}", "x")
    ]
    wrong = list(bounded(settings))
    if not wrong:
        pytest.skip("no bounds")
    message = clean(capsys, name, *required, *(text for pair in wrong for text in pair))
    for flag, value in wrong:
        number = value if f"{flag} {value}: must be " in message else f"{value}.0"
        assert f"{flag} {number}: must be " in message
    assert message.count(": must be ") == len(wrong)


def test_a_fault_of_a_flag_with_values_of_a_file(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The file gives what the flag does not go with."""
    config = tmp_path / "settings.yaml"
    config.write_text("detect: {num_annotated: 0}\n", encoding="utf-8")
    message = clean(capsys, "detect", "--config", str(config), "--data", "/tmp/x", "--init", "coco")
    assert "--num-annotated 0, --init coco: without annotated leaves" in message


def test_help_keeps_the_sections_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stopped.value.code == 0
    assert all(text in shown for text in ("train options", "--train.batch-size", "(required)"))


def _without_hook(patch: pytest.MonkeyPatch) -> None:
    patch.delattr("tyro._errors.on_parse_error")


def _with_other_events(patch: pytest.MonkeyPatch) -> None:
    """The hook is called with events of the known names, which have none of the known fields."""
    before = tyro._errors.on_parse_error

    def on_parse_error(hook: Any) -> Any:
        return before(lambda event: hook(type(type(event).__name__, (), {"argument": None, "tokens": 3})()))

    patch.setattr("tyro._errors.on_parse_error", on_parse_error)


@pytest.mark.parametrize("another", [_without_hook, _with_other_events])
@pytest.mark.parametrize("arguments", [("train",), (*TRAIN, "--nope", "3"), (*TRAIN, "--train.device", "tpu")])
def test_with_another_tyro_it_is_its_own_text(
    another: Any, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    another(monkeypatch)
    message = refused(capsys, *arguments)
    assert "ufgvc train --help" in message
    assert arguments[-1] in message or "--data" in message
