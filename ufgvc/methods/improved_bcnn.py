"""Improved B-CNN (Lin and Maji 2017, arXiv 1707.06772): B-CNN with the matrix square root of the pooled matrix."""

from __future__ import annotations

from pydantic import Field

from ufgvc.methods.bcnn import RECIPE, BilinearNet, BilinearOptions, build_fine_backbone, head_of
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import classification_loss


class ImprovedOptions(BilinearOptions):
    """Options of improved B-CNN."""

    # Bounded, because in float32 the rounding error in directions without variance grows by half in every step.
    iterations: int = Field(10, ge=1, le=20, description="Newton-Schulz steps for the square root of the pooled matrix")


@method("improved_bcnn", ImprovedOptions)
def build_improved_bcnn(num_classes: int, init: str, options: ImprovedOptions) -> Method:
    """`Method` of improved B-CNN; see `ufgvc.methods.build`."""
    backbone = build_fine_backbone(options.backbone, init)
    return Method(
        name="improved_bcnn",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=BilinearNet(backbone, backbone.channels, num_classes, options.dimension, options.iterations),
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=RECIPE,
        head=head_of(options),
    )
