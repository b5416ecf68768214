"""The benchmark: tunes learning rates on training leaves, trains every entry with every seed, and writes one report."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.evaluation.benchmark_record import BenchmarkRecord, Protocol
from ufgvc.evaluation.benchmark_summary import summarize
from ufgvc.experiments.crossval import check_leaves, list_held_folds
from ufgvc.experiments.entries import (
    BenchmarkEntry,
    check_datasets,
    check_entry_masks,
    decode_images,
    make_entry,
    make_final_jobs,
    make_lr_jobs,
    resolve_init,
)
from ufgvc.experiments.method_table import MethodVariant, select_variants
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import check_shared_storage, trial_resources
from ufgvc.experiments.results import collect_results, table_files, write_report
from ufgvc.experiments.settings import BenchmarkSettings, gpus_to_wait_for
from ufgvc.experiments.training_job import JobOutcome, TrainingJob, load_result, run_jobs
from ufgvc.methods.weights import check_init
from ufgvc.reports.benchmark_page import compose_benchmark
from ufgvc.reports.benchmark_tables import benchmark_tables, to_csv
from ufgvc.reports.benchmark_text import summary_text
from ufgvc.reports.figures import Panels
from ufgvc.reports.page import footer
from ufgvc.reports.tables import Table
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run

log = logging.getLogger(__name__)
Train = Callable[[list[TrainingJob]], list[JobOutcome]]


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark returns.

    folder: URI of report.html, table-*.md and benchmark.csv.  tables: for the terminal.  summary: the result in
    sentences.  failed: number of trainings that failed.  missing: number of those that did not end.
    """

    folder: str
    tables: tuple[Table, ...]
    summary: str
    failed: int
    missing: int = 0


def benchmark(data: Sequence[str], settings: BenchmarkSettings, context: Context = Context()) -> BenchmarkResult:
    """Trains what the benchmark still lacks and writes its report. The same call resumes a benchmark that was stopped.

    data: ingested data sets, whose test leaves are counted together.  UserError, before anything is trained, for what
    cannot work. A training that fails is a failed cell of the table.
    """
    datasets = [open_dataset(uri) for uri in data]
    check_datasets(datasets, settings.fingerprints)
    # A variant with the masks of the benchmark is the same as its method: two trials would write the same folder.
    regions = datasets[0].regions
    variants = [each for each in select_variants(settings.methods, regions) if each.mask_kind != settings.mask_kind]
    check_seed_rows(settings, variants)
    entries = [make_entry(variant, len(datasets[0].classes), settings, regions) for variant in variants]
    if all(entry.method.recipe.classifier_fit for entry in entries):
        settings = settings.model_copy(update={"lr_factors": (1.0,)})  # there is no learning rate to choose
    check_entry_masks(entries, datasets)
    for protocol in settings.protocols:
        for dataset in datasets:
            check_leaves(dataset, settings, protocol)
    if "{backbone}" not in settings.init:  # with it, one architecture without weights is one failed cell
        for backbone in {entry.method.options.get("backbone") for entry in entries}:
            check_init(resolve_init(settings.init, ""), backbone)
    if settings.report_only:
        check_any_ended(entries, datasets, settings, context.runs)
    folder = benchmark_folder(datasets, settings, context.runs)
    folder.write_text("config.yaml", to_yaml(settings.model_dump(mode="json")))
    run = start_run(
        context,
        experiment=datasets[0].name,
        name=f"benchmark-{settings.budget}",
        params=settings.model_dump(mode="json"),
        tags={"step": "benchmark", "folder": folder.uri, "data": ", ".join(each.fingerprint for each in datasets)},
        store=folder,
    )
    with finish_run_on_exit(run):
        with _trainer(datasets, settings, context, folder, run) as train:
            outcomes = {
                protocol: _train_protocol(entries, datasets, settings, context.runs, protocol, train)
                for protocol in settings.protocols
            }
        records: list[BenchmarkRecord] = []
        maps = None
        for protocol, (lr_outcomes, final_outcomes) in outcomes.items():
            record, cam = collect_results(datasets, entries, settings, lr_outcomes, final_outcomes, protocol)
            records.append(record)
            maps = maps or cam
        return _report(records, maps, folder, run)


@contextlib.contextmanager
def _trainer(
    datasets: Sequence[Dataset], settings: BenchmarkSettings, context: Context, folder: Store, run: Run
) -> Iterator[Train]:
    """What turns jobs into outcomes: trainings in a Ray session, or the results that exist already."""
    if settings.report_only:
        yield load_outcomes
        return
    gpus = gpus_to_wait_for(settings.device, settings.max_concurrent_trials, settings.gpu_per_trial)
    with ray_session(context.ray, gpus):
        check_shared_storage([each.store.uri for each in datasets], context.runs, settings.init)
        recorder = JobRecorder(context, datasets[0].name, run.id)

        def train(jobs: list[TrainingJob]) -> list[JobOutcome]:
            decode_images(jobs, datasets)
            resources = trial_resources(settings)
            return run_jobs(jobs, resources, folder.child("tune"), settings.max_failures, recorder)

        yield train


