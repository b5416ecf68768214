"""MaskCOV (Yu et al., Pattern Recognition 2021): masked and shuffled views, predicted patch covariances."""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.dcl import absolute_error, stack_views
from ufgvc.methods.layers.shuffle import num_shuffle_uniforms, paste_patches, permute_patches, split_patches, swap_order
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

# The values of the released code and its script. Its README gives batches of 8 for Cotton80.
RECIPE = Recipe(
    stages=(Stage(epochs=160, lr=1e-3, head_lr_factor=10.0, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=440,
    crop=384,
    rotate=15.0,
    eval_view="resize",
)


class MaskCOVWeights(Settings):
    """Weights of MaskCOV's losses."""

    classification: float = Field(
        1.0, ge=0, description="weight of the cross-entropy of the classes, over all three views"
    )
    shuffled: float = Field(1.0, ge=0, description="weight of the cross-entropy of unshuffled against shuffled")
    covariance: float = Field(
        1.0, ge=0, description="weight of the L1 error of the covariances; gamma in the released code (0.01 for cars)"
    )


class MaskCOVOptions(Settings):
    """Options of MaskCOV."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    grid: int = Field(2, ge=2, le=16, description="images are split into grid x grid patches, one of which is masked")
    loss_weights: MaskCOVWeights = Field(MaskCOVWeights(), description="weights of the losses")


class MaskCOVNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "embedding" (B, C), "logits" (B, K), "shuffled" (B, 2) with index 1 for unshuffled images,
    "covariance" (B, grid * grid * 9) patch by patch. Evaluation uses the logits only.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, grid: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        self.shuffled = nn.Linear(channels, 2, bias=False)
        self.covariance = nn.Linear(channels, grid * grid * 9, bias=False)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K) and the outputs of the auxiliary heads."""
        features = self.backbone(images)
        embedding = features.mean(dim=(2, 3))
        return {
            "features": features,
            "embedding": embedding,
            "logits": self.classifier(embedding),
            "shuffled": self.shuffled(embedding),
            "covariance": self.covariance(embedding),
        }


def colour_covariance(patches: Tensor) -> Tensor:
    """Unbiased covariance of the colour channels over the pixels of each patch.

    patches: (B, n, 3, h, w) of at least two pixels.  Returns (B, n, 3, 3) float32.
    """
    # In float64, because a GPU may use TF32 (10 bits) for float32 products.
    pixels = patches.flatten(3).double()
    pixels = pixels - pixels.mean(dim=3, keepdim=True)
    return (pixels @ pixels.mT / (pixels.shape[3] - 1)).float()


def maskcov_views(batch: Batch, grid: int) -> Batch:
    """Three views: the images, the images with one patch black, and the shuffled images with the same position black.

    Adds to `extra`: "in_order" (3B,) bool and "covariance" (3B, grid * grid * 9) of the pixels in [0, 1]: the 3 x 3
    matrices row by row, patch by patch in reading order, zeros for the black patch.
    """
    device, count = batch.images.device, len(batch.labels)
    order = to_device(swap_order(batch.uniforms[:, :-1], grid), device)
    masked = to_device((batch.uniforms[:, -1:] * (grid * grid)).long(), device)
    visible = (torch.arange(grid * grid, device=device) != masked).view(count, -1, 1, 1)

    patches = split_patches(batch.images, grid)
    covariance = colour_covariance(patches)
    some, some_shuffled = visible[..., None] * patches, visible[..., None] * permute_patches(patches, order)
    targets = [covariance, visible * covariance, visible * permute_patches(covariance, order)]
    extra = {
        "in_order": (torch.arange(3, device=device) < 2).repeat_interleave(count),
        "covariance": torch.cat(targets).flatten(1),
    }
    return stack_views(
        batch, [batch.images, paste_patches(some, batch.images), paste_patches(some_shuffled, batch.images)], extra
    )


def maskcov_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropies "classification" and "shuffled", and L1 error "covariance", each over the three views."""
    return {
        "classification": cross_entropy(outputs["logits"], batch.class_targets),
        "shuffled": cross_entropy(outputs["shuffled"], batch.extra["in_order"].long()),
        "covariance": absolute_error(outputs["covariance"], batch.extra["covariance"]),
    }


@method("maskcov", MaskCOVOptions)
def build_maskcov(num_classes: int, init: str, options: MaskCOVOptions) -> Method:
    """`Method` of MaskCOV; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="maskcov",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=MaskCOVNet(backbone, backbone.channels, num_classes, options.grid),
        losses=maskcov_losses,
        loss_weights=options.loss_weights.model_dump(),
        recipe=RECIPE,
        head=("classifier", "shuffled", "covariance"),
        views=partial(maskcov_views, grid=options.grid),
        # One more for the index of the masked patch.
        num_uniforms=num_shuffle_uniforms("coded", options.grid) + 1,
        images_forwarded=3.0,
        min_side=max(32, 2 * options.grid),
    )
