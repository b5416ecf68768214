"""What a training run can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.runtime.resources import Device


class TrainSettings(Settings):
    """Training. What is left empty comes from the method's published recipe."""

    init: str = "imagenet"
    """initial weights: imagenet (torchvision's), none, or the URI of a state dict (safetensors, or torch.save of tensors)"""
    mask: str = "box"
    """kind of the masks that guide the network: box, luminance, structure or exact"""
    epochs: int | None = Field(None, ge=1)
    """passes over the training leaves"""
    batch_size: int | None = Field(None, ge=2)
    """images a step, over all workers"""
    learning_rate: float | None = Field(None, gt=0)
    """learning rate of the backbone"""
    resize: int | None = Field(None, ge=32)
    """side in pixels that a photograph is resized to before the random crop"""
    crop: int | None = Field(None, ge=32)
    """side in pixels of the random crop, and of the test image"""
    validation: Literal["last", "holdout", "kfold", "test"] = "last"
    """which epoch is kept: the last; the best on leaves held out of train (holdout, kfold); the best on test (marked so)"""
    holdout: float = Field(0.34, gt=0, le=0.5)
    """share of each cultivar's training leaves that `holdout` keeps for validation"""
    folds: int = Field(3, ge=2)
    """folds of `kfold`"""
    fold: int | None = Field(None, ge=0)
    """only this fold of `kfold`; default: all, one after another"""
    workers: int = Field(1, ge=1)
    """processes of data-parallel training (DDP): one a GPU, or CPU processes"""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPU slots a worker takes; leave some for Ray Data"""
    device: Device = "auto"
    """cpu, gpu (one for each worker), or auto: GPUs if there are any"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of training; auto: bf16 autocast on a GPU that has it, else fp32. Leaves are scored in fp32"""
    compile: bool = False
    """torch.compile the network"""
    sync_batchnorm: bool = False
    """share BatchNorm statistics over the workers"""
    cache: Literal["auto", "device", "host", "none"] = "auto"
    """where the decoded photographs stay: on the device, in a file of each node, or nowhere (streamed every epoch)"""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """seconds between checkpoints; there is always one at the end"""
    keep: int = Field(2, ge=1)
    """checkpoints kept"""
    max_failures: int = Field(3, ge=-1)
    """how often failed workers are started again (-1: without end); those lost with their node, as spot machines are, do not count"""

    def result_affecting(self) -> dict[str, Any]:
        """The settings that can change the numbers: they name the run."""
        silent = {"cpus_per_worker", "checkpoint_seconds", "keep", "max_failures"}
        return self.model_dump(mode="json", exclude=silent)
