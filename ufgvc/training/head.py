"""Starts a training from a linear probe: the net's last layer is fitted to its features before the first step."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ufgvc.data.augment import eval_view
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import embed_batches
from ufgvc.training.fit import Fitted, choose_folds, fit_classifier, overwrite
from ufgvc.training.loader import BatchLoader

log = logging.getLogger(__name__)


def fit_head(method: Method, loader: BatchLoader, ranks: Ranks, seed: int) -> dict[str, float]:
    """Fits the net's classifier to its embeddings of the loader's training images, which are seen as in evaluation.

    The regression, its penalty and the choice of its strength are those of `linear_probe`; the other layers stay. What
    evaluation adds to the classifier's outputs starts at 0. A layer without a bias is fitted without one.
    Returns metrics: head_strength (C), head_train_accuracy, and head_held_out_accuracy if folds chose C.
    """
    started = time.monotonic()
    classifier = method.net.get_submodule("classifier")
    # The fit has one view of each image: training goes on with single views too.
    single = replace(method, recipe=method.recipe.model_copy(update={"mirror": False}))
    found = embed_batches(single, loader, lambda images: evaluation_view(images, method.recipe))
    folds, bias = choose_folds(found, loader, seed), classifier.bias is not None
    fitted = fit_classifier(found, folds, method.num_classes, ranks, intercept=bias)
    weight, offset = fold_standardisation(fitted)
    overwrite(classifier, weight=weight, **({"bias": offset} if bias else {}))
    for name in method.added_heads:
        layer = method.net.get_submodule(name)
        overwrite(layer, **dict.fromkeys(dict(layer.named_parameters()), 0.0))
    row = {"head_strength": fitted.strength, "head_train_accuracy": fitted.right / loader.num_train}
    chosen = "not chosen on held-out leaves"
    if fitted.held_out is not None:
        right, count = fitted.held_out
        row["head_held_out_accuracy"] = right / count
        chosen = f"{right} of {count} right when held out"
    if ranks.rank == 0:
        seconds = time.monotonic() - started
        log.info("head: fitted to %d leaves, C = %g, %s (%.0f s)", loader.num_train, fitted.strength, chosen, seconds)
    return row


def evaluation_view(images: Tensor, recipe: Recipe) -> Tensor:
    """Decoded images (B, R, R, 3) uint8 as the net sees leaves in evaluation: (B, 3, crop, crop) float in [0, 1]."""
    side = images.shape[1]
    if recipe.eval_view == "center_crop" or side == recipe.crop:
        return eval_view(images, recipe.crop)
    size = (recipe.crop, recipe.crop)
    resized = functional.interpolate(eval_view(images, side), size=size, mode="bilinear", antialias=True)
    return resized.contiguous(memory_format=torch.channels_last)


def fold_standardisation(fitted: Fitted) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of the same classifier on embeddings that are not standardised."""
    weight = fitted.weight.double() / fitted.scale.double()
    return weight, fitted.bias.double() - weight @ fitted.mean.double()
