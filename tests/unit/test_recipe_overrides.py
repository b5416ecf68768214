"""Settings of a training that change a method's recipe: epochs, learning rate, crop and resize."""

from __future__ import annotations

import pytest

from ufgvc.core.errors import UserError
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.training.settings import TrainSettings, apply_overrides

PUBLISHED = Recipe(stages=(Stage(epochs=300, lr=0.003, step_epochs=60, warmup_epochs=5),), resize=512, crop=448)
STAGED = Recipe(
    stages=(
        Stage(epochs=20, lr=0.1, frozen=("backbone",), schedule="constant"),
        Stage(epochs=80, lr=0.01, schedule="milestones", milestones=(40, 60)),
    )
)


def test_nothing_told_changes_nothing() -> None:
    assert apply_overrides(PUBLISHED, TrainSettings()) == PUBLISHED
    assert apply_overrides(STAGED, TrainSettings(epochs=100, learning_rate=0.1)) == STAGED


def test_epochs_scale_what_is_counted_in_epochs() -> None:
    made = apply_overrides(PUBLISHED, TrainSettings(epochs=30)).stages
    assert [(stage.epochs, stage.step_epochs) for stage in made] == [(30, 6)]
    assert made[0].lr == 0.003
    assert apply_overrides(PUBLISHED, TrainSettings(epochs=600)).stages[0].warmup_epochs == 10
    assert apply_overrides(PUBLISHED, TrainSettings(epochs=1)).stages[0].step_epochs == 1
    short = apply_overrides(STAGED, TrainSettings(epochs=10)).stages
    assert [stage.epochs for stage in short] == [2, 8]
    assert short[1].milestones == (4, 6)
    assert (short[0].frozen, short[0].lr, short[1].lr) == (("backbone",), 0.1, 0.01)


@pytest.mark.parametrize("lengths", [(20, 80), (1, 100), (100, 1), (5, 5, 5), (1, 1, 98, 1)])
def test_the_stages_make_up_the_epochs_that_were_asked_for(lengths: tuple[int, ...]) -> None:
    recipe = Recipe(stages=tuple(Stage(epochs=epochs, lr=0.1) for epochs in lengths))
    for epochs in (*range(len(lengths), 30), 1000):
        made = apply_overrides(recipe, TrainSettings(epochs=epochs))
        assert made.epochs == epochs
        assert min(stage.epochs for stage in made.stages) >= 1
    with pytest.raises(UserError, match=f"--train.epochs {len(lengths)}"):
        apply_overrides(recipe, TrainSettings(epochs=len(lengths) - 1))


def test_the_learning_rate_scales_every_stage() -> None:
    made = apply_overrides(STAGED, TrainSettings(learning_rate=0.02)).stages
    assert [stage.lr for stage in made] == pytest.approx([0.02, 0.002])


@pytest.mark.parametrize(
    ("overrides", "crop", "resize"),
    [
        ({"crop": 224}, 224, 256),
        ({"crop": 448}, 448, 512),
        ({"resize": 600}, 448, 600),
        ({"crop": 64, "resize": 64}, 64, 64),
    ],
)
def test_crop_and_resize(overrides: dict[str, int], crop: int, resize: int) -> None:
    made = apply_overrides(PUBLISHED, TrainSettings(**overrides))  # type: ignore[arg-type]
    assert (made.crop, made.resize) == (crop, resize)


def test_a_fitted_classifier_sees_whole_photographs_of_one_size() -> None:
    """Else it would be fitted to centre crops and asked about whole photographs."""
    fitted = PUBLISHED.model_copy(update={"classifier_fit": True, "resize": 448})
    made = apply_overrides(fitted, TrainSettings(crop=640))
    assert (made.crop, made.resize) == (640, 640)
    with pytest.raises(UserError, match="of one size, not 512 px and 448 px") as caught:
        apply_overrides(fitted, TrainSettings(resize=512))
    assert "leave `--train.resize` out" in (caught.value.fix or "")
    centre = fitted.model_copy(update={"eval_view": "center_crop"})  # later it sees centre crops too
    assert apply_overrides(centre, TrainSettings(resize=512)).resize == 512


@pytest.mark.parametrize("overrides", [{"crop": 300, "resize": 256}, {"resize": 256}])
def test_a_crop_that_does_not_fit(overrides: dict[str, int]) -> None:
    with pytest.raises(UserError, match="does not fit into an image resized to 256 px") as caught:
        apply_overrides(PUBLISHED, TrainSettings(**overrides))  # type: ignore[arg-type]
    assert "`--train.crop 256` or less" in (caught.value.fix or "")
    apply_overrides(PUBLISHED, TrainSettings(crop=256, resize=256))
