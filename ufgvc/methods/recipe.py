"""How a method was trained where it was published: plain values that the trainer reads and the user may override."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ufgvc.core.config import Settings


class Stage(Settings):
    """One stretch of training with its own learning rate and, perhaps, frozen parts (stochastic gradient descent)."""

    epochs: int = Field(gt=0, description="epochs in this stage")
    lr: float = Field(gt=0, description="learning rate of the backbone at the start of the stage")
    head_lr_factor: float = Field(
        1.0, gt=0, description="the new layers learn this many times faster than the backbone"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the gradient descent")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty on the weights")
    schedule: Literal["constant", "step", "milestones", "cosine", "plateau"] = Field(
        "step", description="how the learning rate falls"
    )
    step_epochs: int = Field(60, gt=0, description="`step`: the rate is multiplied by gamma after every so many epochs")
    milestones: tuple[int, ...] = Field(
        (), description="`milestones`: the rate is multiplied by gamma when these epochs begin"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of `step`, `milestones` and `plateau`")
    patience: int = Field(
        3,
        ge=0,
        description="`plateau`: epochs without a better score before the rate falls; the score is the accuracy on held-out "
        "training leaves, or on the training crops where none are held out, never the test leaves",
    )
    warmup_epochs: int = Field(0, ge=0, description="the rate rises in a straight line over these first epochs")
    frozen: tuple[str, ...] = Field(
        (), description="modules of the net that do not learn in this stage, e.g. `backbone`"
    )


class Recipe(Settings):
    """Everything about training that is not the net: stages, image sizes, transforms, batch size."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    batch_size: int = Field(16, gt=0, description="images in one step, over all workers together")
    resize: int = Field(512, gt=0, description="side in pixels to which training photographs are resized (square)")
    crop: int = Field(448, gt=0, description="side in pixels of the random crop, and of what the net sees in tests")
    rotate: float = Field(
        0.0, ge=0, le=180, description="training photographs turn by up to so many degrees, either way"
    )
    test_view: Literal["resize", "center_crop"] = Field(
        "resize",
        description="tests see the photograph resized to `crop`, or resized to `resize` and cropped in the middle",
    )
    mirror: bool = Field(False, description="tests average the logits of the photograph and of its mirror image")

    @model_validator(mode="after")
    def _crop_fits(self) -> Recipe:
        if self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} px does not fit into a photograph resized to {self.resize} px")
        return self

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def test_resize(self) -> int:
        """Side in pixels to which a test photograph is decoded, before `transforms.test_view` cuts `crop` out of it."""
        return self.crop if self.test_view == "resize" else self.resize

    def stage_at(self, epoch: int) -> tuple[int, int]:
        """(index of the stage, epoch within that stage) of an epoch counted from 0 over all stages."""
        for index, stage in enumerate(self.stages):
            if epoch < stage.epochs:
                return index, epoch
            epoch -= stage.epochs
        raise IndexError("epoch lies behind the last stage")
