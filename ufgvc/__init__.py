"""Identifies plant cultivars from a photograph of one leaf (mask-guided ultra-fine-grained visual categorization).

The steps as functions, in the order in which they are used:

    ufgvc.ingest("photos", "data")               photographs and boxes become a data set
    ufgvc.detect("data")                         trains the region detector
    ufgvc.mask("data")                           writes the masks of all leaves
    result = ufgvc.train("data", "mask_guided")  trains a classifier
    ufgvc.evaluate("data", result.model)         scores it on the test leaves and writes its report
    ufgvc.predict("new", result.model, "out")    names the cultivar on new photographs
    ufgvc.load_model(result.model)               the model itself: `predict(paths)`

Each takes its settings (`TrainSettings`, ...) and a `Context` (the folder of all runs, MLflow, Ray, the seed), and
raises `UserError` for what the user can put right; docs/python.md shows them.
Importing the package imports none of them: a function or class is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ufgvc.core.errors import UserError
    from ufgvc.data.ingest import IngestSettings, ingest
    from ufgvc.evaluation.predict import predict
    from ufgvc.evaluation.settings import EvaluateSettings, PredictSettings
    from ufgvc.experiments.evaluate import evaluate
    from ufgvc.models.model import load_model
    from ufgvc.regions.mask_dataset import mask
    from ufgvc.regions.settings import DetectSettings, MaskSettings
    from ufgvc.regions.train_detector import detect
    from ufgvc.runtime.session import RaySettings
    from ufgvc.tracking.context import Context
    from ufgvc.tracking.settings import TrackingSettings
    from ufgvc.training.run import train
    from ufgvc.training.settings import TrainSettings

__version__ = "0.1.0"
__all__ = [
    "Context",
    "DetectSettings",
    "EvaluateSettings",
    "IngestSettings",
    "MaskSettings",
    "PredictSettings",
    "RaySettings",
    "TrackingSettings",
    "TrainSettings",
    "UserError",
    "__version__",
    "detect",
    "evaluate",
    "ingest",
    "load_model",
    "mask",
    "predict",
    "train",
]
_MODULES = {
    "Context": "ufgvc.tracking.context",
    "DetectSettings": "ufgvc.regions.settings",
    "EvaluateSettings": "ufgvc.evaluation.settings",
    "IngestSettings": "ufgvc.data.ingest",
    "MaskSettings": "ufgvc.regions.settings",
    "PredictSettings": "ufgvc.evaluation.settings",
    "RaySettings": "ufgvc.runtime.session",
    "TrackingSettings": "ufgvc.tracking.settings",
    "TrainSettings": "ufgvc.training.settings",
    "UserError": "ufgvc.core.errors",
    "detect": "ufgvc.regions.train_detector",
    "evaluate": "ufgvc.experiments.evaluate",
    "ingest": "ufgvc.data.ingest",
    "load_model": "ufgvc.models.model",
    "mask": "ufgvc.regions.mask_dataset",
    "predict": "ufgvc.evaluation.predict",
    "train": "ufgvc.training.run",
}


def __getattr__(name: str) -> Any:
    """The public function or class of this name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
