"""The end of a search: the best setting and the paper's, trained alike on all training leaves, and tested once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_index, read_manifest
from ufgvc.evaluation.search_record import FinalResult, TrialResult
from ufgvc.experiments.search_store import SearchStore
from ufgvc.experiments.training_job import Job, read_scored
from ufgvc.experiments.trial_runner import Finished
from ufgvc.methods import build
from ufgvc.training.run import make_plan

PAPER, BEST = "the paper's setting", "best setting"


def best_of(rows: Sequence[TrialResult]) -> TrialResult | None:
    """The complete trial that named most held-out leaves; of equal ones that with the lower cross-entropy. Repeats do not take part."""
    complete = [row for row in rows if row.state == "complete" and not row.repeat]
    return max(complete, key=lambda row: (row.curve[-1], -row.losses[-1], -row.number)) if complete else None


def final_jobs(study: SearchStore, settings: Mapping[str, Mapping[str, Any]], seeds: int) -> list[Job]:
    """A job for each setting (by its label) and seed. They are the runs that `train` would make, so it finds them."""
    dataset = open_dataset(study.data)
    jobs = []
    for seed in range(study.seed, study.seed + seeds):
        for label, values in settings.items():
            options, train = study.configured(values)
            method = build(study.method, len(dataset.classes), **options)
            masks = read_manifest(dataset, f"masks/{train.mask}").fingerprint if method.regions else None
            plan, identity = make_plan(dataset, method, train, seed, masks, study.runs)
            plan = replace(plan, cache="none" if train.cache == "none" else "host")
            jobs.append(Job(label, 0, seed, 1.0, "final", plan, identity, keep_model=True, train=train))
    return jobs


def final_rows(
    study: SearchStore, settings: Mapping[str, Mapping[str, Any]], ends: Sequence[Finished]
) -> tuple[FinalResult, ...]:
    """What was tested, by setting; one of which no training ended well is left out."""
    index = read_index(open_dataset(study.data), "test")
    labels, image_ids = index["label"].to_numpy(), index["image_id"].to_pylist()
    rows = []
    for label, values in settings.items():
        stores = [
            open_store(end.job.plan.run) for end in ends if end.job.contestant == label and end.result is not None
        ]
        if stores:
            rows.append(
                FinalResult(
                    label, values, np.stack([read_scored(store, image_ids).argmax(1) == labels for store in stores])
                )
            )
    return tuple(rows)
