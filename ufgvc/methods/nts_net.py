"""NTS-Net (Yang et al., ECCV 2018): a navigator proposes parts, a teacher scores them, a scrutinizer classifies."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.anchors import ANCHORS_PER_CELL, crop_and_resize, make_anchors, select_proposals, to_boxes
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

# The released code's values for birds. No source states any for leaves; with few images an epoch the milestones come
# after few steps.
RECIPE = Recipe(
    stages=(
        Stage(
            epochs=500, lr=1e-3, momentum=0.9, weight_decay=1e-4, schedule="milestones", milestones=(60, 100), gamma=0.1
        ),
    ),
    batch_size=16,
    resize=600,
    crop=448,
    eval_view="center_crop",
)
IOU_THRESHOLD = 0.25  # of non-maximum suppression
DROPOUT = 0.5
NAVIGATOR_WIDTH = 128


class NtsNetOptions(Settings):
    """Options of NTS-Net."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    proposals: int = Field(6, gt=0, description="parts of each image that are cropped and classified")
    parts: int = Field(4, gt=0, description="best proposals that are classified together with the whole image")

    @model_validator(mode="after")
    def _parts_are_proposals(self) -> NtsNetOptions:
        if self.parts > self.proposals:
            raise ValueError(f"{self.parts} parts cannot be the best of {self.proposals} proposals")
        return self


class Navigator(nn.Module):
    """Feature map (B, C, h, h) -> scores (B, N) of all anchors, in the order of `make_anchors`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = (channels, NAVIGATOR_WIDTH, NAVIGATOR_WIDTH)
        self.levels = nn.ModuleList(
            nn.Conv2d(width, NAVIGATOR_WIDTH, kernel_size=3, stride=1 if level == 0 else 2, padding=1)
            for level, width in enumerate(inputs)
        )
        self.scores = nn.ModuleList(nn.Conv2d(NAVIGATOR_WIDTH, shapes, kernel_size=1) for shapes in ANCHORS_PER_CELL)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> scores of all anchors (B, A)."""
        scores = []
        for level, score in zip(self.levels, self.scores, strict=True):
            features = level(features).relu()
            scores.append(score(features).flatten(1))
        return torch.cat(scores, dim=1)


