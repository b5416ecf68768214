"""What a benchmark, a pretraining and a search can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, field_validator

from ufgvc.core.config import Settings
from ufgvc.runtime.resources import Device


def gpus_to_wait_for(device: Device, trials: int | None, gpus_per_trial: float) -> int:
    """GPUs that so many trials at a time (at least one) take where `device` is gpu, else 0 (see `ray_session`)."""
    return math.ceil((trials or 1) * gpus_per_trial) if device == "gpu" else 0


class TrialSettings(Settings):
    """How many trainings run side by side, and where."""

    init: str = "imagenet"
    """first weights of every method: imagenet, none, or the URI of a state dict, in which {backbone} stands for the architecture"""
    trials: int | None = Field(None, ge=1)
    """trainings at a time; default: as many as fit, on CPUs one a core"""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPU slots of each"""
    gpu_per_trial: float = Field(0.25, gt=0, le=1)
    """share of a GPU of each, where there are GPUs"""
    device: Device = "auto"
    """cpu, gpu, or auto: GPUs if there are any"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of training; auto: bf16 autocast on a GPU that has it, else fp32. Leaves are scored in fp32"""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """seconds between checkpoints of a training"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a training is replaced (-1: without end, for spot machines)"""


class BenchmarkSettings(TrialSettings):
    """The benchmark of all methods."""

    methods: tuple[str, ...] = ("all",)
    """rows of the tables: all, paper (without ours), oracle (exact masks), controls, or single rows such as dcl or mask_guided:vein"""
    backbones: tuple[str, ...] = ()
    """smaller architectures as large=small, e.g. resnet50=resnet18 vgg16=vgg11; they replace the large one in every method"""
    seeds: int = Field(5, ge=1)
    """trainings of each row on each data set, with seeds from 0 on"""
    budget: Literal["equal", "published"] = "equal"
    """equal: the same size, first weights, images forwarded and tried learning rates for all; published: each method's own recipe"""
    masks: Literal["box", "luminance", "structure", "exact"] = "box"
    """kind of the masks that guide the networks"""
    epochs: int = Field(100, ge=1)
    """equal: passes over the training leaves of a method that forwards each once; DCL gets half of them, MaskCOV a third, NTS-Net 40 %"""
    batch_size: int = Field(16, ge=2)
    """equal: images a step"""
    resize: int = Field(512, ge=32)
    """equal: side in pixels that a photograph is resized to before the random crop"""
    crop: int = Field(448, ge=32)
    """equal: side in pixels of the random crop, and of the test image"""
    rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    """equal: multiples of a method's published learning rate that are tried on leaves held out of train"""
    holdout: float = Field(0.34, gt=0, le=0.5)
    """equal: share of each cultivar's training leaves that are held out to choose the rate"""
    shrink: float = Field(1.0, ge=1)
    """published: all sides in pixels are divided by this, for machines that cannot do more; told in the tables"""
    shorten: float = Field(1.0, ge=1)
    """published: all epochs are divided by this; told in the tables"""
    paper: Literal["cotton80", "soylocal200"] | None = None
    """put the paper's figures for this data set, or for the one that synthetic leaves imitate, beside ours"""
    fingerprints: tuple[str, ...] = ()
    """fingerprints that the data sets must have, in their order: what was frozen before methods were compared"""
    cam_leaves: int = Field(4, ge=0)
    """test leaves in the figure of class activation maps, drawn with a seed; 0 leaves out the measured maps too"""

    @field_validator("backbones")
    @classmethod
    def _pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            large, equals, small = pair.partition("=")
            if not (large and equals and small):
                raise ValueError(f"{pair!r} is not large=small, e.g. resnet50=resnet18")
        return pairs

    def backbone_for(self, name: str) -> str:
        """The architecture that stands in for another, or that one itself."""
        return dict(pair.split("=", 1) for pair in self.backbones).get(name, name)

    @field_validator("rates")
    @classmethod
    def _some_rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ValueError("give different numbers above 0")
        return rates


class PretrainSettings(TrialSettings):
    """First weights for every architecture, trained on leaves that no benchmark uses."""

    architectures: tuple[str, ...] = ("alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2")
    """torchvision architectures to train, each by its plain method"""
    init: str = "none"
    """first weights of the pretraining itself"""
    epochs: int = Field(60, ge=1)
    """passes over the training leaves"""
    batch_size: int = Field(32, ge=2)
    """images a step"""
    learning_rate: float = Field(0.02, gt=0)
    """at the start; falls by a cosine"""
    resize: int = Field(256, ge=32)
    """side in pixels that a photograph is resized to before the random crop"""
    crop: int = Field(224, ge=32)
    """side in pixels of the random crop"""


class SearchSettings(Settings):
    """The search itself. What all its trials share stands in `train` and `options`."""

    space: Annotated[Mapping[str, Any], tyro.conf.Suppress] = Field(default_factory=dict)
    """in YAML: {options.fusion: simplex, options.loss_weights.vein: {low: 0.01, high: 10, log: true}, options.activation: [a, b]};
    default: the fusion weights and loss weights that the method has, else its learning rate"""
    trials: int | None = Field(None, ge=1)
    """settings to try, the paper's among them; default: 40, or every point of a grid. More later go on with the same search"""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """how settings are chosen: Optuna's tree-structured Parzen estimator, at random, or every point of a grid"""
    grid_points: int = Field(4, ge=2)
    """grid: values of each number; of weights that sum to 1, the steps between 0 and 1 and one"""
    folds: int = Field(3, ge=2)
    """a trial is cross-validated over so many parts of the training leaves"""
    early_stopping: bool = True
    """ASHA: after some epochs, go on only with the better trials"""
    grace_epochs: int = Field(2, ge=1)
    """ASHA: epochs before a trial can be stopped"""
    reduction: float = Field(3.0, gt=1)
    """ASHA: one of so many goes on, each time that the epochs have grown by the same factor"""
    repeats: int = Field(4, ge=0)
    """trainings of the paper's setting with other seeds: they tell how much of a gain is luck"""
    seeds: int = Field(3, ge=0)
    """trainings of the best and of the paper's setting on all training leaves, tested at the end; 0 leaves the test leaves alone"""
    at_once: int | None = Field(None, ge=1)
    """trials at a time; default: as many as fit, on CPUs one a core"""
    gpu_per_trial: float = Field(0.25, gt=0, le=1)
    """share of a GPU of a trial of one worker, where there are GPUs"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a trial is replaced (-1: without end)"""

    def result_affecting(self) -> dict[str, Any]:
        """What makes it another search. More trials, repeats or seeds are the same one going on."""
        silent = {"trials", "repeats", "seeds", "at_once", "gpu_per_trial", "max_failures"}
        return self.model_dump(mode="json", exclude=silent)
