"""The modern recipe of a method: its published one with today's optimizer, augmentation and averaging."""

from __future__ import annotations

from ufgvc.methods.recipe import Recipe, Stage

# Of Adam's kind, because a ResNet and an EfficientNet then take one rate: SGD's has to be searched for each. The rate
# is PKB's for cultivars (a TinyViT, batches of 16); 10 times that for new layers is DCL's factor. The weight decay is
# AdamW's usual one in vision (ConvNeXt, Swin).
LR, HEAD_LR_FACTOR, WEIGHT_DECAY = 1e-4, 10.0, 0.05
# Of the epochs; ConvNeXt and Swin warm up for 20 of 300. Adam's second moments are poor in the first steps.
WARMUP = 0.05
# CLE-ViT's share of the area for cultivars: a leaf photograph has one object, which smaller crops would cut to pieces.
CROP_SCALE = (0.67, 1.0)
# CLE-ViT's for cultivars, without a change of hue: green tells them apart.
COLOUR_JITTER = 0.3
# Every second image, as in timm's recipes with CutMix. CutMix and not mixup: the pixels stay those of a leaf, and the
# masks are cut like them.
CUTMIX = 0.5
# Between neighbouring twelfths of the backbone, as in ConvNeXt's fine-tuning: few leaves should not change its edges.
LAYER_DECAY = 0.8
# Usual since Inception-v3. With two leaves a cultivar a net is soon sure of all labels.
LABEL_SMOOTHING = 0.1
# Of a step; short trainings average over less, see `WeightAverage`. timm's and torchvision's are 0.9998 and more, for
# trainings of 100,000 steps; those of a few hundred leaves have thousands.
EMA_DECAY = 0.999
MODERN_FIELDS = ("crop_scale", "colour_jitter", "cutmix", "label_smoothing", "ema_decay")  # of a `Recipe`


def modernise(recipe: Recipe, whole_leaf: bool = False) -> Recipe:
    """The modern recipe: that of the method with AdamW, layer-wise rates, warm-up and cosine, crops of random size,
    colour jitter, CutMix, softened labels and averaged weights.

    What belongs to the method or to a fair comparison stays: its stages with their epochs and frozen modules, image
    sizes, batch size, rotation and view in evaluation. The values are for pretrained weights; those above are stated
    by the sources they name, and the choice among them is ours.  whole_leaf: see `Method`; without CutMix.
    """
    changes = {
        "crop_scale": CROP_SCALE,
        "colour_jitter": COLOUR_JITTER,
        "cutmix": 0.0 if whole_leaf else CUTMIX,
        "label_smoothing": LABEL_SMOOTHING,
        "ema_decay": EMA_DECAY,
        "stages": tuple(_modernise_stage(stage) for stage in recipe.stages),
    }
    return recipe.model_copy(update=changes)


def _modernise_stage(stage: Stage) -> Stage:
    return Stage(
        epochs=stage.epochs,
        lr=LR,
        head_lr_factor=HEAD_LR_FACTOR,
        optimizer="adamw",
        layer_decay=LAYER_DECAY,
        weight_decay=WEIGHT_DECAY,
        schedule="cosine",
        warmup_epochs=round(WARMUP * stage.epochs),
        frozen=stage.frozen,
    )