class NtsNet(nn.Module):
    """Square images (B, 3, S, S) in [0, 1] -> Outputs. M proposals, P parts, C channels.

    "features" (B, C, h, h), "boxes" (B, M, 4) int64 (top, left, bottom, right), best first, "scores" (B, M) of these
    boxes by the navigator, "raw_logits" (B, K) of the whole image, "part_logits" (B, M, K) of each proposal,
    "embedding" (B, (P + 1) * C): the first P proposals, then the image, "logits" (B, K) of the embedding. Evaluation
    uses "logits" only.
    ValueError for images that are not square, UserError for images with fewer anchors than proposals.
    """

    def __init__(self, backbone: Backbone, num_classes: int, proposals: int, parts: int) -> None:
        super().__init__()
        self.proposals, self.parts = proposals, parts
        self.boxes: dict[tuple[int, int, torch.device], Tensor] = {}
        self.backbone = backbone
        self.navigator = Navigator(backbone.channels)
        # The released code creates this module in each forward pass, so its dropout stays active in evaluation.
        self.dropout = nn.Dropout(DROPOUT)
        self.raw_classifier = nn.Linear(backbone.channels, num_classes)
        self.part_classifier = nn.Linear(backbone.channels, num_classes)
        self.classifier = nn.Linear(backbone.channels * (parts + 1), num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, S, S) in [0, 1] -> logits (B, K) and, for the losses, the outputs of navigator and teacher."""
        if images.shape[2] != images.shape[3]:
            raise ValueError(f"NTS-Net takes square images, not {images.shape[3]} x {images.shape[2]} px")
        # Parts are padded with zeros, so they are cropped after normalisation, where zero is the mean colour.
        normalised = self.backbone.normalise(images)
        features = self.backbone.trunk_map(normalised)
        whole = self._pool(features)
        boxes, scores = self._propose(features, images.shape[3])
        # A separate pass, so that BatchNorm normalises parts and images separately, as the released code does.
        crops = crop_and_resize(normalised.detach(), boxes, images.shape[3] // 2)
        proposals = self._pool(self.backbone.trunk_map(crops)).unflatten(0, (-1, self.proposals))
        embedding = torch.cat([proposals[:, : self.parts].flatten(1), whole], dim=1)
        return {
            "features": features,
            "boxes": boxes,
            "scores": scores,
            "raw_logits": self.raw_classifier(whole),
            "part_logits": self.part_classifier(proposals),
            "embedding": embedding,
            "logits": self.classifier(embedding),
        }

    def _pool(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(features.mean(dim=(2, 3)))
        return pooled

    def _propose(self, features: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """(boxes (B, M, 4) int64, scores (B, M) float32), best first."""
        # Detached, because the ranking loss sums many terms and would dominate the backbone's gradient.
        # In float32, because bfloat16 scores tie.
        with torch.autocast(features.device.type, enabled=False):
            scores = self.navigator(features.detach().float())
        if scores.shape[1] < self.proposals:
            what = f"an image of {side} px has {scores.shape[1]} anchors, fewer than {self.proposals} proposals"
            raise UserError(what, where="proposals", fix="use fewer proposals, or train on a larger crop")
        boxes = self._anchor_boxes(features.shape[3], side, features.device)
        chosen = select_proposals(scores.detach(), boxes, self.proposals, IOU_THRESHOLD)
        return boxes[chosen], scores.gather(1, chosen)

    def _anchor_boxes(self, cells: int, side: int, device: torch.device) -> Tensor:
        """Boxes of all anchors on the device. Copied there once: a captured step cannot copy from the host."""
        key = (cells, side, device)
        if key in self.boxes:
            return self.boxes[key]
        boxes = to_device(to_boxes(make_anchors(cells, side)), device)
        if not torch.compiler.is_exporting():  # which traces with tensors that hold no numbers
            self.boxes[key] = boxes
        return boxes


def ranking_loss(scores: Tensor, losses: Tensor) -> Tensor:
    """Pairwise hinge loss (B,): sum over pairs (i, j) with losses_i < losses_j of max(0, 1 - scores_i + scores_j).

    scores: (B, M) of the navigator.  losses: (B, M), each part's cross-entropy; only their order matters. This is the
    navigator's loss of the paper, with the hinge function as in its text.
    """
    better = losses[:, :, None] < losses[:, None, :]
    hinge = (1 - scores[:, :, None] + scores[:, None, :]).clamp(min=0)
    return torch.where(better, hinge, 0.0).sum(dim=(1, 2))


def nts_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropies "classification", "raw" (whole image) and "parts" (each proposal), and "rank", `ranking_loss`."""
    part_logits = outputs["part_logits"].float()
    count, proposals, _ = part_logits.shape
    part_losses = functional.cross_entropy(
        part_logits.flatten(0, 1), batch.class_targets.repeat_interleave(proposals, dim=0), reduction="none"
    )
    ranking = ranking_loss(outputs["scores"], part_losses.view(count, proposals))
    return {
        "classification": cross_entropy(outputs["logits"], batch.class_targets),
        "raw": cross_entropy(outputs["raw_logits"], batch.class_targets),
        "parts": (part_losses.sum(), part_losses.new_full((), float(part_losses.numel()))),
        "rank": (ranking.sum(), ranking.new_full((), float(count))),
    }


@method("nts_net", NtsNetOptions)
def build_nts_net(num_classes: int, init: str, options: NtsNetOptions) -> Method:
    """`Method` of NTS-Net; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="nts_net",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=NtsNet(backbone, num_classes, options.proposals, options.parts),
        losses=nts_losses,
        loss_weights=dict.fromkeys(("classification", "raw", "parts", "rank"), 1.0),
        recipe=RECIPE,
        head=("classifier", "navigator", "raw_classifier", "part_classifier"),
        images_forwarded=1 + options.proposals / 4,
        # A part has half the side of the image, and a backbone needs 32 px.
        min_side=64,
    )
