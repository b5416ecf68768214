"""Ways to tell cultivars apart. `build` makes one by its name; CONTRIBUTING.md tells how to add one."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ufgvc.core.config import Settings, describe_validation
from ufgvc.core.errors import UserError
from ufgvc.methods import (
    alexnet,
    bcnn,
    dcl,
    improved_bcnn,
    inception_v3,
    leaf_traits,
    mask_guided,
    maskcov,
    mobilenet_v2,
    mpn_cov,
    nts_net,
    region_tokens,
    resnet50,
    vgg16,
)
from ufgvc.methods.method import METHODS, Batch, LossParts, Method, Outputs
from ufgvc.methods.recipe import Recipe, Stage

__all__ = [
    "Batch",
    "LossParts",
    "Method",
    "Outputs",
    "Recipe",
    "Stage",
    "alexnet",
    "bcnn",
    "build",
    "dcl",
    "improved_bcnn",
    "inception_v3",
    "leaf_traits",
    "mask_guided",
    "maskcov",
    "mobilenet_v2",
    "mpn_cov",
    "names",
    "nts_net",
    "options_class",
    "region_tokens",
    "resnet50",
    "vgg16",
]


def names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return METHODS.names()


def options_class(name: str) -> type[Settings]:
    """The settings that a method takes, with their published defaults. UserError for an unknown name."""
    return METHODS.get(name).options


def build(name: str, num_classes: int, init: str = "none", **options: Any) -> Method:
    """A method ready to train, or to take a saved state dict.

    init: the backbone's first weights: `imagenet` (fetched once by torchvision or timm), `none` (random), or the URI of a
    state dict (.safetensors, or anything that torch.load reads with weights_only=True).
    UserError for an unknown name or option, for fewer than two classes, and for weights that cannot be had or do not fit.
    """
    entry = METHODS.get(name)
    if num_classes < 2:
        raise UserError(f"a classifier needs at least two classes, not {num_classes}", fix="check the data set")
    try:
        chosen = entry.options.model_validate(options)
    except ValidationError as error:
        raise describe_validation(error, f"options of {name}") from None
    return entry.build(num_classes, init, chosen)
