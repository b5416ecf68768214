"""Settings of a training, the published recipe with these settings applied, and what a worker gets of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, ValidationError

from ufgvc.core.config import Settings, added, describe_validation
from ufgvc.core.errors import UserError
from ufgvc.core.places import WeightsPlace
from ufgvc.core.types import MaskKind
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.data.splits import HeldFold, pool_splits
from ufgvc.methods.modern import modernise
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.runtime.resources import Device

Validation = Literal["last", "holdout", "kfold", "test"]


class TrainSettings(Settings):
    """Training. Empty settings take the value of the method's published recipe."""

    init: WeightsPlace = "imagenet"
    """initial weights: imagenet, none, or the URI of a state dict (safetensors or torch.save)"""
    mask_kind: Annotated[MaskKind, tyro.conf.Suppress] = "box"
    """kind of the masks, for methods that need masks"""
    recipe: Literal["published", "modern"] = added("published")
    """published: as the method's authors train it; modern: AdamW, cosine, crops of random size, softened labels and
    averaged weights, chosen for pretrained weights"""
    head: Literal["random", "probe"] = added("random")
    """first weights of the last layer; probe: of a logistic regression on the features of the training leaves"""
    epochs: int | None = Field(None, ge=1)
    """passes over the training leaves"""
    batch_size: int | None = Field(None, ge=2)
    """images a step, summed over all workers"""
    learning_rate: float | None = Field(None, gt=0)
    """learning rate of the backbone"""
    resize: int | None = Field(None, ge=32)
    """side in pixels to which photographs are resized before the random crop"""
    crop: int | None = Field(None, ge=32)
    """side in pixels of the random crop, and of the images in evaluation"""
    early_stopping: int | None = added(None, ge=1)
    """epochs without a better accuracy on held-out leaves (`holdout`, `kfold`) after which the training ends"""
    validation: Validation = "last"
    """epoch that is saved: last; the best on leaves held out of the training split (holdout, kfold) or on test"""
    holdout: float = Field(0.34, gt=0, le=0.5)
    """`holdout`: share of each cultivar's training leaves that is held out"""
    folds: int = Field(3, ge=2)
    """`kfold`: number of folds"""
    fold: int | None = Field(None, ge=0)
    """`kfold`: train only this fold; empty: all, one after another"""
    neighbours: bool = added(True)
    """the model carries embeddings and small pictures of up to 20 training leaves of each cultivar, so that predictions
    can show the nearest ones"""
    workers: int = Field(1, ge=1)
    """processes of data-parallel training (DDP), with one GPU each or on CPUs"""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPU slots of a worker; leave some for Ray Data"""
    device: Device = "auto"
    """cpu, gpu (one for each worker), or auto: GPUs if there are any"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """precision of training; auto: bf16 autocast on GPUs that support it, else fp32. Evaluation is always in fp32"""
    compile: bool = False
    """torch.compile the network"""
    cuda_graphs: Literal["auto", "on", "off"] = added("auto")
    """on one GPU: record a step once and replay it, so that Python does not hold up the GPU; auto: in trainings of 100
    steps or more"""
    sync_batchnorm: bool = False
    """share BatchNorm statistics between the workers"""
    cache: Literal["auto", "device", "host", "none"] = "auto"
    """where decoded images are kept: in GPU memory, in a file on each node, or nowhere (streamed in every epoch); auto
    keeps none for a classifier that is fitted to embeddings"""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """seconds between checkpoints; there is always one at the end"""
    keep_checkpoints: int = Field(2, ge=1)
    """number of checkpoints that Ray Train keeps; a training without it keeps the last one"""
    max_failures: int = Field(3, ge=-1)
    """restarts of failed workers (-1: no limit); workers lost with their node, e.g. a spot machine, do not count, and
    one worker without a cluster is the command itself"""

    def result_affecting(self) -> dict[str, Any]:
        """The settings that can change the result, as JSON values; they are part of the run's key."""
        excluded = {"cpus_per_worker", "checkpoint_seconds", "keep_checkpoints", "max_failures"}
        return self.model_dump(mode="json", exclude=excluded)


@dataclass(frozen=True)
class WorkerConfig:
    """Everything that a training worker needs, as plain values.

    data, run: URIs of the data set and of the run's folder.  method, options: see `ufgvc.methods.build`.
    recipe: a `Recipe` as JSON values, with the settings applied.  mask_kind: None for methods without masks.
    cache_folder: local folder for decoded images.  cores: CPU threads of this machine.
    embeddings: URI of the folder for those of frozen networks; None: `cache_folder`.
    split_seed: seed of the held-out split; None: `seed`.
    held_fold: leaves that are neither trained on nor used to choose anything; None: the test split.
    marks: Unix times of the phases since the command's start (core/startup.py); empty: start-up is not recorded.
    """

    data: str
    run: str
    method: str
    options: Mapping[str, Any]
    seed: int
    recipe: Mapping[str, Any]
    train: TrainSettings
    mask_kind: str | None
    mask_fingerprint: str | None
    cache_folder: str
    cores: int
    split_seed: int | None = None
    held_fold: HeldFold | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    embeddings: str | None = None

    @property
    def split(self) -> str:
        """The split that holds the training images."""
        return "train" if self.held_fold is None else self.held_fold.split

    def open_dataset(self) -> Dataset:
        """The data set, with its splits pooled if the training images come from all of them."""
        dataset = open_dataset(self.data)
        return pool_splits(dataset) if self.split == "all" else dataset

    def with_train(self, **changes: Any) -> WorkerConfig:
        """The same configuration with other values of some `TrainSettings`."""
        return replace(self, train=self.train.model_copy(update=changes))


