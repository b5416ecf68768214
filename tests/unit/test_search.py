"""The jobs of a benchmark: its rows, the equal budget, the chosen learning rate, the resources of a trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ufgvc.core.errors import UserError
from ufgvc.data.splits import HeldFold
from ufgvc.experiments import entries as entries_module
from ufgvc.experiments.benchmark import choose_lr_factors
from ufgvc.experiments.entries import check_datasets, entry_options, make_recipe, resolve_init
from ufgvc.experiments.method_table import list_groups, list_variants, select_variants
from ufgvc.experiments.pretrain import plain_method
from ufgvc.experiments.resources import size_trials
from ufgvc.experiments.runner import describe_error
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import JobOutcome
from ufgvc.methods import build, names, options_class
from ufgvc.methods.modern import MODERN_FIELDS, modernise


def small(name: str, **options: object):
    field = options_class(name).model_fields.get("backbone")
    stand_in = {"resnet50": "resnet18", "vgg16": "vgg11"}
    return build(
        name, 3, **({} if field is None else {"backbone": stand_in.get(field.default, field.default)}), **options
    )


class TestVariants:
    def test_all_has_every_method_and_the_ablations(self):
        keys = [each.key for each in select_variants(["all"])]
        assert {each.method for each in select_variants(["all"])} == set(names())
        assert {"mask_guided:none", "mask_guided:vein", "mask_guided:contour"} <= set(keys)
        assert len(keys) == len(set(keys))

    def test_a_row_adds_the_one_whose_learning_rate_it_uses(self):
        assert [each.key for each in select_variants(["mask_guided:exact"])] == ["mask_guided", "mask_guided:exact"]
        assert [each.key for each in select_variants(["dcl", "alexnet", "dcl"])] == ["alexnet", "dcl"]

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(UserError, match="'resnet' is not a row of any table") as caught:
            select_variants(["resnet"])
        assert "mask_guided:vein" in str(caught.value)

    @pytest.mark.parametrize("key", [key for key in list_groups()["controls"] if list_variants()[key].options])
    def test_the_options_of_controls_are_options_of_their_methods(self, key: str):
        variant = list_variants()[key]
        given = options_class(variant.method).model_validate(dict(variant.options)).model_dump(exclude_unset=True)
        assert set(given) == set(variant.options)
        default = options_class(variant.method)().model_dump(mode="json")
        assert options_class(variant.method).model_validate(dict(variant.options)).model_dump(mode="json") != default

    def test_a_smaller_architecture_replaces_the_large_one_in_every_method(self):
        settings = BenchmarkSettings(backbones=("resnet50=resnet18", "vgg16=vgg11"))
        assert entry_options("dcl", {}, settings) == {"backbone": "resnet18"}
        assert entry_options("bcnn", {}, settings) == {"backbone": "vgg11"}
        assert entry_options("mask_guided", {"regions": []}, settings) == {"backbone": "resnet18", "regions": []}
        with pytest.raises(ValueError, match="not large=small"):
            BenchmarkSettings(backbones=("resnet18",))


def test_initial_weights_are_found_from_the_working_directory_of_a_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    assert resolve_init("weights/{backbone}.safetensors", "resnet18") == f"{tmp_path}/weights/resnet18.safetensors"
    assert resolve_init("/weights/{backbone}.pt", "vgg11") == "/weights/vgg11.pt"
    assert resolve_init("imagenet", "vgg11") == "imagenet"


class TestBudget:
    settings = BenchmarkSettings(budget="equal", epochs=60, resize=112, crop=96, batch_size=8)

    @pytest.mark.parametrize("name", ["resnet50", "dcl", "maskcov", "nts_net", "bcnn", "mask_guided"])
    def test_equal_means_as_many_images_forwarded(self, name: str):
        method = small(name)
        recipe = make_recipe(method, self.settings)
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

    def test_jobs_of_rows_with_other_numbers_of_seeds(self, monkeypatch: pytest.MonkeyPatch):
        """A learning rate is chosen for as many seeds as any row needs that uses it."""
        rows = [list_variants()[key] for key in ("resnet50", "mask_guided", "mask_guided:vein")]
        entries = [SimpleNamespace(variant=row, method=small(row.method)) for row in rows]
        monkeypatch.setattr(entries_module, "_make_job", lambda entry, *rest, **more: (entry.variant.key, rest[4]))
        settings = BenchmarkSettings(seeds=1, seeds_of=("mask_guided:vein=2",), protocol="crossval")
        rates = dict.fromkeys(("resnet50", "mask_guided"), 1.0)
        jobs = entries_module.make_final_jobs(entries, ["data"], settings, "runs", rates)
        assert jobs == [*((row.key, 0) for row in rows), ("mask_guided:vein", 1)]
        held = HeldFold(2, 0, 1, "all")
        assert entries_module.make_final_jobs(entries, ["data"], settings, "runs", rates, held) == [
            ("mask_guided:vein", 1)
        ]
        searched = entries_module.make_lr_jobs(entries, ["data"], settings, "runs", held)
        assert searched == [("mask_guided", 1)] * len(settings.lr_factors)

    @pytest.mark.parametrize("budget", ["equal", "published"])
    @pytest.mark.parametrize("name", ["dcl", "bcnn", "leaf_traits", "linear_probe"])
    def test_modern_recipes_in_a_benchmark(self, name: str, budget: str):
        method, settings = small(name), self.settings.model_copy(update={"budget": budget})
        modern = make_recipe(method, settings.model_copy(update={"recipe": "modern"}))
        published = make_recipe(method, settings)
        if name == "linear_probe":
            assert modern == published, "a classifier that is fitted has no other recipe"
            return
        expected = modernise(method.recipe, method.whole_leaf)
        for field in MODERN_FIELDS:
            assert getattr(modern, field) == getattr(expected, field), field
            assert getattr(published, field) == getattr(method.recipe, field), field
        assert (modern.epochs, modern.crop, modern.batch_size) == (
            published.epochs,
            published.crop,
            published.batch_size,
        )
        assert [stage.optimizer for stage in modern.stages] == ["adamw"] * len(method.recipe.stages)
        assert [stage.frozen for stage in modern.stages] == [stage.frozen for stage in method.recipe.stages]

    def test_images_forwarded_per_leaf(self):
        assert {name: small(name).images_forwarded for name in ("resnet50", "dcl", "maskcov")} == {
            "resnet50": 1,
            "dcl": 2,
            "maskcov": 3,
        }
        assert small("nts_net").images_forwarded == 2.5  # six regions of half the side

    def test_a_factor_multiplies_the_published_learning_rate(self):
        method = small("dcl")
        rates = [make_recipe(method, self.settings, factor).stages[0].lr for factor in (1.0, 3.0)]
        assert rates == [method.recipe.stages[0].lr, pytest.approx(3 * method.recipe.stages[0].lr)]

    def test_published_is_the_recipe_itself_unless_it_is_scaled(self):
        method = small("dcl")
        assert make_recipe(method, BenchmarkSettings(budget="published")) == method.recipe
        scaled = BenchmarkSettings(budget="published", epoch_scale=0.1, image_scale=0.25)
        cut = make_recipe(method, scaled)
        assert (cut.epochs, cut.resize, cut.crop, cut.stages[0].step_epochs) == (36, 128, 112, 6)
        assert cut.stages[0].lr == method.recipe.stages[0].lr
        assert cut.rotate == method.recipe.rotate

    def test_a_crop_that_a_network_does_not_accept_is_refused(self):
        method = small("inception_v3")
        with pytest.raises(UserError, match="inception_v3 does not take images of 64 px") as caught:
            make_recipe(method, self.settings.model_copy(update={"crop": 64}))
        assert "--crop" in str(caught.value)


def outcome(variant: str, factor: float, correct: float | None) -> JobOutcome:
    job = SimpleNamespace(variant=variant, lr_factor=factor)
    if correct is None:
        return JobOutcome(job, None, "lost")  # type: ignore[arg-type]
    return JobOutcome(job, {"validation_correct": correct})  # type: ignore[arg-type]


class TestLearningRates:
    entries = (SimpleNamespace(variant=list_variants()["dcl"]), SimpleNamespace(variant=list_variants()["vgg16"]))

    def test_the_best_over_all_data_sets_is_chosen(self):
        outcomes = [
            outcome("dcl", 0.3, 5),
            outcome("dcl", 1.0, 6),
            outcome("dcl", 0.3, 9),
            outcome("dcl", 1.0, 6),
            outcome("vgg16", 1.0, 1),
        ]
        assert choose_lr_factors(outcomes, self.entries, BenchmarkSettings()) == {"dcl": 0.3, "vgg16": 1.0}

    def test_of_equals_the_published_is_chosen(self):
        outcomes = [outcome("dcl", factor, 5) for factor in (3.0, 1.0, 0.3)]
        assert choose_lr_factors(outcomes, self.entries, BenchmarkSettings()) == {"dcl": 1.0}

    def test_a_factor_that_failed_once_is_excluded_and_a_variant_without_any_has_none(self):
        outcomes = [
            outcome("dcl", 3.0, 9),
            outcome("dcl", 3.0, None),
            outcome("dcl", 1.0, 2),
            outcome("dcl", 1.0, 2),
            outcome("vgg16", 1.0, None),
        ]
        assert choose_lr_factors(outcomes, self.entries, BenchmarkSettings()) == {"dcl": 1.0}

    def test_published_recipes_choose_nothing(self):
        assert choose_lr_factors([], self.entries, BenchmarkSettings(budget="published")) == {"dcl": 1.0, "vgg16": 1.0}


class TestResources:
    def test_on_cpus_as_many_as_cores_with_one_slot_left_for_data(self):
        resources = size_trials(BenchmarkSettings(), [{"CPU": 4}], cores=2)
        assert (resources.per_trial, resources.max_concurrent, resources.threads) == ({"CPU": 1.0}, 2, 1)
        assert size_trials(BenchmarkSettings(max_concurrent_trials=1), [{"CPU": 4}], cores=2).threads == 2

    def test_on_gpus_as_many_as_fractions(self):
        node = {"CPU": 16, "GPU": 2}
        resources = size_trials(BenchmarkSettings(gpu_per_trial=0.25), [node], cores=16)
        assert (resources.per_trial, resources.max_concurrent) == ({"CPU": 1.0, "GPU": 0.25}, 8)
        assert resources.device == "cuda"
        assert size_trials(BenchmarkSettings(device="cpu"), [node], cores=16).device == "cpu"

    def test_a_trial_that_does_not_fit_is_refused(self):
        with pytest.raises(UserError, match="leaves none of the 2 for Ray Data"):
            size_trials(BenchmarkSettings(cpus_per_trial=2), [{"CPU": 2}], cores=2)


def dataset(name: str, fingerprint: str, regions: tuple[str, ...] = ("vein", "contour")) -> SimpleNamespace:
    store = SimpleNamespace(uri=f"/data/{name}")
    return SimpleNamespace(name=name, fingerprint=fingerprint, store=store, regions=regions)


def test_data_with_other_fingerprints_is_refused():
    check_datasets([dataset("a", "12ab"), dataset("b", "34cd")], ("12ab", "34"))
    with pytest.raises(UserError, match="the benchmark requires 99"):
        check_datasets([dataset("a", "12ab")], ("99",))
    with pytest.raises(UserError, match="1 fingerprints for 2 data sets"):
        check_datasets([dataset("a", "12ab"), dataset("b", "34cd")], ("12ab",))
    with pytest.raises(UserError, match="have the same name"):
        check_datasets([dataset("a", "12ab"), dataset("a", "34cd")], ())
    with pytest.raises(UserError, match="has the regions midrib and base, a has vein and contour"):
        check_datasets([dataset("a", "12ab"), dataset("b", "34cd", ("midrib", "base"))], ())


def test_the_reason_of_a_failure_is_one_line():
    assert describe_error(UserError("the masks are missing", where="data")) == "the masks are missing"
    assert describe_error(RuntimeError("trial failed\n  File x\nValueError: nine\n")) == "ValueError: nine"
    assert describe_error(KeyError()) == "KeyError"


def test_every_architecture_has_a_plain_method():
    expected = {"alexnet": "alexnet", "vgg11": "vgg16", "resnet18": "resnet50", "timm:convnext_atto": "resnet50"}
    assert {name: plain_method(name)[0] for name in expected} == expected


def test_the_configs_fix_the_data_of_their_benchmarks():
    """Without fingerprints the data of a benchmark could change unnoticed."""
    from ufgvc.core.config import load_yaml

    found = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("benchmark-*.yaml"))
    assert found
    for path in found:
        section = load_yaml(path)["benchmark"]
        assert all(len(fingerprint) >= 12 for fingerprint in section["fingerprints"]), path.name
