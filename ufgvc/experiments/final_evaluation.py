"""The end of a search: trains the best setting and the paper's on all training leaves and scores the test leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_index
from ufgvc.evaluation.search_record import FinalResult, TrialResult
from ufgvc.experiments.entries import decode_images
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.search_store import SearchStore
from ufgvc.experiments.settings import SearchSettings
from ufgvc.experiments.training_job import JobOutcome, TrainingJob, read_scores, run_jobs
from ufgvc.methods import build
from ufgvc.training.regions import mask_fingerprint
from ufgvc.training.run import make_worker_config

PAPER, BEST = "the paper's setting", "best setting"


def evaluate_finalists(
    store: SearchStore, best: TrialResult, settings: SearchSettings, resources: TrialResources, recorder: JobRecorder
) -> tuple[tuple[FinalResult, ...], int]:
    """(scores of the paper's setting and of the best one, number of trainings that failed). Inside a Ray session."""
    if settings.seeds == 0:
        return (), 0
    finalists: dict[str, Mapping[str, Any]] = {PAPER: store.load_config(0).values}
    if best.number:
        finalists[BEST] = best.values
    jobs = make_final_jobs(store, finalists, settings.seeds)
    decode_images(jobs, [open_dataset(store.data)])
    scratch = open_store(store.folder).child("tune")
    outcomes = run_jobs(jobs, resources, scratch, settings.max_failures, recorder)
    return final_results(store, finalists, outcomes), sum(outcome.result is None for outcome in outcomes)


def make_final_jobs(store: SearchStore, finalists: Mapping[str, Mapping[str, Any]], seeds: int) -> list[TrainingJob]:
    """A job for each setting and seed. They have the run keys that `train` would use, so `train` finds them.

    finalists: values by label.
    """
    dataset = open_dataset(store.data)
    jobs = []
    for seed in range(store.seed, store.seed + seeds):
        for label, values in finalists.items():
            options, train = store.configure(values)
            method = build(store.method, len(dataset.classes), **options)
            masks = mask_fingerprint(dataset, method, train.mask_kind)
            config, identity = make_worker_config(dataset, method, train, seed, masks, store.runs)
            config = config.with_train(cache="none" if train.cache == "none" else "host")
            jobs.append(TrainingJob(label, 0, seed, 1.0, "final", config, identity, save_model=True))
    return jobs


def final_results(
    store: SearchStore, finalists: Mapping[str, Mapping[str, Any]], outcomes: Sequence[JobOutcome]
) -> tuple[FinalResult, ...]:
    """The scores on the test leaves by setting; a setting of which no training succeeded is left out."""
    index = read_index(open_dataset(store.data), "test")
    labels, image_ids = index["label"].to_numpy(), index["image_id"].to_pylist()
    rows = []
    for label, values in finalists.items():
        scored = [each.job.store for each in outcomes if each.job.variant == label and each.result is not None]
        if scored:
            right = np.stack([read_scores(run, image_ids).argmax(1) == labels for run in scored])
            rows.append(FinalResult(label, values, right))
    return tuple(rows)
