"""Cross-validation: folds that score every leaf once, what a training may read, and its runs in the report."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.factories import coloured, ingested
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.data.splits import HeldFold, count_groups, kfold_indices, pool_splits
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult
from ufgvc.evaluation.benchmark_summary import summarize
from ufgvc.evaluation.bootstrap import resampled_group_means
from ufgvc.experiments import crossval
from ufgvc.experiments.benchmark import check_seed_rows
from ufgvc.experiments.method_table import select_variants
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import JobOutcome
from ufgvc.reports.benchmark_page import compose_benchmark
from ufgvc.reports.benchmark_tables import benchmark_tables, to_csv
from ufgvc.training.settings import TrainSettings, WorkerConfig
from ufgvc.training.sources import split_indices

LABELS = np.repeat(np.arange(4), 12).astype(np.int64)
GROUPS = [f"plant {i // 3}" if label < 2 else None for i, label in enumerate(LABELS)]


def leaves(folder: Path, train: int, test: int, classes: int = 2) -> Dataset:
    """A data set with so many leaves of each cultivar in each split."""
    splits = {"train": train, "test": test}
    rows = {
        name: [(label, coloured(label, i)) for label in range(classes) for i in range(n)] for name, n in splits.items()
    }
    ingested(
        str(folder), "few", [f"cultivar {i}" for i in range(classes)], [(k, v) for k, v in rows.items() if v], side=48
    )
    return open_dataset(str(folder))


def test_rows_with_other_numbers_of_seeds() -> None:
    settings = BenchmarkSettings(protocol="crossval", folds=2, seeds=1, seeds_of=("mask_guided:none=3",))
    assert [settings.seeds_for(row) for row in ("resnet50", "mask_guided:none")] == [1, 3]
    seeds = {
        row: [each.seed for each in crossval.list_held_folds("crossval", settings, row) if each is not None]
        for row in ("resnet50", "mask_guided:none", None)
    }
    assert seeds == {"resnet50": [0, 0], "mask_guided:none": [0, 0, 1, 1, 2, 2], None: [0, 0, 1, 1, 2, 2]}
    for wrong in (("resnet50",), ("resnet50=0",), ("=2",), ("resnet50=1", "resnet50=2")):
        with pytest.raises(ValueError, match=r"is not row=seeds|occurs twice"):
            BenchmarkSettings(seeds_of=wrong)
    with pytest.raises(UserError, match="'mask_guided:none' is not a row of this benchmark"):
        check_seed_rows(settings, select_variants(["resnet50"]))


def test_every_leaf_is_in_one_fold_of_each_seed_and_groups_stay_together() -> None:
    settings = BenchmarkSettings(protocol="crossval", folds=4, seeds=3)
    held = [each for each in crossval.list_held_folds("crossval", settings) if each is not None]
    assert len(held) == 12
    partitions = []
    for seed in range(3):
        folds = [each.indices(LABELS, GROUPS) for each in held if each.seed == seed]
        assert sorted(itertools.chain(*(inside.tolist() for _, inside in folds))) == list(range(48))
        for others, inside in folds:
            assert sorted([*others, *inside]) == list(range(48))
            assert Counter(LABELS[inside].tolist()) == dict.fromkeys(range(4), 3)
            assert not {GROUPS[i] for i in inside} & {GROUPS[i] for i in others} - {None}
        partitions.append([inside.tolist() for _, inside in folds])
    assert partitions[0] != partitions[1] != partitions[2]


def test_a_group_with_leaves_of_several_cultivars_is_not_divided() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    groups = ["a", "b", "c", "c", "b", "d"]
    for seed in range(20):
        for fold in range(3):
            others, inside = kfold_indices(labels, groups, 3, fold, seed)
            assert not {groups[i] for i in inside} & {groups[i] for i in others}


def test_groups_are_counted_for_each_cultivar() -> None:
    assert count_groups(LABELS, GROUPS, 5).tolist() == [4, 4, 12, 12, 0]


@pytest.mark.parametrize("validation", ["last", "holdout", "kfold"])
def test_no_training_and_no_choice_reads_the_held_fold(validation: str) -> None:
    config = WorkerConfig(
        "", "", "resnet50", {}, 1, {}, TrainSettings(validation=validation, fold=1), None, None, "", 1
    )
    for fold in range(4):
        held = HeldFold(4, fold, seed=1, split="all")
        train, chosen = split_indices(replace(config, held_fold=held), LABELS, GROUPS)
        others, inside = held.indices(LABELS, GROUPS)
        assert sorted([*train, *chosen]) == others.tolist()
        assert not set(inside.tolist()) & {*train.tolist(), *chosen.tolist()}
        assert (len(chosen) > 0) == (validation != "last")


def test_the_pooled_data_set_has_the_leaves_of_both_splits(tmp_path: Path) -> None:
    dataset = leaves(tmp_path, train=2, test=3)
    pooled = pool_splits(dataset)
    assert pooled.counts == {"all": 10}
    assert read_index(pooled, "all")["image_id"].to_pylist() == read_index(dataset)["image_id"].to_pylist()
    found, image_ids = crossval.scored_leaves(dataset, "crossval")
    assert (len(found.labels), len(image_ids), found.groups) == (10, 10, None)
    assert len(crossval.scored_leaves(dataset, "fixed")[1]) == 6


class TestTooFewLeaves:
    def refuse(self, dataset: Dataset, **settings: object) -> str:
        with pytest.raises(UserError) as caught:
            crossval.check_leaves(dataset, BenchmarkSettings.model_validate(settings), "crossval")
        return str(caught.value)

    def test_fewer_leaves_than_folds(self, tmp_path: Path) -> None:
        text = self.refuse(leaves(tmp_path, 1, 2), folds=4)
        assert "cultivar cultivar 0 has 3 leaves in all, too few for 4 folds" in text
        assert "use `--folds 3`" in text

    def test_one_leaf_of_a_cultivar(self, tmp_path: Path) -> None:
        assert "leave it out" in self.refuse(leaves(tmp_path, 1, 0), folds=2)

    def test_nothing_to_choose_a_learning_rate_on(self, tmp_path: Path) -> None:
        dataset = leaves(tmp_path, 1, 1)
        assert "to choose a learning rate, one must be held out" in self.refuse(dataset, folds=2)
        crossval.check_leaves(dataset, BenchmarkSettings(folds=2, lr_factors=(1.0,)), "crossval")
        with pytest.raises(UserError, match="only one leaf to train on"):
            crossval.check_leaves(dataset, BenchmarkSettings(), "fixed")


HELD = [HeldFold(2, fold, 0, "all") for fold in range(2)]
FOUR = BenchmarkDataset("few", np.array([0, 1, 0, 1]), 2)


def outcome(fold: int, error: str | None = None) -> JobOutcome:
    result = {"seconds": 2.0 + fold, "images_per_second": 1.0, "train_accuracy": 0.5}
    job = SimpleNamespace(
        seed=0,
        dataset_index=0,
        variant="v",
        learning_rates=(0.1 * (fold + 1),),
        store=fold,
        config=SimpleNamespace(held_fold=HELD[fold]),
    )
    return JobOutcome(job, None if error else result, error)  # type: ignore[arg-type]


class TestRunsOfFolds:
    @pytest.fixture(autouse=True)
    def scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logits = {
            0: (["c", "a"], np.array([[2.0, 1.0], [0.0, 1.0]])),
            1: (["b", "d"], np.array([[0.0, 1.0], [1.0, 0.0]])),
        }
        monkeypatch.setattr(crossval, "read_all_scores", logits.__getitem__)

    def test_the_folds_of_a_seed_are_one_run_over_all_leaves(self) -> None:
        (run,) = crossval.assemble_runs([outcome(0), outcome(1)], [], HELD, [(FOUR, ["a", "b", "c", "d"])])
        assert run.right is not None
        assert run.right.tolist() == [False, True, True, False]
        assert (run.seconds, run.learning_rates) == (2.5, (0.1, 0.2))

    def test_a_fold_that_failed_leaves_no_figure(self) -> None:
        (run,) = crossval.assemble_runs([outcome(0), outcome(1, "lost")], [], HELD, [(FOUR, list("abcd"))])
        assert (run.right, run.error) == (None, "lost")
        (run,) = crossval.assemble_runs([outcome(0)], [outcome(1, "diverged")], HELD, [(FOUR, list("abcd"))])
        assert (run.right, run.error) == (None, "diverged")

    def test_leaves_that_were_not_scored_once_are_a_bug(self) -> None:
        with pytest.raises(RuntimeError, match="every leaf of few once"):
            crossval.assemble_runs(
                [outcome(0), outcome(1)], [], HELD, [(replace(FOUR, labels=np.zeros(5, int)), list("abcde"))]
            )


def test_both_protocols_stand_in_one_report() -> None:
    random = np.random.default_rng(1)
    labels, ids = np.repeat(np.arange(10), 4), np.arange(40) // 2

    def result(key: str, share: float, name: str) -> MethodResult:
        runs = tuple(RunResult(name, seed, random.random(40) < share, learning_rates=(0.1, 0.2)) for seed in range(2))
        return MethodResult(key=key, label=key, method=key, backbone="net", tables=frozenset({"II"}), runs=runs)

    results = []
    for protocol in ("fixed", "crossval"):
        datasets = (BenchmarkDataset("few", labels, 10, ids),)
        methods = (result("resnet50", 0.5, "few"), result("mask_guided", 0.9, "few"))
        made = BenchmarkRecord(
            "few", "equal", datasets, methods, protocol=protocol, facts={"Protocol": f"it is {protocol}"}
        )
        results.append((made, summarize(made, 400)))
    fixed, crossed = (benchmark_tables(*each) for each in results)
    assert (list(fixed), list(crossed)) == (["II"], ["crossval"])
    assert [row[0] for row in crossed["crossval"].rows] == ["resnet50", "mask_guided"]
    assert {row[-1] for row in crossed["crossval"].rows} == {"0.1, 0.2"}
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert [(row["protocol"], row["key"]) for row in rows] == [
        (protocol, key) for protocol in ("fixed", "crossval") for key in ("resnet50", "mask_guided")
    ]
    ours, plain = (np.mean([run.right for run in results[1][0].methods[i].runs], axis=0) for i in (1, 0))
    low, high = np.quantile(resampled_group_means((ours - plain)[:, None], ids, 400), [0.025, 0.975])
    assert float(rows[3]["against_resnet50_low"]) == pytest.approx(low)
    assert float(rows[3]["against_resnet50_high"]) == pytest.approx(high)
    page = compose_benchmark(results).to_html()
    assert "in cross-validation over all leaves" in page
    assert "on the test leaves" in page
    assert "it is fixed; it is crossval" in page
    alone = compose_benchmark(results[1:]).to_html()
    assert "40 leaves scored out of fold of 10 cultivars" in alone.replace("(", "").replace(")", "")
    assert "on the test leaves" not in alone