def load_outcomes(jobs: list[TrainingJob]) -> list[JobOutcome]:
    """The jobs with their results, None for those that have not ended."""
    return [JobOutcome(job, load_result(job)) for job in jobs]


def check_any_ended(
    entries: Sequence[BenchmarkEntry], datasets: Sequence[Dataset], settings: BenchmarkSettings, runs: str
) -> None:
    """UserError, before anything is written, for a report of trainings none of which has ended."""
    for protocol in settings.protocols:
        for outcomes in _train_protocol(entries, datasets, settings, runs, protocol, load_outcomes):
            if any(outcome.result for outcome in outcomes):
                return
    fix = "give --runs and the settings of the benchmark that was stopped, or leave --report-only out to train"
    raise UserError("no training of this benchmark has ended", where=runs, fix=fix)


def check_seed_rows(settings: BenchmarkSettings, variants: Sequence[MethodVariant]) -> None:
    """UserError for a row of --seeds-of that is not part of the benchmark."""
    keys = [variant.key for variant in variants]
    for row in settings.more_seeds:
        if row not in keys:
            fix = f"choose from the rows of --methods: {', '.join(keys)}"
            raise UserError(f"{row!r} is not a row of this benchmark", where="--seeds-of", fix=fix)


def _train_protocol(
    entries: Sequence[BenchmarkEntry],
    datasets: Sequence[Dataset],
    settings: BenchmarkSettings,
    runs: str,
    protocol: Protocol,
    train: Train,
) -> tuple[list[JobOutcome], list[JobOutcome]]:
    """(outcomes of the jobs that try learning rates, of the trainings that are scored).

    In cross-validation each fold chooses a learning rate of its own, with jobs that never read it.
    """
    held_folds = list_held_folds(protocol, settings)
    lr_outcomes = train([job for held in held_folds for job in make_lr_jobs(entries, datasets, settings, runs, held)])
    final_jobs = []
    for held in held_folds:
        own = [outcome for outcome in lr_outcomes if outcome.job.config.held_fold == held]
        factors = choose_lr_factors(own, entries, settings)
        final_jobs += make_final_jobs(entries, datasets, settings, runs, factors, held)
    return lr_outcomes, train(final_jobs)


def benchmark_folder(datasets: Sequence[Dataset], settings: BenchmarkSettings, runs: str) -> Store:
    """<runs>/<data set>/benchmark/<key>. The key covers what determines the results, not where they are computed."""
    # More rows or seeds continue the same benchmark, under the same run on MLflow.
    excluded = {
        "methods",
        "seeds",
        "seeds_of",
        "protocol",
        "folds",
        "paper",
        "cam_leaves",
        "max_concurrent_trials",
        "cpus_per_trial",
        "gpu_per_trial",
        "device",
        "checkpoint_seconds",
        "max_failures",
        "fingerprints",
        "report_only",
    }
    parts = [settings.model_dump(mode="json", exclude=excluded), [each.fingerprint for each in datasets]]
    if "crossval" in settings.protocols:
        parts.append({"folds": settings.folds})
    key = short_key(parts)
    return open_store(runs).child(datasets[0].name, "benchmark", f"{settings.budget}-{key}")


def choose_lr_factors(
    outcomes: Sequence[JobOutcome], entries: Sequence[BenchmarkEntry], settings: BenchmarkSettings
) -> dict[str, float]:
    """The factor of each tuned variant with most correct held-out leaves over all data sets; of equals nearest to 1.

    A factor whose training failed on any data set is excluded; a variant without any factor left has no entry.
    """
    if settings.budget == "published":
        return {entry.variant.key: 1.0 for entry in entries}
    if len(settings.lr_factors) == 1:
        return {entry.variant.key: settings.lr_factors[0] for entry in entries}
    failed = {(each.job.variant, each.job.lr_factor) for each in outcomes if each.result is None}
    correct: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for outcome in outcomes:
        variant, factor = outcome.job.variant, outcome.job.lr_factor
        if outcome.result is not None and (variant, factor) not in failed:
            correct[variant][factor] += outcome.result["validation_correct"]
    return {
        variant: max(found, key=lambda factor: (found[factor], -abs(factor - 1), factor))
        for variant, found in correct.items()
    }


def _report(records: Sequence[BenchmarkRecord], cam: Panels | None, folder: Store, run: Run) -> BenchmarkResult:
    results = [(record, summarize(record)) for record in records]
    files, tables = {"benchmark.csv": to_csv(results)}, list[Table]()
    for record, summaries in results:
        own = benchmark_tables(record, summaries)
        facts = "\n".join(f"- {name}: {value}" for name, value in record.facts.items())
        files |= table_files(own, appendix=f"\n{facts}\n")
        tables += own.values()
    write_report(folder, run, compose_benchmark(results, cam, footer()), files)
    log.info("report: %s", join(folder.uri, "report.html"))
    lost = [one for record in records for method in record.methods for one in method.runs if one.right is None]
    failed = sum(bool(one.error) for one in lost)
    summary = "\n".join(summary_text(record, summaries) for record, summaries in results)
    return BenchmarkResult(folder.uri, tuple(tables), summary, failed, len(lost) - failed)
