"""The modern recipe: what it changes, its crops, softened labels and averaged weights, and that published runs stay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from tests.unit.test_methods import CLASSES, small, smallest, tiny_batch, trainable
from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.data.augment import augment, crop_sides, image_key, per_image_uniforms
from ufgvc.data.mixing import soften_labels
from ufgvc.methods import Method, build, names
from ufgvc.methods.modern import CROP_SCALE, LABEL_SMOOTHING, modernise
from ufgvc.training.average import WeightAverage
from ufgvc.training.optim import make_optimizer
from ufgvc.training.settings import TrainSettings, apply_overrides

SETTINGS_KEY = "458bb6bfc538"
MODERN = TrainSettings(recipe="modern")
FITTED = ("linear_probe", "part_probe")
TRAINED = [name for name in names() if name not in FITTED]


def draw(count: int, columns: int, epoch: int = 0) -> Tensor:
    keys = np.array([image_key(f"leaf_{number}") for number in range(count)], np.uint64)
    return torch.from_numpy(per_image_uniforms(keys, 1, epoch, columns))


# --- the recipe


def test_published_runs_keep_their_key() -> None:
    """Frozen: of the recipes and settings before there was a modern one."""
    recipe = build("mask_guided", 3, backbone="resnet18").recipe
    assert short_key(apply_overrides(recipe, TrainSettings()).model_dump(mode="json")) == "09018550312f"
    assert short_key(TrainSettings().result_affecting()) == SETTINGS_KEY
    assert TrainSettings(recipe="published") == TrainSettings()
    assert MODERN.result_affecting()["recipe"] == "modern"


@pytest.mark.parametrize("name", TRAINED)
def test_a_modern_recipe_keeps_what_belongs_to_the_method(name: str) -> None:
    method = smallest(name)
    published = method.recipe
    modern = apply_overrides(published, MODERN, method.whole_leaf)
    assert modern == modernise(published, method.whole_leaf)
    assert (modern.cutmix == 0) == (name == "leaf_traits"), "only it measures outlines"
    for field in ("batch_size", "resize", "crop", "rotate", "eval_view", "mirror", "epochs"):
        assert getattr(modern, field) == getattr(published, field), field
    assert [(stage.epochs, stage.frozen) for stage in modern.stages] == [
        (stage.epochs, stage.frozen) for stage in published.stages
    ]
    assert {(stage.optimizer, stage.schedule) for stage in modern.stages} == {("adamw", "cosine")}
    assert (modern.crop_scale, modern.label_smoothing) == (CROP_SCALE, LABEL_SMOOTHING)
    assert type(modern).model_validate(modern.model_dump(mode="json")) == modern


def test_early_stopping_needs_held_out_leaves() -> None:
    recipe = small("resnet50").recipe
    made = apply_overrides(recipe, TrainSettings(early_stopping=7, validation="holdout"))
    assert made.early_stopping == 7
    for validation in ("last", "test"):
        with pytest.raises(UserError, match=f"with validation {validation} no training leaves are held out") as caught:
            apply_overrides(recipe, TrainSettings.model_validate({"early_stopping": 7, "validation": validation}))
        assert "--train.validation holdout" in str(caught.value.fix)
    with pytest.raises(UserError, match="without epochs"):
        apply_overrides(build("linear_probe", 3, backbone="resnet18").recipe, TrainSettings(early_stopping=7))


def test_settings_change_the_modern_recipe() -> None:
    made = apply_overrides(small("resnet50").recipe, TrainSettings(recipe="modern", epochs=40, learning_rate=3e-4))
    assert [(stage.epochs, stage.warmup_epochs, stage.lr) for stage in made.stages] == [(40, 2, 3e-4)]


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_classifier_has_no_modern_recipe(name: str) -> None:
    with pytest.raises(UserError, match="has no other recipe") as caught:
        apply_overrides(build(name, 3, backbone="resnet18").recipe, MODERN)
    assert caught.value.where == "train.recipe"


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 1.1), (0.9, 0.5)])
def test_shares_that_are_none(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two increasing shares"):
        type(small("resnet50").recipe).model_validate(small("resnet50").recipe.model_dump() | {"crop_scale": scale})


# --- crops of random size


def test_crops_of_random_size_are_those_of_torchvision() -> None:
    side, crop = 60, 48
    images = torch.randint(0, 256, (20, side, side, 3), dtype=torch.uint8)
    masks = torch.randint(0, 2, (20, 4, 4), dtype=torch.uint8).repeat_interleave(15, 1).repeat_interleave(15, 2)
    uniforms = draw(20, 6)
    views, cropped = augment(images, {"vein": masks}, uniforms, crop, crop_scale=(0.3, 1.0))
    for place, (y, x, mirror, _, size, shape) in enumerate(uniforms.tolist()):
        area = (0.3 + 0.7 * size) * side * side
        ratio = math.exp(math.log(3 / 4) + shape * (math.log(4 / 3) - math.log(3 / 4)))
        wide, tall = (min(side, round(math.sqrt(value))) for value in (area * ratio, area / ratio))
        window = int(y * (side - tall + 1)), int(x * (side - wide + 1)), tall, wide
        image, mask = images[place].permute(2, 0, 1).float() / 255, masks[place][None].float()
        whole = vision.resized_crop(image, *window, [crop, crop], antialias=False)
        region = vision.resized_crop(mask, *window, [crop, crop], interpolation=vision.InterpolationMode.NEAREST_EXACT)
        if mirror < 0.5:
            whole, region = whole.flip(2), region.flip(2)
        # Inside: at its edge torchvision repeats the crop's last pixels, where here the image goes on.
        assert torch.allclose(views[place, :, 2:-2, 2:-2], whole[:, 2:-2, 2:-2], atol=2e-3), place
        assert (cropped["vein"][place] != region).float().mean() < 0.03, place  # ties between two pixels


def test_a_mask_follows_its_image_through_crops_of_random_size_and_rotation() -> None:
    images = torch.zeros(200, 64, 64, 3, dtype=torch.uint8)
    images[:, 20:40, 24:50] = 255
    mask = (images[..., 0] > 0).to(torch.uint8)
    views, masks = augment(images, {"vein": mask}, draw(200, 6), 48, rotate=15.0, crop_scale=(0.3, 1.0))
    assert ((views[:, :1] > 0.5) != (masks["vein"] > 0.5)).float().mean() < 0.003
    shares = masks["vein"].mean(dim=(1, 2, 3))
    assert shares.max() > 2 * shares.min() > 0, "the leaf is larger in small crops"


def test_the_area_of_crops_is_uniform_and_their_ratio_in_its_range() -> None:
    tall, wide = crop_sides(draw(20_000, 6), 1, 1000, 1000, (0.2, 0.5))
    counts, _ = np.histogram((tall * wide / 1e6).numpy(), bins=10, range=(0.2, 0.5))
    assert np.abs(counts - 2000).max() < 200
    assert 3 / 4 - 0.01 < (wide / tall).min() < 0.78
    assert 1.3 < (wide / tall).max() < 4 / 3 + 0.01
    tall, wide = crop_sides(draw(1000, 6), 1, 100, 100, (1.0, 1.0))
    assert tall.max() == wide.max() == 100, "no crop is larger than its image"


def test_an_image_without_a_rotation_has_no_black_edge() -> None:
    white = torch.full((50, 64, 64, 3), 255, dtype=torch.uint8)
    views, _ = augment(white, {}, draw(50, 6), 48, crop_scale=(0.3, 1.0))
    assert views.min() > 1 - 1e-6


# --- softened labels


def test_softened_labels_are_the_label_smoothing_of_torch() -> None:
    logits, labels = torch.randn(7, CLASSES, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    targets = soften_labels(labels, CLASSES, 0.3)
    for row, label in zip(targets.tolist(), labels.tolist(), strict=True):
        assert row == pytest.approx([0.7 * (each == label) + 0.3 / CLASSES for each in range(CLASSES)])
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert float(functional.cross_entropy(logits, targets.double())) == pytest.approx(float(expected))


def losses_of(method: Method, targets: Tensor | None) -> dict[str, float]:
    torch.manual_seed(3)
    nn.init.normal_(method.net.classifier.weight, std=0.1)  # B-CNN starts from 0, with one loss for all targets
    batch = method.views(replace(tiny_batch(method), targets=targets))
    parts = method.losses(method.net.eval().train()(batch.images), batch)
    return {name: float(total.detach() / count) for name, (total, count) in parts.items()}


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_takes_class_probabilities(name: str) -> None:
    """Certain ones give the losses of labels; softened ones change the losses of the classes and no other."""
    method = trainable(name)
    labels = tiny_batch(method).labels
    plain, certain = losses_of(method, None), losses_of(method, functional.one_hot(labels, CLASSES).float())
    assert certain == pytest.approx(plain, rel=1e-4, abs=1e-6)
    soft = losses_of(method, soften_labels(labels, CLASSES, 0.5))
    changed = {part for part in plain if soft[part] != pytest.approx(plain[part], rel=1e-4, abs=1e-6)}
    of_classes = {"classification", "raw", "parts", "auxiliary", "tokens", "adversarial", "shuffled"}
    if name == "maskcov":
        of_classes -= {"shuffled"}  # whether a view is shuffled
    assert changed - {"rank"} == of_classes & plain.keys()


def test_dcl_softens_the_class_and_not_whether_a_view_is_shuffled() -> None:
    method = small("dcl")
    targets = soften_labels(tiny_batch(method).labels, CLASSES, 0.4)
    batch = method.views(replace(tiny_batch(method), targets=targets))
    adversary = torch.randn(8, 2 * CLASSES, dtype=torch.float64)
    outputs = {"logits": torch.zeros(8, CLASSES), "adversary": adversary, "location": torch.zeros(8, 49)}
    total, _ = method.losses(outputs, batch)["adversarial"]
    expected = 0.0
    for row in range(8):
        exponentials = [math.exp(value) for value in adversary[row].tolist()]
        for label in range(CLASSES):
            place = label + CLASSES * (row >= 4)  # the shuffled views come second
            expected -= float(targets[row % 4, label]) * math.log(exponentials[place] / sum(exponentials))
    assert float(total) == pytest.approx(expected, rel=1e-5)


# --- the optimizer


def found_in_order(method: Method) -> list[str]:
    return [name for name, _ in method.net.named_parameters()]


def test_adamw_does_not_shrink_biases_and_norms() -> None:
    method = small("mask_guided")
    stage = modernise(method.recipe).stages[0]
    optimizer = make_optimizer(method, stage)
    assert isinstance(optimizer, torch.optim.AdamW)
    named = {id(parameter): name for name, parameter in method.net.named_parameters()}
    found = {
        named[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(named.values())
    backbone = [name for name in found_in_order(method) if not method.is_head(name)]
    for name, parameter in method.net.named_parameters():
        factor = stage.head_lr_factor if method.is_head(name) else 0.8 ** (11 - backbone.index(name) * 12 // 60)
        assert found[name] == (pytest.approx(stage.lr * factor), 0.05 if parameter.ndim > 1 else 0.0), name
    assert len(backbone) == 60
    assert optimizer.param_groups[0]["lr"] == stage.lr, "the rate that is logged is that of the last layers"


# --- averaged weights


def test_the_average_of_the_weights_by_a_loop() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(net, 0.4)
    expected = {name: value.double() for name, value in net.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += torch.randn_like(parameter)
            net(torch.randn(4, 3))
        average.update(net)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    assert average.steps == 12
    for name, value in average.net.state_dict().items():
        wanted = expected[name] if value.is_floating_point() else net.state_dict()[name]
        assert torch.allclose(value.double(), wanted.double(), atol=1e-6), name
    assert not average.net.training
    assert not any(parameter.requires_grad for parameter in average.net.parameters())
