"""The published training recipe of a method as plain values; `TrainSettings` override some of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ufgvc.core.config import Settings, added


class Stage(Settings):
    """A training stage: epochs of one optimizer and learning rate schedule and, optionally, frozen modules."""

    epochs: int = Field(gt=0, description="epochs in this stage")
    lr: float = Field(gt=0, description="learning rate of the backbone at the start of the stage")
    head_lr_factor: float = Field(
        1.0, gt=0, description="learning rate of the new layers, as a multiple of the backbone's"
    )
    optimizer: Literal["sgd", "adamw"] = added("sgd", "sgd with momentum, or adamw")
    layer_decay: float = added(
        1.0,
        "factor of the backbone's learning rate from one twelfth of its tensors to the one below; the last has `lr`",
        gt=0,
        le=1,
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(
        0.0, ge=0, description="L2 penalty on the weights; of `adamw` decoupled, and not on biases and norms"
    )
    schedule: Literal["constant", "step", "milestones", "cosine", "plateau"] = Field(
        "step", description="learning rate schedule"
    )
    step_epochs: int = Field(
        60, gt=0, description="`step`: epochs after which the rate is multiplied by gamma, again and again"
    )
    milestones: tuple[int, ...] = Field(
        (), description="`milestones`: epochs at whose start the rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of `step`, `milestones` and `plateau`")
    patience: int = Field(
        3,
        ge=0,
        description="`plateau`: epochs without improvement before the rate is multiplied by gamma; the score is the "
        "accuracy on held-out training leaves, or on training crops if none are held out, never on test leaves",
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up")
    frozen: tuple[str, ...] = Field((), description="modules of the net that are frozen in this stage, e.g. `backbone`")


class Recipe(Settings):
    """Stages, image sizes, augmentation and batch size of a training."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    classifier_fit: bool = Field(
        False,
        description="the backbone is frozen and the classifier fitted to its embeddings of unaugmented images: "
        "there is one epoch, and no learning rate",
    )
    batch_size: int = Field(16, gt=0, description="images a step, summed over all workers")
    resize: int = Field(512, gt=0, description="side in pixels to which training images are resized (square)")
    crop: int = Field(448, gt=0, description="side in pixels of the random crop, and of the images in evaluation")
    rotate: float = Field(
        0.0, ge=0, le=180, description="training images are rotated by up to this many degrees in both directions"
    )
    crop_scale: tuple[float, float] | None = added(
        None,
        "smallest and largest share of the image's area in a crop of random size, resized to `crop`; none: the crop "
        "has `crop` pixels a side",
    )
    colour_jitter: float = added(
        0.0, "brightness, contrast and saturation of training images change by up to this share", ge=0, le=1
    )
    cutmix: float = added(
        0.0, "share of training images that get a rectangle of another one, with its share of the label", ge=0, le=1
    )
    label_smoothing: float = added(0.0, "share of each label that is spread evenly over all classes", ge=0, lt=1)
    ema_decay: float = added(
        0.0,
        "decay of a moving average of the weights over the steps, which is evaluated and saved; 0: no average",
        ge=0,
        lt=1,
    )
    early_stopping: int = added(
        0, "epochs without a better accuracy on held-out leaves after which the training ends; 0: it never does", ge=0
    )
    eval_view: Literal["resize", "center_crop"] = Field(
        "resize",
        description="in evaluation, images are resized to `crop`, or resized to `resize` and centre-cropped",
    )
    mirror: bool = Field(False, description="in evaluation, logits are averaged over the image and its horizontal flip")

    @model_validator(mode="after")
    def _crop_fits(self) -> Recipe:
        if self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} px does not fit into an image resized to {self.resize} px")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}, not two increasing shares in (0, 1]")
        return self

    @property
    def epochs(self) -> int:
        """Sum of the epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def eval_resize(self) -> int:
        """Side in pixels to which images are resized in evaluation, before the centre crop."""
        return self.crop if self.eval_view == "resize" else self.resize
