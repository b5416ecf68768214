"""`ufgvc bench`: timing and counting against what is known beforehand, and the messages of what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.factories import put
from ufgvc.bench import steps
from ufgvc.bench.machine import matrix_product
from ufgvc.bench.settings import BenchSettings
from ufgvc.bench.timing import Spread, Timed, time_in_turn
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.resnet50 import classification_loss
from ufgvc.runtime.resources import choose_device

CPU = torch.device("cpu")


# -- timing


def test_everything_is_timed_once_a_round_and_warmed_up_before() -> None:
    now = 0.0
    calls: list[str] = []

    def call(name: str, seconds: float) -> Any:
        def run() -> None:
            nonlocal now
            calls.append(name)
            now += seconds

        return run

    timed = time_in_turn({"slow": call("slow", 4), "fast": call("fast", 1)}, rounds=6, clock=lambda: now, seed=3)
    assert timed.seconds == {"slow": (4.0,) * 6, "fast": (1.0,) * 6}
    rounds = [tuple(calls[at : at + 2]) for at in range(0, len(calls), 2)]
    assert len(rounds) == 7
    assert all(sorted(each) == ["fast", "slow"] for each in rounds)
    assert len(set(rounds)) == 2, "the order within a round is drawn"


def test_a_budget_ends_the_rounds_but_three_are_always_run() -> None:
    assert len(time_in_turn({"a": lambda: None}, rounds=9, budget=-1).seconds["a"]) == 3


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    timed = Timed({"ours": (1.0, 2.0, 4.0), "theirs": (3.0, 2.0, 4.0)})
    row = timed.rate("ours", "images/s", units=8, baseline="theirs", baseline_units=4)
    # ours handles 8, 4, 2 a second; theirs 4/3, 2, 1: ratios 6, 2, 2.
    assert row.value == Spread(4.0, 3.0, 6.0)
    assert row.ratio == Spread(2.0, 2.0, 4.0)
    assert timed.time("ours", scale=1000, baseline="theirs").ratio == Spread(1.0, 1.0, 2.0)


# -- counting


class Flat(nn.Module):
    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * side * side, classes, bias=False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.classifier(images.flatten(1))}


def flat_method(side: int, classes: int) -> Method:
    recipe = build("resnet50", 2, backbone="shufflenet_v2_x0_5", init="none").recipe
    return Method("flat", classes, {}, Flat(side, classes), classification_loss, {"classification": 1.0}, recipe)


def test_operations_and_kept_bytes_of_a_linear_layer_are_those_of_the_formula() -> None:
    side, classes = 32, 5
    cost = steps.count_cost(flat_method(side, classes), side, seed=0)
    inputs = 3 * side * side
    # Forward y = W x and backward dW = dy x': two products of 2 * inputs * classes operations; images need no gradient.
    assert cost.flops == 2 * 2 * inputs * classes
    assert cost.fixed == 3 * 4 * inputs * classes
    # Kept: the images, and the log-probabilities and labels of the cross-entropy.
    assert 4 * inputs <= cost.saved <= 4 * inputs + 4 * classes + 8 + 64


def test_operations_of_resnet50_are_the_known_ones() -> None:
    method = build("resnet50", num_classes=steps.CLASSES, init="none")
    assert steps.count_cost(method, 224, seed=0).flops == pytest.approx(24.29e9, rel=0.01)  # speed.md, section 4


def test_the_matrix_product_counts_a_multiplication_and_an_addition() -> None:
    multiply, operations = matrix_product(CPU, "fp32", seed=0)
    multiply()
    assert operations == 5 * 2 * 1024**3


def test_a_random_batch_is_what_a_step_takes() -> None:
    method = build("mask_guided", num_classes=4, init="none", backbone="shufflenet_v2_x0_5")
    batch = steps.random_batch(method, 3, 64, CPU, seed=1)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert all(
        mask.shape == (3, 1, 64, 64) and set(mask.unique().tolist()) <= {0.0, 1.0} for mask in batch.masks.values()
    )
    assert torch.equal(batch.images, steps.random_batch(method, 3, 64, CPU, seed=1).images)


def test_cases_fit_the_machine_and_methods_without_a_choice_of_backbone_come_once() -> None:
    names = [case.name for case in steps.choose_cases(BenchSettings(methods=("resnet50", "vgg16", "alexnet")), CPU)]
    assert names == [
        "resnet50, resnet18, 160 px, batch 8, fp32",
        "vgg16, vgg16, 160 px, batch 8, fp32",
        "alexnet, 160 px, batch 8, fp32",
    ]
    both = steps.choose_cases(BenchSettings(backbones=("resnet18", "resnet34"), compile="both", batches=(2, 4)), CPU)
    assert len(both) == len({case.name for case in both}) == 2 * 2 * 2 * 2


# -- what cannot be


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no GPU"):
        choose_device("gpu")
    with pytest.raises(UserError, match="bf16"):
        steps.choose_cases(BenchSettings(precisions=("bf16",)), CPU)


def test_a_batch_larger_than_memory_is_refused_with_the_largest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BenchSettings(methods=("resnet50",), backbones=("shufflenet_v2_x0_5",), sides=(64,), batches=(4096,))
    monkeypatch.setattr(steps, "free_memory", lambda device: 10**9)
    cases = steps.choose_cases(settings, CPU)
    with pytest.raises(UserError) as refused:
        steps.check_cases(cases, CPU, seed=0)
    assert refused.value.where == "--batches"
    (fits,) = [int(word) for word in str(refused.value.fix).split() if word.isdecimal()]
    assert 2 <= fits < 4096
    allowed = BenchSettings(**settings.model_dump() | {"batches": (fits,)})
    steps.check_cases(steps.choose_cases(allowed, CPU), CPU, seed=0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "resnet51"], "no method named 'resnet51'"),
        (["--backbones", "resnet19"], "no model 'resnet19'"),
        (["--methods", "inception_v3", "--sides", "32"], "does not take images of 32 px"),
        (["--batches", "100000000", "--sides", "64"], "GB free"),
        (["--source", "empty", "--sides", "32", "--batches", "2"], "is an empty folder"),
        (["--source", "few", "--sides", "32", "--batches", "2"], "holds 3 photographs, at least 16"),
        (["--config", "misspelt.yaml"], "bench.methodes"),
        (["--batches", "1"], "2 or more"),
        (["--methods", "resnet50", "resnet50"], "named twice"),
    ],
)
def test_a_bad_flag_is_one_message(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ufgvc.bench.run.ray_session", lambda *_: nothing())
    (tmp_path / "empty").mkdir()
    put(tmp_path / "few" / "a.jpg"), put(tmp_path / "few" / "b.jpg")
    put(tmp_path / "few" / "c.jpg", b"no photograph")
    put(tmp_path / "misspelt.yaml", "bench: {methodes: [dcl]}\n")
    small = ["--backbones", "shufflenet_v2_x0_5"] if "--backbones" not in flags else []
    try:
        code = main(["bench", *small, *flags])
    except SystemExit as stopped:  # tyro's own refusal of a value
        code = stopped.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert code == 2
    assert said in shown.err + shown.out
    assert "Traceback" not in shown.err
    assert not list(Path("bench").glob("*")) if Path("bench").exists() else True


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...
