"""Settings of `benchmark`, `pretrain` and `search`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, field_validator

from ufgvc.core.config import Settings, added
from ufgvc.core.places import WeightsPlace
from ufgvc.core.types import MaskKind
from ufgvc.evaluation.benchmark_record import Protocol
from ufgvc.runtime.resources import Device


def gpus_to_wait_for(device: Device, max_concurrent: int | None, gpus_per_trial: float) -> int:
    """GPUs that so many trials at a time (at least one) take where `device` is gpu, else 0 (see `ray_session`)."""
    return math.ceil((max_concurrent or 1) * gpus_per_trial) if device == "gpu" else 0


class TrialSettings(Settings):
    """How many trainings run at a time, and on what."""

    init: WeightsPlace = "imagenet"
    """initial weights of every method: imagenet, none, or a state dict, with {backbone} for the architecture"""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """trainings at a time; default: as many as fit, and without GPUs at most one per core"""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPU slots of each training"""
    gpu_per_trial: float = Field(0.25, gt=0, le=1)
    """fraction of a GPU of each training, if there are GPUs"""
    device: Device = "auto"
    """cpu, gpu, or auto: GPUs if there are any"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """precision of training; auto: bf16 autocast on a GPU that supports it, else fp32. Scores are computed in fp32"""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """seconds between checkpoints of a training"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a training is replaced; -1: without limit, for spot machines"""