def apply_overrides(recipe: Recipe, settings: TrainSettings, whole_leaf: bool = False) -> Recipe:
    """The recipe with the user's settings. UserError for values that do not fit together.

    `modern` changes the published recipe first. Other epochs scale stages, steps and milestones of the schedule in
    proportion. Another learning rate scales the rates of all stages by the same factor, so that the first stage has it.
    A crop without a resize keeps their ratio.  whole_leaf: of the recipe's method.
    """
    if settings.recipe == "modern":
        if recipe.classifier_fit:
            what = "the classifier is fitted to convergence on a frozen backbone, which has no other recipe"
            raise UserError(what, where="train.recipe", fix="leave `--train.recipe` out")
        recipe = modernise(recipe, whole_leaf)
    stages = recipe.stages
    if recipe.classifier_fit and (settings.epochs is not None or settings.learning_rate is not None):
        name = "epochs" if settings.epochs is not None else "learning-rate"
        what = "the classifier is fitted to convergence on a frozen backbone, without epochs or a learning rate"
        raise UserError(what, where=f"train.{name.replace('-', '_')}", fix=f"leave `--train.{name}` out")
    if settings.epochs is not None:
        stages = rescale_schedule(stages, settings.epochs)
    if settings.learning_rate is not None:
        factor = settings.learning_rate / stages[0].lr
        stages = tuple(stage.model_copy(update={"lr": stage.lr * factor}) for stage in stages)
    crop = settings.crop or recipe.crop
    resize = settings.resize or (recipe.resize if crop == recipe.crop else round(crop * recipe.resize / recipe.crop))
    if crop > resize:
        what = f"a crop of {crop} px does not fit into an image resized to {resize} px"
        fix = f"use `--train.resize {crop}` or more, or `--train.crop {resize}` or less"
        raise UserError(what, where="train.crop", fix=fix)
    if recipe.classifier_fit and recipe.eval_view == "resize" and resize != crop:
        what = f"the classifier is fitted to whole photographs as it sees them later, so of one size, not {resize} px"
        fix = f"leave `--train.resize` out; `--train.crop {resize}` would make them larger"
        raise UserError(f"{what} and {crop} px", where="train.resize", fix=fix)
    if settings.early_stopping is not None:
        _check_early_stopping(recipe, settings)
    changes = {"stages": stages, "crop": crop, "resize": resize, "batch_size": settings.batch_size or recipe.batch_size}
    changes["early_stopping"] = settings.early_stopping or recipe.early_stopping
    try:
        return Recipe.model_validate(recipe.model_dump() | changes)
    except ValidationError as error:
        raise describe_validation(error, "train") from None


def _check_early_stopping(recipe: Recipe, settings: TrainSettings) -> None:
    """UserError if there are no held-out leaves to stop by, or no epochs to leave out."""
    where, fix = "train.early_stopping", "leave `--train.early-stopping` out"
    if recipe.classifier_fit:
        raise UserError("the classifier is fitted to convergence, without epochs", where=where, fix=fix)
    if settings.validation not in ("holdout", "kfold"):
        what = f"with validation {settings.validation} no training leaves are held out by which to stop"
        raise UserError(what, where=where, fix=f"use `--train.validation holdout`, or {fix}")


def rescale_schedule(stages: tuple[Stage, ...], epochs: int) -> tuple[Stage, ...]:
    """The stages scaled to `epochs` in total, with steps, milestones and warm-up in proportion.

    Each stage keeps at least one epoch. UserError for fewer epochs than stages.
    """
    factor = epochs / sum(stage.epochs for stage in stages)
    if epochs < len(stages):
        what = f"{epochs} epochs are too few for the {len(stages)} stages of the recipe"
        raise UserError(what, where="train.epochs", fix=f"use `--train.epochs {len(stages)}` or more")
    ends: list[int] = []
    for index in range(len(stages)):
        end = round(factor * sum(stage.epochs for stage in stages[: index + 1]))
        ends.append(min(max(end, index + 1, ends[-1] + 1 if ends else 1), epochs - (len(stages) - 1 - index)))
    scaled = []
    for stage, start, end in zip(stages, [0, *ends[:-1]], ends, strict=True):
        changes = {
            "epochs": end - start,
            "step_epochs": max(1, round(stage.step_epochs * factor)),
            "milestones": tuple(max(1, round(at * factor)) for at in stage.milestones),
            "warmup_epochs": round(stage.warmup_epochs * factor),
        }
        scaled.append(stage.model_copy(update=changes))
    return tuple(scaled)
