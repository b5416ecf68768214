"""Registry of the classification methods. `build` creates one by name; docs/adding-a-method.md shows how to add one."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ufgvc.core.config import Settings, describe_validation
from ufgvc.core.errors import UserError
from ufgvc.methods import (
    alexnet,
    bcnn,
    contrast_views,
    dcl,
    improved_bcnn,
    inception_v3,
    leaf_traits,
    linear_probe,
    mask_guided,
    maskcov,
    mobilenet_v2,
    mpn_cov,
    nts_net,
    part_probe,
    region_tokens,
    resnet50,
    vgg16,
)
from ufgvc.methods.method import METHODS, Batch, Entry, LossParts, Method, Outputs
from ufgvc.methods.plugins import load_plugin, plugin_names
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
    "contrast_views",
    "dcl",
    "entry",
    "improved_bcnn",
    "inception_v3",
    "leaf_traits",
    "linear_probe",
    "mask_guided",
    "maskcov",
    "mobilenet_v2",
    "mpn_cov",
    "names",
    "nts_net",
    "options_class",
    "part_probe",
    "region_tokens",
    "resnet50",
    "vgg16",
]


def names() -> tuple[str, ...]:
    """Names that `build` accepts: our own, then those of other packages."""
    return tuple(dict.fromkeys((*METHODS.names(), *plugin_names())))


def options_class(name: str) -> type[Settings]:
    """The options class of a method; its defaults are the published values. UserError for an unknown name."""
    return entry(name).options


def entry(name: str) -> Entry:
    """A registered method, of our own or of another package. UserError for an unknown name, which lists the known."""
    load_plugin(name)
    if name not in names():
        fix = f"choose one of: {', '.join(names())}"
        raise UserError(f"there is no method named {name!r}", fix=fix)
    return METHODS.get(name)


def build(name: str, num_classes: int, init: str = "none", **options: Any) -> Method:
    """Builds a method, ready for training or for `net.load_state_dict`.

    init: initial weights of the backbone: `imagenet` (see `build_backbone`), `none` (random), or the
    URI of a state dict (.safetensors, or any file that torch.load reads with weights_only=True).
    UserError for an unknown name or option, fewer than two classes, and weights that are missing or do not fit.
    """
    found = entry(name)
    if num_classes < 2:
        raise UserError(f"a classifier needs at least two classes, not {num_classes}", fix="check the data set")
    try:
        chosen = found.options.model_validate(options)
    except ValidationError as error:
        raise describe_validation(error, f"options of {name}") from None
    return found.build(num_classes, init, chosen)
