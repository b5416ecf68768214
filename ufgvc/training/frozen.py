"""The form of a frozen network that embeds images fastest: on a CPU an exported one, run by onnxruntime."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.methods.method import POOLED_FEATURES, Method
from ufgvc.models.onnx import TOLERANCE, export_pays, to_onnx, with_onnx_net

log = logging.getLogger(__name__)


def fastest_form(method: Method, num_images: int, device: torch.device | str) -> Method:
    """The method, with its net exported to onnxruntime where that embeds `num_images` images sooner: on a CPU, for many
    pixels, if the packages of the extra `onnx` are installed.

    Embeddings differ by the rounding of float32 sums, by at most TOLERANCE of the largest: two images are checked.
    The decision depends on the number of images of the whole split, not on those that are left, so that a training that
    was killed goes on with the same form. A network that cannot be exported stays as it is, and a line says why.
    """
    views = 2 if method.recipe.mirror else 1
    if not export_pays(num_images, views, method.recipe.crop, device):
        return method
    single = replace(method, recipe=method.recipe.model_copy(update={"mirror": False}))  # each view by itself
    single.net.eval()
    try:
        net = with_onnx_net(single, to_onnx(single, method.recipe.crop), on_cpu=True).net
        gap = embedding_gap(method.net, net, method.recipe.crop)
    except UserError as error:
        log.info("embed: by torch, because onnxruntime cannot: %s", error)
        return method
    if not gap <= TOLERANCE:
        log.info("embed: by torch, because onnxruntime's embeddings differ by %.0e of the largest", gap)
        return method
    log.info("embed: by onnxruntime")
    return replace(method, net=net)


def embedding_gap(net: nn.Module, exported: nn.Module, side: int) -> float:
    """The largest difference of the embeddings of two images, relative to the largest number in them."""
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = net(images)["embedding"], exported(images)[POOLED_FEATURES]
    return float((found - wanted).abs().max() / wanted.abs().max())
