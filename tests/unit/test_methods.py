"""The contract that every method keeps, over all registered names, and how backbones get their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.methods import Batch, Method, Recipe, Stage, build, names, options_class
from ufgvc.training.optim import freeze, frozen_modules, make_optimizer
from ufgvc.training.steps import eval_step, train_step

CLASSES, SIDE = 5, 64
# Where the usual small backbone does not suit. B-CNN pools the square of the channels: AlexNet has few, and ends in a
# max-pooling like VGG.
SMALLER = {
    "alexnet": {"hidden": 64},
    "bcnn": {"backbone": "alexnet"},
    "improved_bcnn": {"backbone": "alexnet", "iterations": 3},
    "vgg16": {"backbone": "vgg11_bn", "hidden": 64},
}
# Fully connected layers over a whole map diverge at the rate that soon fits a pooled one; these learn at their
# recipe's.
OWN_RATE = ("alexnet", "vgg16")
# They use more of a ResNet than its last map.
RESNETS = ("mpn_cov", "nts_net", "region_tokens")
# Sixty steps of these take as long as those of all others; their gradients are checked for each.
SLOW_TO_FIT = ("nts_net", "vgg16", "mpn_cov", "improved_bcnn", "part_probe", "inception_v3")


def small(name: str, seed: int = 0, **options: object) -> Method:
    """The method on a small backbone, where it lets one choose."""
    torch.manual_seed(seed)
    usual = {"backbone": "resnet18"} if "backbone" in options_class(name).model_fields else {}
    method = build(name, CLASSES, **(usual | SMALLER.get(name, {}) | options))
    freeze(method, method.recipe.stages[-1])
    return method


def trainable(name: str, **options: object) -> Method:
    """The method on a backbone that trains five times as fast as the one of `small`, where it lets one choose.

    In evaluation its untrained layers return next to nothing: what is compared there needs `small`.
    """
    return small(name, **(_free(name, "shufflenet_v2_x0_5") | options))


def smallest(name: str, **options: object) -> Method:
    """The method on the backbone with the fewest layers, none of which is a BatchNorm."""
    return small(name, **(_free(name, "squeezenet1_1") | options))


def _free(name: str, backbone: str) -> dict[str, object]:
    free = "backbone" in options_class(name).model_fields and name not in (*SMALLER, *RESNETS)
    return {"backbone": backbone} if free else {}


def tiny_batch(method: Method, count: int = 4, seed: int = 0) -> Batch:
    """Random images just large enough for the method, with masks and the numbers that its views draw."""
    generator = torch.Generator().manual_seed(seed)
    side = max(SIDE, method.min_side)
    images = torch.rand(count, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    masks = {region: torch.rand(count, 1, side, side, generator=generator).round() for region in PAPER_REGIONS}
    has = {region: torch.ones(count, dtype=torch.bool) for region in PAPER_REGIONS}
    uniforms = torch.rand(count, method.num_uniforms, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % CLASSES, masks, has, uniforms=uniforms)


@pytest.mark.parametrize("name", names())
class TestContract:
    def test_forward_and_backward(self, name: str) -> None:
        method = trainable(name)
        batch = method.views(tiny_batch(method))
        outputs = method.net.train()(batch.images)
        assert outputs["logits"].shape == (len(batch.labels), CLASSES)
        assert outputs["embedding"].shape == (len(batch.labels), method.net.classifier.in_features)
        assert outputs[method.last_map].ndim == 4
        parts = method.losses(outputs, batch)
        assert set(parts) == set(method.loss_weights)
        for part, (total, count) in parts.items():
            assert total.shape == count.shape == ()
            assert torch.isfinite(total), part
            assert count > 0
        sum(method.loss_weights[part] * total / count for part, (total, count) in parts.items()).backward()
        trained = {name: each for name, each in method.net.named_parameters() if each.requires_grad}
        assert {"classifier.weight"} <= trained.keys()
        for parameter_name, parameter in trained.items():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name

    def test_every_parameter_is_in_exactly_one_group(self, name: str) -> None:
        method = trainable(name)
        for stage in method.recipe.stages:
            groups = make_optimizer(method, stage).param_groups
            grouped = [id(parameter) for group in groups for parameter in group["params"]]
            assert len(grouped) == len(set(grouped))
            assert set(grouped) == {id(parameter) for parameter in method.net.parameters() if parameter.requires_grad}
        trained = {name for name, parameter in method.net.named_parameters() if parameter.requires_grad}
        if method.recipe.classifier_fit:
            assert trained == {"classifier.weight", "classifier.bias"}
        else:
            assert trained == {name for name, _ in method.net.named_parameters()}, "the last stage trains everything"
        heads = {name for name, _ in method.net.named_parameters() if method.is_head(name)}
        assert "classifier.weight" in heads
        assert not any(name.startswith("backbone.") for name in heads)

    def test_options_and_state_dict_make_it_again(self, name: str, tmp_path: Path) -> None:
        method = trainable(name)
        make_step(method, tiny_batch(method))
        save_file(
            {key: value.contiguous() for key, value in method.net.state_dict().items()}, tmp_path / "net.safetensors"
        )
        again = build(name, CLASSES, init=str(tmp_path / "net.safetensors"), **method.options)
        again.net.load_state_dict(method.net.state_dict())
        images = tiny_batch(method, seed=9).images
        assert torch.equal(eval_step(method, method.net.eval(), images), eval_step(again, again.net.eval(), images))
        assert again.options == method.options
        assert options_class(name).model_validate(method.options).model_dump(mode="json") == method.options

    def test_eval_is_deterministic_and_needs_no_masks(self, name: str) -> None:
        method = small(name)
        net = method.net.eval()
        images = tiny_batch(method, seed=1).images
        first = eval_step(method, net, images)
        assert first.shape == (4, CLASSES)
        assert first.dtype == torch.float32
        assert torch.equal(first, eval_step(method, net, images))
        one_by_one = torch.cat([eval_step(method, net, image[None]) for image in images])
        assert torch.allclose(first, one_by_one, atol=1e-4), "an image's logits depend on its company"

    def test_recipe_and_head_name_what_exists(self, name: str) -> None:
        method = trainable(name)
        for stage in method.recipe.stages:
            assert len(frozen_modules(method, stage)) == len(stage.frozen)
        parameters = [parameter for parameter, _ in method.net.named_parameters()]
        for prefix in method.head:  # a misspelt one would let a new layer learn at the backbone's rate
            assert any(parameter.startswith(f"{prefix}.") for parameter in parameters), prefix
        assert method.recipe.crop >= method.min_side


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TO_FIT else []) for name in names()]
)
def test_one_batch_can_be_overfitted(name: str) -> None:
    # Dropout is there to hinder it, and its noise would be in the loss that is looked at.
    method = trainable(name, **({"dropout": 0.0} if "dropout" in options_class(name).model_fields else {}))
    batch = tiny_batch(method, 8)
    optimizer = make_optimizer(method, fast_stage(method))
    method.net.train()
    for _ in range(60):
        done = train_step(method, method.net, batch, optimizer)
        total, count = done.losses["classification"]
        if done.correct == done.count and total / count < 0.05:
            break
    assert done.correct == done.count
    assert total / count < 0.05


def fast_stage(method: Method) -> Stage:
    """Rates at which a batch is soon fitted. A recipe that trains its new layers faster than 0.05 has its reason in the
    size of
    what they see: they get that rate here too, and the backbone below them less than usual."""
    if method.name in OWN_RATE:
        return method.recipe.stages[0]
    head = max(stage.lr * stage.head_lr_factor for stage in method.recipe.stages)
    backbone, head = (0.003, head) if head > 0.05 else (0.01, 0.05)
    return Stage(epochs=1, lr=backbone, head_lr_factor=head / backbone)


def make_step(method: Method, batch: Batch) -> None:
    method.net.train()
    train_step(method, method.net, batch, make_optimizer(method, Stage(epochs=1, lr=0.01)))


def test_unknown_names_and_options_are_told_with_the_known_ones():
    with pytest.raises(UserError, match="no method named 'resnet51'") as caught:
        build("resnet51", CLASSES)
    assert "mask_guided" in str(caught.value)
    with pytest.raises(UserError, match="backbon: is not a known setting"):
        build("resnet50", CLASSES, backbon="resnet18")
    with pytest.raises(UserError, match="no model 'resnet81'") as caught:
        build("resnet50", CLASSES, backbone="resnet81")
    assert "resnet18" in str(caught.value)
    with pytest.raises(UserError, match="two classes"):
        build("resnet50", 1)


def test_mirror_averaging_makes_the_logits_of_both_mirror_images_equal():
    method = small("resnet50")
    images = tiny_batch(method).images
    plain = eval_step(method, method.net.eval(), images)
    mirrored = Method(**{**vars(method), "recipe": method.recipe.model_copy(update={"mirror": True})})
    both = eval_step(mirrored, mirrored.net, images)
    assert torch.allclose(both, eval_step(mirrored, mirrored.net, images.flip(3)), atol=1e-6)
    assert torch.allclose(both, (plain + eval_step(method, method.net, images.flip(3))) / 2, atol=1e-6)
    assert not torch.allclose(both, plain, atol=1e-4)


def test_recipe_refuses_a_crop_that_does_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        Recipe(stages=(Stage(epochs=1, lr=0.1),), resize=200, crop=224)


# --- backbones
