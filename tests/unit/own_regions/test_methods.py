"""Methods with regions of the user's own: a training step, gradients, weights, names that torch has too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.own_regions.leaves import OWN, batch_with
from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.layers.attention import fuse, layer_name
from ufgvc.methods.method import Method
from ufgvc.methods.region_weights import Fusion, LossWeights, choose_weights, published_weights
from ufgvc.training.optim import make_optimizer

SMALL = {"mask_guided": "squeezenet1_1", "region_tokens": "resnet18"}
# Attributes of torch's modules, names of our weights and layers, and names that differ in a capital or not at all.
AWKWARD = ("base", "half", "type", "training", "shared", "classifier", "find", "regions")


def made(name: str, regions: tuple[str, ...] = OWN, **options: Any) -> Method:
    torch.manual_seed(0)
    return build(name, 4, backbone=SMALL[name], regions=regions, **options)


@pytest.mark.parametrize("regions", [OWN, AWKWARD], ids=["own", "awkward"])
@pytest.mark.parametrize("name", SMALL)
def test_a_step_moves_what_belongs_to_every_region(name: str, regions: tuple[str, ...]) -> None:
    method, batch = made(name, regions), batch_with(regions)
    assert method.regions == regions
    assert method.options["regions"] == list(regions)
    outputs = method.net.train()(batch.images)
    assert tuple(outputs["attention"]) == regions
    parts = method.losses(outputs, batch)
    assert set(parts) == set(method.loss_weights) >= {"classification", *regions}
    sum(method.loss_weights[part] * total / count for part, (total, count) in parts.items()).backward()
    before = {parameter: each.detach().clone() for parameter, each in method.net.named_parameters()}
    for parameter, each in method.net.named_parameters():
        assert each.grad is not None, parameter
        assert each.grad.abs().sum() > 0, parameter
    make_optimizer(method, method.recipe.stages[0]).step()
    moved = {parameter for parameter, each in method.net.named_parameters() if not torch.equal(each, before[parameter])}
    layers = method.net.attention if name == "mask_guided" else method.net.find
    assert len(layers) == len(regions)
    kind = "attention" if name == "mask_guided" else "find"
    assert {f"{kind}.{layer_name(region)}" for region in regions} <= {
        part.rsplit(".", 1)[0].removesuffix(".conv") for part in moved
    }


@pytest.mark.parametrize("name", SMALL)
def test_the_saved_options_and_weights_make_the_method_again(name: str) -> None:
    method = made(name)
    again = build(name, 4, **method.options)
    again.net.load_state_dict(method.net.state_dict())
    images = batch_with(OWN).images
    with torch.no_grad():
        assert torch.equal(again.net.eval()(images)["logits"], method.net.eval()(images)["logits"])
    assert again.options.keys() == method.options.keys()
    assert again.regions == method.regions
    assert again.loss_weights == method.loss_weights
    if name == "mask_guided":
        assert again.net.fusion == pytest.approx(method.net.fusion)


def test_a_region_alone_has_the_loss_of_its_own_mask() -> None:
    """Of two regions the masks are swapped: the losses follow the names, not the places."""
    method, batch = made("mask_guided", ("tip", "stalk")), batch_with(("stalk", "tip"))
    outputs = method.net.eval()(batch.images)
    parts = method.losses(outputs, batch)
    alone = method.losses(outputs, batch_with(("stalk", "tip")))
    assert parts["tip"][0] == alone["tip"][0] != parts["stalk"][0]


def test_weights_of_other_regions_are_equal_shares_of_what_the_base_leaves() -> None:
    weights = published_weights("paper", OWN)
    assert weights.base == 0.3
    assert weights.fusion == pytest.approx(dict.fromkeys(OWN, 0.7 / 3))
    assert weights.losses == dict.fromkeys(OWN, 0.1)
    assert published_weights("paper", ("vein", "tip")).fusion == pytest.approx({"vein": 0.35, "tip": 0.35})
    assert published_weights("paper", ("contour", "vein")).fusion == {"vein": 0.5, "contour": 0.2}
    code = published_weights("released_code", OWN)
    assert (code.base, code.losses["base"]) == (0.2, 0.1)
    assert code.fusion == pytest.approx(dict.fromkeys(OWN, 0.8 / 3))
    assert published_weights("released_code", ("tip",)).losses == {"tip": 0.2}


def test_a_region_called_base_has_a_weight_of_its_own() -> None:
    options = {"fusion": {"base": 2.0, "regions": {"base": 1.0, "midrib": 1.0, "margin": 0.0}}}
    method = made("mask_guided", **options)
    assert method.net.base == 0.5
    assert method.net.fusion == {"midrib": 0.25, "margin": 0.0, "base": 0.25}
    saved = method.options["fusion"]
    assert saved["base"] == 0.5
    assert saved["regions"] == {"midrib": 0.25, "margin": 0.0, "base": 0.25}
    batch = batch_with(OWN)
    outputs = method.net.eval()(batch.images)
    features, attention = outputs["features"], outputs["attention"]
    wanted = features * (0.5 + 0.25 * attention["midrib"] + 0.25 * attention["base"])
    torch.testing.assert_close(outputs["fused"], wanted)
    torch.testing.assert_close(fuse(features, attention, 0.5, method.net.fusion), wanted)


def test_weights_of_vein_and_contour_may_stand_among_those_of_other_regions() -> None:
    fusion = Fusion.model_validate({"vein": 0.1, "regions": {"vein": 0.5, "tip": 0.5}})
    weights = choose_weights("paper", ("vein", "tip"), fusion, LossWeights.model_validate({"regions": {"tip": 2}}))
    assert weights.fusion == pytest.approx({"vein": 0.5 / 1.3, "tip": 0.5 / 1.3})
    assert weights.losses == {"vein": 0.1, "tip": 2.0}
    fusion, losses = weights.settings
    assert (fusion.vein, fusion.contour, set(fusion.regions)) == (weights.fusion["vein"], None, {"tip"})
    assert losses.model_dump(exclude_none=True) == {"classification": 1.0, "vein": 0.1, "regions": {"tip": 2.0}}


def test_settings_without_other_regions_are_saved_as_ever() -> None:
    method = build("mask_guided", 4, backbone=SMALL["mask_guided"])
    assert method.options["fusion"] == {"base": 0.3, "vein": 0.5, "contour": 0.2}
    assert method.options["loss_weights"] == {"classification": 1.0, "vein": 0.1, "contour": 0.1}
    assert method.options["regions"] == ["vein", "contour"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fusion": {"regions": {"base": -1}}}, "fusion.regions.base"),
        ({"fusion": {"regions": {"Base": 1}}}, "'Base' cannot name a region"),
        ({"fusion": {"midrib": 1}}, "fusion.midrib: is not a known setting"),
        ({"fusion": {"base": 0, "regions": dict.fromkeys(OWN, 0)}}, "all 0"),
    ],
)
def test_bad_weights_are_one_message(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        made("mask_guided", **options)


def test_a_layer_has_the_name_of_its_region_unless_torch_has_it() -> None:
    assert layer_name("vein") == "vein"
    assert layer_name("base") == "base"
    assert {name: layer_name(name) for name in ("half", "type", "training")} == {
        "half": "Half", "type": "Type", "training": "Training",
    }  # fmt: skip


def test_a_probe_finds_regions_of_any_name() -> None:
    method = build("linear_probe", 4, backbone="resnet18", regions=OWN)
    assert method.regions == OWN
    assert method.net.finder is not None
    assert len(method.net.finder.bias) == 3
