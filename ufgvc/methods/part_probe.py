"""A linear probe that looks at the leaf only, part by part: our method for few leaves a cultivar.

The paper guides a trained network by masks; here a mask of the leaf guides what is pooled from a frozen one. Chosen by
cross-validation on the training leaves of two sets of real leaves: docs/results/real.md has what was tried.
"""

from __future__ import annotations

import functools

from pydantic import Field

from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.leaf_parts import leaf_parts
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages
from ufgvc.methods.linear_probe import RECIPE, ProbeNet, ProbeOptions
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import plain_method

SIDE = 640  # pixels


class PartProbeOptions(ProbeOptions):
    """Options of the linear probe on parts of the leaf."""

    stages: tuple[int, ...] = Field(
        (),
        description="stages of the backbone whose maps are pooled, counted from 1; empty: all of stride 8 or more, "
        "without the last one",
    )
    parts: int = Field(3, ge=1, description="bands of equal area into which the leaf is cut from top to bottom")


@method("part_probe", PartProbeOptions)
def build_part_probe(num_classes: int, init: str, options: PartProbeOptions) -> Method:
    """`Method` of the probe on leaf parts; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    maps = StageMaps(choose_stages(list_stages(backbone), options.stages, with_last=False))
    regions = functools.partial(leaf_parts, parts=options.parts)
    net = ProbeNet(backbone, maps, regions, options.parts, num_classes)
    recipe = RECIPE.model_copy(update={"resize": SIDE, "crop": SIDE})
    return plain_method("part_probe", num_classes, options, net, recipe=recipe)
