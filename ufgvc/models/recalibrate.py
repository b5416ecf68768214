"""Writes a calibration into a model that a run has made: into the run's folder, and beside the model that MLflow has of the run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ufgvc.core.config import short_key
from ufgvc.core.storage import Store
from ufgvc.models.calibration import REFERENCE, Calibration, FeatureSubspace
from ufgvc.models.model import MODEL
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.runs import start_run


def keep_calibration(
    run: Store,
    calibration: Calibration,
    reference: FeatureSubspace,
    experiment: str,
    context: Context,
) -> None:
    """MLflow's run gets the calibrated model under a name of its own: versions that were registered before keep their files, and the
    next `register` files this one. A run that was not tracked is not tracked now.
    """
    artifact = f"model-{short_key(calibration)}"
    run.write_bytes(f"model/{REFERENCE}", reference.to_bytes())
    info = run.read_json(f"model/{MODEL}") | {"calibration": calibration.model_dump(), "artifact": artifact}
    run.write_json(f"model/{MODEL}", info)
    if Journal(run.child("journal")).identity() is None:
        return
    recorded = start_run(context, experiment, run.uri, {}, {}, store=run)
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as folder:
        run.child("model").download(Path(folder))
        recorded.log_folder(Path(folder), artifact)
    recorded.finish()