class BenchmarkSettings(TrialSettings):
    """The benchmark of all methods."""

    methods: tuple[str, ...] = ("all",)
    """rows of the tables: all, paper (without ours), oracle (exact masks), controls, or rows such as dcl"""
    backbones: tuple[str, ...] = ()
    """smaller architectures as large=small, e.g. resnet50=resnet18 vgg16=vgg11; they replace the large ones"""
    seeds: int = Field(5, ge=1)
    """trainings of each row on each data set, with seeds from 0"""
    seeds_of: tuple[str, ...] = ()
    """other numbers of seeds for some rows, as row=seeds, e.g. resnet50=3 mask_guided=3 with --seeds 1"""
    protocol: Literal["fixed", "crossval", "both"] = "fixed"
    """fixed: train on the training leaves, score the test leaves; crossval: every leaf of both is scored, out of fold,
    once a seed"""
    folds: int = Field(5, ge=2)
    """crossval: folds, stratified by cultivar; a group (plant, photograph) stays together; a seed, a partition"""
    budget: Literal["equal", "published"] = "equal"
    """equal: the same image size, initial weights, images forwarded and learning rates ; published: each its recipe"""
    recipe: Literal["published", "modern"] = added("published")
    """modern: each method's recipe with AdamW, augmentation and averaged weights of `train --train.recipe modern`"""
    mask_kind: MaskKind = "box"
    """kind of the masks that guide the networks"""
    epochs: int = Field(100, ge=1)
    """equal: epochs of a method that forwards each image once; DCL gets half of them, MaskCOV a third, NTS-Net 40 %"""
    batch_size: int = Field(16, ge=2)
    """equal: images per step"""
    resize: int = Field(512, ge=32)
    """equal: side in pixels to which photographs are resized before the random crop"""
    crop: int = Field(448, ge=32)
    """equal: side in pixels of the random crop, and of the test image"""
    lr_factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    """equal: multiples of a method's published learning rate; the best one on held-out training leaves is used"""
    holdout: float = Field(0.34, gt=0, le=0.5)
    """equal: fraction of each cultivar's training leaves that are held out to choose the learning rate"""
    image_scale: float = Field(1.0, gt=0, le=1)
    """published: factor of all image sides, for small machines; noted under the tables"""
    epoch_scale: float = Field(1.0, gt=0, le=1)
    """published: factor of all epochs, for small machines; noted under the tables"""
    paper: Literal["cotton80", "soylocal200"] | None = None
    """show the paper's accuracies on this data set, or on the one that synthetic leaves imitate, next to ours"""
    fingerprints: tuple[str, ...] = ()
    """fingerprints that the data sets must have, in order: they were fixed before methods were compared"""
    cam_leaves: int = Field(4, ge=0)
    """test leaves in the figure of class activation maps, chosen at random; 0: no figure and no measured maps"""
    report_only: bool = added(False)
    """write the report of the trainings that have ended, and train nothing"""

    @field_validator("backbones")
    @classmethod
    def _check_pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            large, equals, small = pair.partition("=")
            if not (large and equals and small):
                raise ValueError(f"{pair!r} is not large=small, e.g. resnet50=resnet18")
        return pairs

    @field_validator("seeds_of")
    @classmethod
    def _check_seeds(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            row, equals, seeds = pair.rpartition("=")
            if not (row and equals and seeds.isdecimal() and int(seeds) > 0):
                raise ValueError(f"{pair!r} is not row=seeds, e.g. resnet50=3")
        rows = [pair.rpartition("=")[0] for pair in pairs]
        if len(set(rows)) < len(rows):
            raise ValueError("a row occurs twice")
        return pairs

    @property
    def more_seeds(self) -> dict[str, int]:
        """`seeds_of` as {row: seeds}."""
        return {row: int(seeds) for row, _, seeds in (pair.rpartition("=") for pair in self.seeds_of)}

    def seeds_for(self, row: str) -> int:
        """How many seeds a row is trained with."""
        return self.more_seeds.get(row, self.seeds)

    @property
    def most_seeds(self) -> int:
        """The number of seeds of the row with most."""
        return max([self.seeds, *self.more_seeds.values()])

    @property
    def chooses_lr(self) -> bool:
        """Whether learning rates are tried on training leaves."""
        return self.budget == "equal" and len(self.lr_factors) > 1

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols that are asked for."""
        return ("fixed", "crossval") if self.protocol == "both" else (self.protocol,)

    def backbone_for(self, name: str) -> str:
        """The smaller architecture that replaces `name`, or `name` itself."""
        return dict(pair.split("=", 1) for pair in self.backbones).get(name, name)

    @field_validator("lr_factors")
    @classmethod
    def _check_factors(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if not factors or min(factors) <= 0 or len(set(factors)) < len(factors):
            raise ValueError("give different numbers above 0")
        return factors


class PretrainSettings(TrialSettings):
    """Initial weights of every architecture, trained on leaves that no benchmark uses."""

    architectures: tuple[str, ...] = ("alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2")
    """torchvision architectures to train, each with its plain method"""
    init: WeightsPlace = "none"
    """initial weights of the pretraining itself"""
    epochs: int = Field(60, ge=1)
    """passes over the training leaves"""
    batch_size: int = Field(32, ge=2)
    """images per step"""
    learning_rate: float = Field(0.02, gt=0)
    """initial learning rate; decays by a cosine"""
    resize: int = Field(256, ge=32)
    """side in pixels to which photographs are resized before the random crop"""
    crop: int = Field(224, ge=32)
    """side in pixels of the random crop"""


class SearchSettings(Settings):
    """The search. What all trials share is set by `train` and `options`."""

    space: Annotated[Mapping[str, Any], tyro.conf.Suppress] = Field(default_factory=dict)
    """in YAML: {options.fusion: simplex, train.learning_rate: {low: 0.001, high: 0.1, log: true}, options.x: [a, b]};
    default: the fusion weights and loss weights of the method, or its learning rate if it has none"""
    num_trials: int | None = Field(None, ge=1)
    """settings to try, including the paper's; default: 40, or every point of a grid; more continue the same search"""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """how settings are chosen: Optuna's tree-structured Parzen estimator, at random, or every point of a grid"""
    grid_points: int = Field(4, ge=2)
    """grid: values of each number; of weights that sum to 1, the steps between 0 and 1 plus one"""
    folds: int = Field(3, ge=2)
    """folds of the cross-validation on the training leaves"""
    early_stopping: bool = True
    """ASHA: after some epochs, continue only the better trials"""
    grace_epochs: int = Field(2, ge=1)
    """ASHA: epochs before a trial can be stopped"""
    reduction: float = Field(3.0, gt=1)
    """ASHA: one of so many trials continues, each time that the epochs have grown by the same factor"""
    repeats: int = Field(4, ge=0)
    """trainings of the paper's setting with other seeds, to measure how much of a gain is chance"""
    seeds: int = Field(3, ge=0)
    """final trainings of the best and of the paper's setting, scored on the test leaves; 0: no test"""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """trials at a time; default: as many as fit, and without GPUs at most one per core"""
    gpu_per_trial: float = Field(0.25, gt=0, le=1)
    """fraction of a GPU of a trial with one worker, if there are GPUs"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a trial is replaced; -1: without limit"""

    def result_affecting(self) -> dict[str, Any]:
        """The settings that name the search. More trials, repeats or seeds continue the same one."""
        excluded = {"num_trials", "repeats", "seeds", "max_concurrent_trials", "gpu_per_trial", "max_failures"}
        return self.model_dump(mode="json", exclude=excluded)
