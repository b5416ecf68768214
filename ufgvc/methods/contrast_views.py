"""Contrast of leaves, as in CLE-ViT (Yu et al., IJCAI 2023): a leaf against its own shuffled, partly erased copy.

The copy is to stay near its leaf, and all other leaves far from it, those of the same cultivar too.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import IMAGENET_MEAN, build_backbone
from ufgvc.methods.dcl import stack_views
from ufgvc.methods.layers.shuffle import paste_patches, permute_patches, split_patches
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import PlainOptions, cross_entropy, pooled_net

# Epochs and batch size are those of the released script for Cotton80, the rotation that of its code. It trains a
# Swin-B by AdamW on crops of random size with colour jitter. Optimizer, rates and crop are ours for a ResNet-50: those
# of DCL and MaskCOV.
RECIPE = Recipe(
    stages=(Stage(epochs=200, lr=1e-3, head_lr_factor=10.0, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=12,
    resize=512,
    crop=448,
    rotate=15.0,
    eval_view="center_crop",
)
# The erased rectangle has this share of the image and this ratio of height to width (released code).
ERASED_SHARE = (0.15, 0.45)
ERASED_RATIO = (0.3, 3.3)
ERASE_UNIFORMS = 4  # random numbers of an image's rectangle: share, ratio, top and left


class ContrastWeights(Settings):
    """Weights of the losses: those of the released script for Cotton80."""

    classification: float = Field(1.0, ge=0, description="weight of the cross-entropy of the leaves")
    shuffled: float = Field(0.75, ge=0, description="weight of the cross-entropy of their shuffled copies")
    contrast: float = Field(1.0, ge=0, description="weight of the contrast of leaves")


class ContrastOptions(PlainOptions):
    """Options of the contrast of leaves."""

    # 2 in the released script for Cotton80.
    grid: int = Field(2, ge=2, le=16, description="copies are cut into grid x grid patches, which are shuffled")
    # 1 in the released script, but for another distance; see `contrast_loss`.
    margin: float = Field(
        1.0,
        gt=0,
        le=4,
        description="by how much the squared distance to other leaves is to exceed that to a leaf's own copy; "
        "embeddings have length 1",
    )
    loss_weights: ContrastWeights = Field(ContrastWeights(), description="weights of the losses")


def erase_rectangle(images: Tensor, uniforms: Tensor) -> Tensor:
    """Copies of images with a random rectangle in ImageNet's mean colour, which a normalised image has as 0.

    images: (B, 3, H, W) in [0, 1].  uniforms: (B, ERASE_UNIFORMS) in [0, 1), on any device.  The share is uniform in
    ERASED_SHARE, the ratio log-uniform in ERASED_RATIO, as in torchvision's RandomErasing. That draws again where a
    side does not fit; here the side is then the image's.
    """
    height, width = images.shape[2:]
    share, ratio, top, left = uniforms.unbind(1)
    area = (ERASED_SHARE[0] + share * (ERASED_SHARE[1] - ERASED_SHARE[0])) * height * width
    low, high = (math.log(bound) for bound in ERASED_RATIO)
    ratio = (low + ratio * (high - low)).exp()
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    edges = [to_device(edge, images.device)[:, None] for edge in (top, top + tall, left, left + wide)]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    in_rows = (rows >= edges[0]) & (rows < edges[1])
    in_columns = (columns >= edges[2]) & (columns < edges[3])
    erased = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    colour = to_device(torch.tensor(IMAGENET_MEAN, dtype=images.dtype), images.device).view(1, 3, 1, 1)
    return torch.where(erased, colour, images)


def contrast_views(batch: Batch, grid: int) -> Batch:
    """The images, then their copies: a rectangle erased, then all patches in random order (released code)."""
    order = to_device(batch.uniforms[:, ERASE_UNIFORMS:].argsort(dim=1, stable=True), batch.images.device)
    erased = erase_rectangle(batch.images, batch.uniforms[:, :ERASE_UNIFORMS])
    copies = paste_patches(permute_patches(split_patches(erased, grid), order), batch.images)
    return stack_views(batch, [batch.images, copies], {})


def contrast_loss(embedding: Tensor, batch: Batch, margin: float) -> tuple[Tensor, Tensor]:
    """(sum over the leaves, number of leaves) of max(0, |a - p|^2 - mean of |a - n|^2 + margin).

    embedding: (2B, D), of the leaves and then of their copies.  a: of a leaf, p: of its copy, n: of all other leaves
    and their copies, over all ranks; all scaled to length 1. There is no gradient through n, so that ranks need to
    exchange one sum only. A leaf without others has a loss of 0 and is not counted.

    The paper's triplet has one random n for each a; the mean has no such noise. The released code adds up the signed
    components of a - p and a - n, each scaled to length 1, in place of distances; here they are distances.
    """
    leaves, copies = functional.normalize(embedding.float(), dim=1).chunk(2)
    own = (leaves + copies).detach()
    count = torch.full((), float(len(leaves)), device=embedding.device)
    summed = batch.sum_over_ranks(torch.cat([own.sum(dim=0), count[None]]))
    others = 2 * (summed[-1] - 1)  # leaves and copies
    # |a - n|^2 = 2 - 2 a n for vectors of length 1.
    mean = (summed[:-1] - own) / others.clamp(min=1)
    apart = 2 - 2 * (leaves * mean).sum(dim=1)
    near = (leaves - copies).square().sum(dim=1)
    any_other = (others > 0).float()
    return (near - apart + margin).clamp(min=0).sum() * any_other, count * any_other


def contrast_losses(outputs: Outputs, batch: Batch, margin: float) -> LossParts:
    """Cross-entropies "classification" of the leaves and "shuffled" of their copies, and "contrast"."""
    logits, copies = outputs["logits"].chunk(2)
    targets = batch.class_targets[: len(logits)]
    return {
        "classification": cross_entropy(logits, targets),
        "shuffled": cross_entropy(copies, targets),
        "contrast": contrast_loss(outputs["embedding"], batch, margin),
    }


@method("contrast_views", ContrastOptions)
def build_contrast_views(num_classes: int, init: str, options: ContrastOptions) -> Method:
    """`Method` of the contrast of leaves; see `ufgvc.methods.build`."""
    return Method(
        name="contrast_views",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=pooled_net(build_backbone(options.backbone, init), num_classes, options),
        losses=partial(contrast_losses, margin=options.margin),
        loss_weights=options.loss_weights.model_dump(),
        recipe=RECIPE,
        views=partial(contrast_views, grid=options.grid),
        num_uniforms=ERASE_UNIFORMS + options.grid * options.grid,
        images_forwarded=2.0,
    )
