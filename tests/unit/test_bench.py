"""`ufgvc bench`: timing, counting, sizing and growth against what is known beforehand, and its messages."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.factories import put
from ufgvc.bench import dataset, growth, reading, report, steps
from ufgvc.bench.machine import describe_machine, matrix_product
from ufgvc.bench.report import BenchReport, format_number
from ufgvc.bench.settings import BenchSettings
from ufgvc.bench.timing import Measurement, Spread, Timed, time_in_turn
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.data.cache import decoded_size
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.resnet50 import classification_loss
from ufgvc.runtime.resources import choose_device
from ufgvc.training.loader import choose_cache

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


# -- photographs


def test_drawn_photographs_are_as_large_as_they_are_said_to_be() -> None:
    drawn = list(dataset.synthetic_photographs(3, seed=0))
    assert len({content for _, content in drawn}) == 3
    for ending, content in drawn:
        assert ending == ".jpg"
        assert 150_000 < len(content) < 250_000
        assert Image.open(io.BytesIO(content)).size == (1200, 900)


def test_own_photographs_are_spread_over_the_listing_without_doubles_and_unreadable_files(tmp_path: Path) -> None:
    for k in range(40):
        put(tmp_path / f"{k:02d}.jpg", None if k % 2 else b"broken")
    put(tmp_path / "40.jpg", (tmp_path / "01.jpg").read_bytes())
    taken = list(dataset.own_photographs(str(tmp_path), 18))
    assert len(taken) == len({content for _, content in taken}) == 18
    for place in range(1, 11, 2):
        (tmp_path / f"{place:02d}.jpg").write_bytes(b"broken")
    (tmp_path / "40.jpg").unlink()
    with pytest.raises(UserError, match="holds 15 different readable photographs"):
        list(dataset.own_photographs(str(tmp_path), 18))


def test_the_source_has_both_splits_of_every_cultivar_and_masks_of_the_photographs_size(tmp_path: Path) -> None:
    def photographs() -> Iterator[tuple[str, bytes]]:
        for k in range(16):
            yield ".jpg", put(tmp_path / "own" / f"{k}.jpg").read_bytes()

    dataset.write_source(tmp_path / "leaves", photographs())
    lines = {
        split: (tmp_path / "leaves" / "anno" / f"{split}.txt").read_text().splitlines() for split in ("train", "test")
    }
    assert {split: sorted({line.split()[1] for line in found}) for split, found in lines.items()} == {
        "train": ["1", "2", "3", "4"],
        "test": ["1", "2", "3", "4"],
    }
    assert len(lines["train"]) == 12
    vein = Image.open(tmp_path / "leaves" / "masks" / "vein" / "1_1_train.png")
    assert (vein.mode, vein.size) == ("1", (60, 40))


def test_the_fast_way_reads_the_pixels_of_the_plain_one_within_a_grey_level() -> None:
    (_, image), masks = next(dataset.synthetic_photographs(1, seed=0)), dataset.synthetic_masks(900, 1200)
    encoded = [dataset.encode_mask(mask) for mask in masks]
    name, decoder = reading.fastest_exact_decoder([image, image], seed=0)
    plain, fast = reading.plain_sample(image, encoded), reading.fast_sample(decoder, image, encoded)
    difference = np.abs(plain[0].permute(1, 2, 0).numpy() * 255 - fast[0])
    assert difference.max() <= 1 + 1e-3, name
    assert fast[1].shape == (512, 64)


def test_a_decoder_that_changes_pixels_or_cannot_read_them_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading.decoders()["Pillow"]

    def broken(image: bytes) -> Any:
        raise RuntimeError("not a JPEG")

    known = {"Pillow": whole, "darker": lambda image: whole(image) // 2, "broken": broken}
    monkeypatch.setattr(reading, "decoders", lambda: known)
    (_, image) = next(dataset.synthetic_photographs(1, seed=0))
    assert reading.fastest_exact_decoder([image], seed=0)[0] == "Pillow"


# -- growth and sizing


@pytest.mark.parametrize("power", [0.5, 1.0, 1.3, 2.0])
def test_the_exponent_of_fixed_and_growing_cost_is_found(power: float) -> None:
    rows = (48, 480, 4800)
    assert growth.exponent(rows, [7 + 0.01 * n**power for n in rows]) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("values", [(5, 5, 5), (5, 4, 9), (1, 2, 2), (1, 1.1, 1e9)])
def test_no_exponent_where_the_values_do_not_tell_one(values: tuple[float, ...]) -> None:
    assert growth.exponent((48, 480, 4800), values) is None


def test_the_memory_of_a_tree_counts_what_children_hold() -> None:
    import subprocess
    import sys

    code = "import sys; held = b'x' * (200 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert 200 << 20 < growth.process_tree_memory(child.pid) < 400 << 20
        child.stdin.close()
    assert growth.process_tree_memory(child.pid) == 0


@pytest.mark.parametrize("rows", [10_000, 1_000_000, 100_000_000])
@pytest.mark.parametrize(("gpu", "disk"), [(None, 10**11), (140 * 10**9, 10**13), (10**13, 0)])
def test_where_a_set_would_be_kept_is_what_training_would_choose(
    rows: int, gpu: int | None, disk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (gpu, gpu))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=disk))
    device = torch.device("cuda" if gpu else "cpu")
    chosen = choose_cache("auto", rows, 512, True, device, tmp_path)
    rates = report.Rates(2e5, 100.0, 50.0, "case", 40.0, gpu, disk)
    assert report.cache_location(rows, rates) == {"device": "on the GPU", "host": "on disk", "none": "streamed"}[chosen]


def test_a_streamed_epoch_is_held_back_by_the_slower_of_decoding_and_the_step() -> None:
    fast_step = report.Rates(2e5, decode=100.0, train=1000.0, case="", predict=None, device_memory=None, disk=0)
    assert report._epoch_cells(360_000, "streamed", fast_step) == ("60 min", "decoding")
    assert report._epoch_cells(360_000, "on disk", fast_step) == ("6 min", "the step")
    assert report._epoch_cells(10, "streamed", report.Rates(2e5, None, 9.0, "", None, None, 0)) == (None, None)
    cells = {row[0]: row[1] for row in report.sizing_rows(fast_step)}
    assert cells["decoded set, 512 px with masks"] == report.format_bytes(decoded_size(10_000, 512, True)) == "8.52 GB"
    assert cells["predict once"] is None


def test_the_report_says_the_same_in_all_its_forms() -> None:
    spread = Spread(1234.5, 1200, 1300)
    row = Measurement("ours", spread, "images/s", "theirs", Spread(2, 1.9, 2.1))
    report = BenchReport(
        describe_machine(CPU), {}, "ufgvc bench", measured={"Reading": [row]}, notes={"Reading": "A note."}
    )
    assert "| ours | 1,234 | 1,200 to 1,300 | images/s | 2 | 1.9 to 2.1 | theirs |" in report.to_markdown()
    assert "A note." in report.to_markdown()
    assert json.loads(report.to_json())["measured"]["Reading"][0]["ratio"]["median"] == 2
    assert "no GPU" in report.machine_line()
    assert [format_number(value) for value in (0.01234, 12.345, 12345.6)] == ["0.0123", "12.3", "12,346"]
