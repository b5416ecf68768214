"""Runs a trained network on images: the only place where logits of validation, test and new images are computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ufgvc.data.augment import eval_view
from ufgvc.methods.method import Method


def score_images(
    method: Method,
    batches: Iterable[NDArray[np.uint8]],
    crop: int,
    device: torch.device | str | None = None,
    with_features: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Logits (N, K) of all images of the batches, and their pooled features (N, C) where asked for, else None.

    Computed in float32, in eval mode, without gradients and outside of autocast. Moves the network to the device.

    Args:
        method: the network with its weights, and whether mirrored views are averaged (`recipe.mirror`).
        batches: upright RGB images (B, R, R, 3), already resized; a batch is one forward pass.
        crop: side in pixels of the centre crop that the network takes, at most R.
        device: where to compute; None: where the network is.
        with_features: also return the features of `Method.pool_features`, which `FeatureSubspace` takes.
    """
    net = method.net.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if device is not None:
        net = net.to(device)
    where = device_of(net)
    logits, features = [np.zeros((0, method.num_classes), np.float32)], []
    with torch.inference_mode(), torch.autocast(where.type, enabled=False):
        for batch in batches:
            images = eval_view(torch.from_numpy(np.ascontiguousarray(batch)).to(where), crop)
            if with_features:
                scored, pooled = method.predict_with_features(images, net)
                features.append(pooled.float().cpu().numpy())
            else:
                scored = method.predict(images, net)
            logits.append(scored.float().cpu().numpy())
    pooled_features = np.concatenate(features) if features else None
    return np.concatenate(logits), pooled_features


def embed_images(
    method: Method, batches: Iterable[NDArray[np.uint8]], crop: int, device: torch.device | str
) -> NDArray[np.float32]:
    """Pooled features (N, C) of all images, as `score_images` returns them, at half of its cost where the method
    averages mirrored views. At least one batch; arguments as of `score_images`.
    """
    net = method.net.to(memory_format=torch.channels_last).eval().to(device)  # type: ignore[call-overload]
    features = []
    with torch.inference_mode(), torch.autocast(device_of(net).type, enabled=False):
        for batch in batches:
            images = eval_view(torch.from_numpy(np.ascontiguousarray(batch)).to(device), crop)
            features.append(method.pool_features(net(images)).float().cpu().numpy())
    return np.concatenate(features)


def device_of(net: torch.nn.Module) -> torch.device:
    """The device of the network's parameters; the CPU for a network without any (an exported one)."""
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def rank_classes(scores: NDArray[Any], k: int | None = None) -> NDArray[np.int64]:
    """Class indices (N, k) of logits or probabilities (N, K), the largest first; equal ones in class order.

    None: all K.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
