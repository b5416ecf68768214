"""`search`: settings tried by cross-validation on the training leaves, the best one tested beside the paper's, one report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.storage import join, open_store
from ufgvc.data.cluster import RaySettings, ray_session
from ufgvc.data.shards import Dataset, open_dataset, read_index, read_manifest
from ufgvc.methods.recipe import Recipe
from ufgvc.report.page import made_now
from ufgvc.report.search_page import compose_search, reading, search_tables, to_csv
from ufgvc.report.search_story import Axis, FinalRow, SearchStory, TrialRow
from ufgvc.report.tables import Table
from ufgvc.search.field import decode, first_weights
from ufgvc.search.finals import BEST, PAPER, best_of, final_jobs, final_rows
from ufgvc.search.record import Recorder, SearchRecorder
from ufgvc.search.settings import SearchSettings
from ufgvc.search.space import configured, paper_values, read_space
from ufgvc.search.study import Setting, Study
from ufgvc.search.trials import check_nodes, run_all
from ufgvc.search.tuning import run_trials, trial_settings
from ufgvc.track.runs import Run, recorded, require_mlflow, start_run
from ufgvc.track.settings import TrackingSettings
from ufgvc.train.settings import TrainSettings
from ufgvc.train.split import fold_of
