"""The memory format that a network is trained in: channels last, but for what torch gets wrong there."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import inception


def pads_averages(net: nn.Module) -> bool:
    """Whether some layer averages over windows of a padded map.

    torchvision's blocks of Inception do so in their `forward`, where no module shows it.
    """
    blocks = (inception.InceptionA, inception.InceptionC, inception.InceptionE)
    return any(
        isinstance(module, blocks) or (isinstance(module, nn.AvgPool2d) and module.padding not in (0, (0, 0)))
        for module in net.modules()
    )


def memory_format(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, which is the faster one, unless the gradients would be wrong.

    On a GPU the gradient of a padded average pooling is shifted by the padding where its input lies channels last (seen with torch
    2.11 on an H200; pytorch issue 188344, mended in July 2026). A net that has one is trained in the ordinary format there.
    """
    return torch.contiguous_format if device.type == "cuda" and pads_averages(net) else torch.channels_last
