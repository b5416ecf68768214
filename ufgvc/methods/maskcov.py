"""MaskCOV (Yu et al., Pattern Recognition 2021): masked and shuffled views, and a net that predicts the patches' covariances."""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.dcl import absolute_error, stack_views
from ufgvc.methods.layers.shuffle import cut, paste, rearrange, shuffle_chances, swap_order
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

# All of it from the released code and its script. Its README gives batches of 8 for Cotton80.
RECIPE = Recipe(
    stages=(Stage(epochs=160, lr=1e-3, head_lr_factor=10.0, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=440,
    crop=384,
    rotate=15.0,
    test_view="resize",
)


class MaskCOVWeights(Settings):
    """Weights of the parts of MaskCOV's loss."""

    classification: float = Field(
        1.0, ge=0, description="weight of the cross-entropy of the classes, of all three views"
    )
    shuffled: float = Field(1.0, ge=0, description="weight of the cross-entropy of in order against shuffled")
    covariance: float = Field(
        1.0, ge=0, description="weight of the error of the covariances, gamma in the released code (0.01 for cars)"
    )


class MaskCOVOptions(Settings):
    """Options of MaskCOV."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    grid: int = Field(2, ge=2, le=16, description="images are cut into grid x grid patches, one of which is masked")
    loss_weights: MaskCOVWeights = Field(MaskCOVWeights(), description="weights of the losses")


class MaskCOVNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, C), "logits" (B, K), "shuffled", "covariance".

    "shuffled": (B, 2), 1 for in order.  "covariance": (B, grid * grid * 9), patch by patch.  Tests use the logits only.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, grid: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        self.shuffled = nn.Linear(channels, 2, bias=False)
        self.covariance = nn.Linear(channels, grid * grid * 9, bias=False)

    def forward(self, images: Tensor) -> Outputs:
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
    """Covariance of the colours over the pixels of each patch, divided by their number less 1.

    patches: (B, n, 3, h, w) of at least two pixels.  Returns (B, n, 3, 3) float32.
    """
    # In float64: a GPU may round the factors of a float32 product to 10 bits.
    pixels = patches.flatten(3).double()
    pixels = pixels - pixels.mean(dim=3, keepdim=True)
    return (pixels @ pixels.mT / (pixels.shape[3] - 1)).float()


def maskcov_views(batch: Batch, grid: int) -> Batch:
    """The images, the images with a patch blackened, the shuffled images with the patch now in that place blackened.

    extra: "in_order" (3B,) bool and "covariance" (3B, grid * grid * 9), of the pixels in [0, 1], row by row of each patch's
    3 x 3, patch by patch in reading order, zeros where the patch is blackened.
    """
    device, count = batch.images.device, len(batch.labels)
    order = to_device(swap_order(batch.chance[:, :-1], grid), device)
    masked = to_device((batch.chance[:, -1:] * (grid * grid)).long(), device)
    kept = (torch.arange(grid * grid, device=device) != masked).view(count, -1, 1, 1)

    patches = cut(batch.images, grid)
    covariance = colour_covariance(patches)
    some, some_shuffled = kept[..., None] * patches, kept[..., None] * rearrange(patches, order)
    targets = [covariance, kept * covariance, kept * rearrange(covariance, order)]
    extra = {
        "in_order": (torch.arange(3, device=device) < 2).repeat_interleave(count),
        "covariance": torch.cat(targets).flatten(1),
    }
    return stack_views(batch, [batch.images, paste(some, batch.images), paste(some_shuffled, batch.images)], extra)


def maskcov_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropy of the class and of in order against shuffled, and the error of the covariances, each over the three views."""
    return {
        "classification": cross_entropy(outputs["logits"], batch.labels),
        "shuffled": cross_entropy(outputs["shuffled"], batch.extra["in_order"].long()),
        "covariance": absolute_error(outputs["covariance"], batch.extra["covariance"]),
    }


@method("maskcov", MaskCOVOptions)
def build_maskcov(num_classes: int, init: str, options: MaskCOVOptions) -> Method:
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
        # One more for the patch that is masked.
        chances=shuffle_chances("coded", options.grid) + 1,
        images_forwarded=3.0,
        min_side=max(32, 2 * options.grid),
    )
