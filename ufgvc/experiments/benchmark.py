"""The benchmark from data sets to tables: rates chosen on training leaves, every contestant trained with every seed, one report."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.evaluation.benchmark_summary import summarize
from ufgvc.experiments.benchmark_entries import (
    BenchmarkEntry,
    check_draws,
    check_masks,
    decode,
    final_jobs,
    first_weights,
    make_entry,
    rate_jobs,
)
from ufgvc.experiments.collect_results import gather
from ufgvc.experiments.method_table import chosen
from ufgvc.experiments.mlflow_trials import Recorder
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.trial_runner import Finished, check_nodes, run_all
from ufgvc.methods.weights import check_init
from ufgvc.reports.benchmark_page import compose_benchmark
from ufgvc.reports.benchmark_tables import benchmark_tables, to_csv
from ufgvc.reports.benchmark_text import summary_text
from ufgvc.reports.page import footer
from ufgvc.reports.tables import Table
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run
from ufgvc.tracking.settings import TrackingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkResult:
    """folder: URI of report.html, table-*.md and benchmark.csv.  tables: what the terminal shows.  failed: cells without a figure."""

    folder: str
    tables: tuple[Table, ...]
    reading: str
    failed: int


def benchmark(
    data: Sequence[str],
    settings: BenchmarkSettings,
    runs: str = "runs",
    tracking: TrackingSettings | None = None,
    ray: RaySettings | None = None,
) -> BenchmarkResult:
    """Runs what is missing of the benchmark and writes its report; killed and called again, it goes on.

    data: ingested data sets; several are draws of cultivars, and their test leaves count together.  UserError for what cannot work,
    before anything is trained. A training that fails is a failed cell of the table.
    """
    tracking = tracking or TrackingSettings()
    draws = [open_dataset(uri) for uri in data]
    check_draws(draws, settings.fingerprints)
    # A row whose own masks are the benchmark's is its method's row once more: two trials would write the same folder.
    rows = [who for who in chosen(settings.methods) if who.mask != settings.masks]
    runners = [make_entry(who, len(draws[0].classes), settings) for who in rows]
    check_masks(runners, draws)
    if "{backbone}" not in settings.init:  # else one architecture without its weights is one failed cell
        check_init(first_weights(settings.init, ""))
    folder = benchmark_folder(draws, settings, runs)
    folder.write_text("config.yaml", to_yaml(settings.model_dump(mode="json")))
    run = start_run(
        tracking,
        runs,
        experiment=draws[0].name,
        name=f"benchmark-{settings.budget}",
        params=settings.model_dump(mode="json"),
        tags={"step": "benchmark", "folder": folder.uri, "data": ", ".join(draw.fingerprint for draw in draws)},
        store=folder,
    )
    with finish_run_on_exit(run):
        with ray_session(ray):
            check_nodes([draw.store.uri for draw in draws], runs, settings)
            record = Recorder(tracking, runs, draws[0].name, run.id)
            trying = rate_jobs(runners, draws, settings, runs)
            decode(trying, draws)
            rates = run_all(trying, settings, folder.child("tune"), record)
            training = final_jobs(runners, draws, settings, runs, chosen_factors(rates, runners, settings))
            decode(training, draws)
            finals = run_all(training, settings, folder.child("tune"), record)
        return _report(folder, draws, runners, settings, rates, finals, run)


def benchmark_folder(draws: Sequence[Dataset], settings: BenchmarkSettings, runs: str) -> Store:
    """<runs>/<data set>/benchmark/<key>; the key names what decides the figures, not how many trainings run at a time."""
    # More rows or seeds are the same benchmark going on, under the same MLflow run.
    silent = {
        "methods",
        "seeds",
        "paper",
        "cam_leaves",
        "trials",
        "cpus_per_trial",
        "gpu_per_trial",
        "gpu",
        "checkpoint_seconds",
        "max_failures",
        "fingerprints",
    }
    key = short_key([settings.model_dump(mode="json", exclude=silent), [draw.fingerprint for draw in draws]])
    return open_store(runs).child(draws[0].name, "benchmark", f"{settings.budget}-{key}")


def chosen_factors(
    rates: Sequence[Finished], runners: Sequence[BenchmarkEntry], settings: BenchmarkSettings
) -> dict[str, float]:
    """For each contestant that chooses, the rate that named most held-out leaves over all data sets; of equals the nearest to 1.

    A rate whose training failed anywhere is out; a contestant that is left without any has no entry.
    """
    if settings.budget == "published":
        return {runner.who.key: 1.0 for runner in runners}
    if len(settings.rates) == 1:
        return {runner.who.key: settings.rates[0] for runner in runners}
    correct: dict[str, dict[float, float]] = defaultdict(dict)
    out = {(end.job.contestant, end.job.factor) for end in rates if end.result is None}
    for end in rates:
        who, factor = end.job.contestant, end.job.factor
        if end.result is not None and (who, factor) not in out:
            correct[who][factor] = correct[who].get(factor, 0.0) + end.result["validation_correct"]
    return {
        who: max(found, key=lambda factor: (found[factor], -abs(factor - 1), factor)) for who, found in correct.items()
    }


def _report(
    folder: Store,
    draws: Sequence[Dataset],
    runners: Sequence[BenchmarkEntry],
    settings: BenchmarkSettings,
    rates: Sequence[Finished],
    finals: Sequence[Finished],
    run: Run,
) -> BenchmarkResult:
    record = gather(draws, runners, settings, rates, finals)
    summaries = summarize(record)
    tables = benchmark_tables(record, summaries)
    page = compose_benchmark(record, summaries, footer())
    told = "\n".join(f"- {name}: {value}" for name, value in record.facts.items())
    files: dict[str, bytes] = {
        f"table-{name}.md": f"{table.to_markdown()}\n\n{table.note}\n\n{told}\n".encode()
        for name, table in tables.items()
    }
    files |= {"benchmark.csv": to_csv(record, summaries).encode(), "report.html": page.to_html().encode()}
    files |= {f"{figure.name}.png": figure.to_png() for figure in page.figures}
    for name, content in files.items():
        folder.write_bytes(name, content)
        run.log_artifact_bytes(f"report/{name}", content)
    failed = sum(one.right is None for method in record.methods for one in method.runs)
    log.info("report: %s", join(folder.uri, "report.html"))
    return BenchmarkResult(folder.uri, tuple(tables.values()), summary_text(record, summaries), failed)
