"""NTS-Net: a navigator finds telling parts, a teacher grades them, a scrutinizer decides (Yang et al., ECCV 2018)."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.anchors import SHAPES, choose, cut_out, make_anchors, to_boxes
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

# The released code's, for birds (methods.md 8). No source states one for leaves; with few images in an epoch the milestones
# come after few steps.
RECIPE = Recipe(
    stages=(
        Stage(
            epochs=500, lr=1e-3, momentum=0.9, weight_decay=1e-4, schedule="milestones", milestones=(60, 100), gamma=0.1
        ),
    ),
    batch_size=16,
    resize=600,
    crop=448,
    test_view="center_crop",
)
OVERLAP = 0.25
DROPOUT = 0.5
NAVIGATOR_WIDTH = 128


class NtsNetOptions(Settings):
    """Options of NTS-Net."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    proposals: int = Field(6, gt=0, description="parts of each image that are looked at and graded")
    parts: int = Field(4, gt=0, description="the best of them, which decide together with the whole image")

    @model_validator(mode="after")
    def _parts_are_proposals(self) -> NtsNetOptions:
        if self.parts > self.proposals:
            raise ValueError(f"{self.parts} parts cannot be the best of {self.proposals} proposals")
        return self


class Navigator(nn.Module):
    """A feature map (B, C, h, h) -> one score (B, N) for each anchor, in the order of `make_anchors`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = (channels, NAVIGATOR_WIDTH, NAVIGATOR_WIDTH)
        self.levels = nn.ModuleList(
            nn.Conv2d(width, NAVIGATOR_WIDTH, kernel_size=3, stride=1 if level == 0 else 2, padding=1)
            for level, width in enumerate(inputs)
        )
        self.scores = nn.ModuleList(nn.Conv2d(NAVIGATOR_WIDTH, shapes, kernel_size=1) for shapes in SHAPES)

    def forward(self, features: Tensor) -> Tensor:
        scores = []
        for level, score in zip(self.levels, self.scores, strict=True):
            features = level(features).relu()
            scores.append(score(features).flatten(1))
        return torch.cat(scores, dim=1)


class NtsNet(nn.Module):
    """Square images (B, 3, S, S) in [0, 1] -> the decision over the whole image and its best parts. M proposals, P parts, C channels.

    "features" (B, C, h, h); "boxes" (B, M, 4) int64 (top, left, bottom, right), best first; "scores" (B, M), the navigator's, of these;
    "raw_logits" (B, K) of the image alone; "part_logits" (B, M, K) of each proposal alone; "embedding" (B, (P + 1) C): the
    first P proposals, then the image; "logits" (B, K), its linear layer, which alone is asked in tests.
    ValueError for images that are not square, UserError for images with fewer anchors than proposals.
    """

    def __init__(self, backbone: Backbone, num_classes: int, proposals: int, parts: int) -> None:
        super().__init__()
        self.proposals, self.parts = proposals, parts
        self.backbone = backbone
        self.navigator = Navigator(backbone.channels)
        # The released code makes this module anew in each pass, so that it drops in tests, too, and its accuracy is random.
        self.dropout = nn.Dropout(DROPOUT)
        self.raw_classifier = nn.Linear(backbone.channels, num_classes)
        self.part_classifier = nn.Linear(backbone.channels, num_classes)
        self.classifier = nn.Linear(backbone.channels * (parts + 1), num_classes)

    def forward(self, images: Tensor) -> Outputs:
        if images.shape[2] != images.shape[3]:
            raise ValueError(f"NTS-Net takes square images, not {images.shape[3]} x {images.shape[2]} px")
        # Zero is now the mean colour: what a part shows beyond the image's edge.
        normalised = self.backbone.normalise(images)
        features = self.backbone.trunk_map(normalised)
        whole = self._pool(features)
        boxes, scores = self._propose(features, images.shape[3])
        # A pass of its own: BatchNorm counts the parts apart from the images, as the released code does.
        cuts = cut_out(normalised.detach(), boxes, images.shape[3] // 2)
        proposals = self._pool(self.backbone.trunk_map(cuts)).unflatten(0, (-1, self.proposals))
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
        """(boxes (B, M, 4), their scores (B, M) float32), best first."""
        # Detached: the ranking loss sums many terms and would drive the backbone.  In float32: bfloat16 scores tie.
        with torch.autocast(features.device.type, enabled=False):
            scores = self.navigator(features.detach().float())
        if scores.shape[1] < self.proposals:
            what = f"an image of {side} px has {scores.shape[1]} places to propose, fewer than {self.proposals}"
            raise UserError(what, where="proposals", fix="ask for fewer proposals, or train on a larger crop")
        boxes = to_device(to_boxes(make_anchors(features.shape[3], side)), features.device)
        chosen = choose(scores.detach(), boxes, self.proposals, OVERLAP)
        return boxes[chosen], scores.gather(1, chosen)


def ranking_loss(scores: Tensor, grades: Tensor) -> Tensor:
    """(B,) the sum over the pairs (i, j) with grades_i < grades_j of max(0, 1 - scores_i + scores_j).

    scores: (B, M), the navigator's.  grades: (B, M), each part's own cross-entropy, only compared: a part that knows the label
    better than another should score higher by at least 1.
    """
    better = grades[:, :, None] < grades[:, None, :]
    missing = (1 - scores[:, :, None] + scores[:, None, :]).clamp(min=0)
    return torch.where(better, missing, 0.0).sum(dim=(1, 2))


def nts_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropy of the decision, of the image alone and of each proposal alone; the navigator's ranking loss per image."""
    part_logits = outputs["part_logits"].float()
    count, proposals, _ = part_logits.shape
    grades = functional.cross_entropy(
        part_logits.flatten(0, 1), batch.labels.repeat_interleave(proposals), reduction="none"
    )
    ranking = ranking_loss(outputs["scores"], grades.view(count, proposals))
    return {
        "classification": cross_entropy(outputs["logits"], batch.labels),
        "raw": cross_entropy(outputs["raw_logits"], batch.labels),
        "parts": (grades.sum(), grades.new_full((), float(grades.numel()))),
        "rank": (ranking.sum(), ranking.new_full((), float(count))),
    }


@method("nts_net", NtsNetOptions)
def build_nts_net(num_classes: int, init: str, options: NtsNetOptions) -> Method:
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
        # A part has half the side, and a backbone needs 32 px.
        min_side=64,
    )
