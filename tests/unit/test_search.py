"""The benchmark's plan: who takes part, what is equal in an equal budget, which rate is chosen, what a trial gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ufgvc.core.errors import UserError
from ufgvc.experiments.benchmark import chosen_factors
from ufgvc.experiments.benchmark_entries import check_draws, first_weights, options_for
from ufgvc.experiments.method_table import LISTED, chosen, groups
from ufgvc.experiments.pretrain import plain_method
from ufgvc.experiments.recipes import recipe_for
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.trial_runner import Finished, reason, share_of
from ufgvc.methods import build, names, options_class


def small(name: str, **options: object):
    field = options_class(name).model_fields.get("backbone")
    stand_in = {"resnet50": "resnet18", "vgg16": "vgg11"}
    return build(
        name, 3, **({} if field is None else {"backbone": stand_in.get(field.default, field.default)}), **options
    )


class TestContestants:
    def test_all_has_every_method_and_the_ablations(self):
        keys = [each.key for each in chosen(["all"])]
        assert {each.method for each in chosen(["all"])} == set(names())
        assert {"mask_guided:none", "mask_guided:vein", "mask_guided:contour"} <= set(keys)
        assert len(keys) == len(set(keys))

    def test_a_row_brings_the_one_whose_rate_it_takes(self):
        assert [each.key for each in chosen(["mask_guided:exact"])] == ["mask_guided", "mask_guided:exact"]
        assert [each.key for each in chosen(["dcl", "alexnet", "dcl"])] == ["alexnet", "dcl"]

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(UserError, match="'resnet' takes part in no table") as caught:
            chosen(["resnet"])
        assert "mask_guided:vein" in str(caught.value)

    @pytest.mark.parametrize("key", [key for key in groups()["controls"] if LISTED[key].options])
    def test_the_options_of_controls_are_options_of_their_methods(self, key: str):
        who = LISTED[key]
        told = options_class(who.method).model_validate(dict(who.options)).model_dump(exclude_unset=True)
        assert set(told) == set(who.options)
        default = options_class(who.method)().model_dump(mode="json")
        assert options_class(who.method).model_validate(dict(who.options)).model_dump(mode="json") != default

    def test_a_smaller_architecture_stands_in_everywhere(self):
        settings = BenchmarkSettings(backbones=("resnet50=resnet18", "vgg16=vgg11"))
        assert options_for("dcl", {}, settings) == {"backbone": "resnet18"}
        assert options_for("bcnn", {}, settings) == {"backbone": "vgg11"}
        assert options_for("mask_guided", {"regions": []}, settings) == {"backbone": "resnet18", "regions": []}
        with pytest.raises(ValueError, match="not large=small"):
            BenchmarkSettings(backbones=("resnet18",))


def test_first_weights_are_found_from_a_trials_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert (
        first_weights("pretrained/{backbone}.safetensors", "resnet18") == f"{tmp_path}/pretrained/resnet18.safetensors"
    )
    assert first_weights("/weights/{backbone}.pt", "vgg11") == "/weights/vgg11.pt"
    assert first_weights("imagenet", "vgg11") == "imagenet"


class TestBudget:
    settings = BenchmarkSettings(budget="equal", epochs=60, resize=112, crop=96, batch_size=8)

    @pytest.mark.parametrize("name", ["resnet50", "dcl", "maskcov", "nts_net", "bcnn", "mask_guided"])
    def test_equal_means_as_many_images_forwarded(self, name: str):
        method = small(name)
        recipe = recipe_for(method, self.settings)
        assert abs(recipe.epochs * method.images_forwarded - 60) <= method.images_forwarded / 2
        assert (recipe.resize, recipe.crop, recipe.batch_size, recipe.eval_view, recipe.mirror) == (
            112,
            96,
            8,
            "resize",
            False,
        )
        assert {stage.schedule for stage in recipe.stages} == {"cosine"}
        assert [stage.frozen for stage in recipe.stages] == [stage.frozen for stage in method.recipe.stages]

    def test_what_a_view_costs(self):
        assert {name: small(name).images_forwarded for name in ("resnet50", "dcl", "maskcov")} == {
            "resnet50": 1,
            "dcl": 2,
            "maskcov": 3,
        }
        assert small("nts_net").images_forwarded == 2.5  # six parts of half the side

    def test_a_factor_moves_the_published_rate(self):
        method = small("dcl")
        rates = [recipe_for(method, self.settings, factor).stages[0].lr for factor in (1.0, 3.0)]
        assert rates == [method.recipe.stages[0].lr, pytest.approx(3 * method.recipe.stages[0].lr)]

    def test_published_is_the_recipe_itself_or_says_how_it_was_cut(self):
        method = small("dcl")
        assert recipe_for(method, BenchmarkSettings(budget="published")) == method.recipe
        cut = recipe_for(method, BenchmarkSettings(budget="published", shorten=10, shrink=4))
        assert (cut.epochs, cut.resize, cut.crop, cut.stages[0].step_epochs) == (36, 128, 112, 6)
        assert cut.stages[0].lr == method.recipe.stages[0].lr
        assert cut.rotate == method.recipe.rotate

    def test_a_crop_that_a_net_does_not_take_is_refused(self):
        method = small("inception_v3")
        with pytest.raises(UserError, match="inception_v3 does not take images of 64 px") as caught:
            recipe_for(method, self.settings.model_copy(update={"crop": 64}))
        assert "--crop" in str(caught.value)


def ended(contestant: str, factor: float, correct: float | None) -> Finished:
    job = SimpleNamespace(contestant=contestant, factor=factor)
    return Finished(
        job, None if correct is None else {"validation_correct": correct}, "lost" if correct is None else None
    )


class TestRates:
    runners = (SimpleNamespace(who=LISTED["dcl"]), SimpleNamespace(who=LISTED["vgg16"]))

    def test_the_best_over_all_draws_is_chosen(self):
        rates = [
            ended("dcl", 0.3, 5),
            ended("dcl", 1.0, 6),
            ended("dcl", 0.3, 9),
            ended("dcl", 1.0, 6),
            ended("vgg16", 1.0, 1),
        ]
        assert chosen_factors(rates, self.runners, BenchmarkSettings()) == {"dcl": 0.3, "vgg16": 1.0}

    def test_of_equals_the_published_is_chosen(self):
        rates = [ended("dcl", factor, 5) for factor in (3.0, 1.0, 0.3)]
        assert chosen_factors(rates, self.runners, BenchmarkSettings()) == {"dcl": 1.0}

    def test_a_rate_that_failed_once_is_out_and_one_without_any_has_none(self):
        rates = [
            ended("dcl", 3.0, 9),
            ended("dcl", 3.0, None),
            ended("dcl", 1.0, 2),
            ended("dcl", 1.0, 2),
            ended("vgg16", 1.0, None),
        ]
        assert chosen_factors(rates, self.runners, BenchmarkSettings()) == {"dcl": 1.0}

    def test_published_recipes_choose_nothing(self):
        assert chosen_factors([], self.runners, BenchmarkSettings(budget="published")) == {"dcl": 1.0, "vgg16": 1.0}


class TestShares:
    def test_on_cpus_as_many_as_cores_with_one_left_for_data(self):
        share = share_of(BenchmarkSettings(), cpus=4, gpus=0, cores=2)
        assert (share.resources, share.at_once, share.threads) == ({"CPU": 1.0}, 2, 1)
        assert share_of(BenchmarkSettings(trials=1), cpus=4, gpus=0, cores=2).threads == 2

    def test_on_gpus_as_many_as_shares(self):
        share = share_of(BenchmarkSettings(gpu_per_trial=0.25), cpus=16, gpus=2, cores=16)
        assert (share.resources, share.at_once) == ({"CPU": 1.0, "GPU": 0.25}, 8)
        assert share.device == "cuda"
        assert share_of(BenchmarkSettings(gpu="no"), cpus=16, gpus=2, cores=16).device == "cpu"

    def test_no_room_is_told(self):
        with pytest.raises(UserError, match="leaves none of the 2 for Ray Data"):
            share_of(BenchmarkSettings(cpus_per_trial=2), cpus=2, gpus=0, cores=2)


def draw(name: str, fingerprint: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, fingerprint=fingerprint, store=SimpleNamespace(uri=f"/data/{name}"))


def test_data_that_was_not_frozen_is_refused():
    check_draws([draw("a", "12ab"), draw("b", "34cd")], ("12ab", "34"))
    with pytest.raises(UserError, match="frozen with 99"):
        check_draws([draw("a", "12ab")], ("99",))
    with pytest.raises(UserError, match="1 fingerprints for 2 data sets"):
        check_draws([draw("a", "12ab"), draw("b", "34cd")], ("12ab",))
    with pytest.raises(UserError, match="named alike"):
        check_draws([draw("a", "12ab"), draw("a", "34cd")], ())


def test_a_reason_is_one_line():
    assert reason(UserError("the masks are missing", where="data")) == "the masks are missing"
    assert reason(RuntimeError("trial failed\n  File x\nValueError: nine\n")) == "ValueError: nine"
    assert reason(KeyError()) == "KeyError"


def test_every_architecture_has_a_plain_method():
    assert [plain_method(name)[0] for name in ("alexnet", "vgg11", "resnet18", "inception_v3", "mobilenet_v2", "timm:convnext_atto")] == [
        "alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2", "resnet50"]  # fmt: skip


def test_the_frozen_draws_in_the_configs_are_whole(tmp_path: Path):
    """A benchmark whose data could change unseen would not be frozen."""
    from ufgvc.core.config import load_yaml

    found = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("benchmark-*.yaml"))
    assert found
    for path in found:
        section = load_yaml(path)["benchmark"]
        assert all(len(fingerprint) >= 12 for fingerprint in section["fingerprints"]), path.name
