"""Several tokens of one leaf, each with a head of its own; the prediction is the mean of their logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.methods.method import LossParts, Outputs
from ufgvc.methods.resnet50 import cross_entropy

HeadKind = Literal["cosine", "linear"]


class TokenHead(nn.Linear):
    """Logits of one token: (B, D) -> (B, K).

    cosine: scale times the cosine between the token and each cultivar's weights, in [-scale, scale].  linear: without bias.
    """

    def __init__(self, channels: int, num_classes: int, kind: HeadKind, scale: float) -> None:
        super().__init__(channels, num_classes, bias=False)
        self.kind, self.scale = kind, scale

    def forward(self, token: Tensor) -> Tensor:
        with torch.autocast(
            token.device.type, enabled=False
        ):  # times the scale, bfloat16 would be off by several hundredths
            token, weight = token.float(), self.weight
            if self.kind == "linear":
                return functional.linear(token, weight)
            return self.scale * functional.linear(
                functional.normalize(token, dim=1), functional.normalize(weight, dim=1)
            )


def token_losses(outputs: Outputs, labels: Tensor) -> LossParts:
    """ "classification", the cross-entropy of "logits" (B, K), and "tokens", the mean one of the single heads' "token_logits" (B, T, K)."""
    token_logits = outputs["token_logits"]
    every = labels.repeat_interleave(token_logits.shape[1])
    return {
        "classification": cross_entropy(outputs["logits"], labels),
        "tokens": cross_entropy(token_logits.flatten(0, 1), every),
    }
