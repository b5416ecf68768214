"""First weights where ImageNet's cannot be had: one trunk for each architecture, trained without masks on leaves of another family."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.experiments.benchmark_entries import decode, first_weights
from ufgvc.experiments.mlflow_trials import Recorder
from ufgvc.experiments.settings import PretrainSettings
from ufgvc.experiments.training_job import Job
from ufgvc.experiments.trial_runner import Finished, check_nodes, run_all
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.weights import check_init
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.training.run import make_plan
from ufgvc.training.settings import TrainSettings


@dataclass(frozen=True)
class PretrainResult:
    """pattern: what `init` takes.  trained: {architecture: accuracy on its own training crops}."""

    pattern: str
    trained: dict[str, float]

    def summary(self) -> str:
        lines = [
            f"{name}: {100 * accuracy:.1f} % of its training crops named rightly"
            for name, accuracy in self.trained.items()
        ]
        return "\n".join([*lines, f"use them with --init '{self.pattern}'"])


def pretrain(
    data: str,
    settings: PretrainSettings,
    context: Context = Context(),
) -> PretrainResult:
    """Trains the plain method of every architecture and writes <runs>/pretrained/<data set>/<architecture>.safetensors.

    What is there from the same settings and leaves is not trained again. UserError, with the reasons, if some could not be trained.
    """
    dataset = open_dataset(data)
    out = open_store(context.runs).child("pretrained", dataset.name)
    jobs = [_job(name, dataset, settings, context.runs) for name in settings.architectures]
    told = settings.model_dump(mode="json")
    tags = {"step": "pretrain", "data": dataset.fingerprint, "folder": out.uri}
    run = start_run(context, experiment=dataset.name, name="pretrain", params=told, tags=tags, store=out)
    with finish_run_on_exit(run):
        with ray_session(context.ray):
            check_nodes([data], context.runs, settings)
            decode(jobs, [dataset])
            ends = run_all(jobs, settings, out.child("tune"), Recorder(context, dataset.name, run.id))
        for end in ends:
            if end.result is not None:
                _keep(end, out)
        failed = {end.job.contestant: str(end.error) for end in ends if end.result is None}
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            what = f"{len(failed)} of {len(ends)} architectures failed: {reasons}"
            raise UserError(what, fix="mend it; the same command tries only these again")
    trained = {end.job.contestant: float(end.result["train_accuracy"]) for end in ends if end.result is not None}
    return PretrainResult(f"{out.uri}/{{backbone}}.safetensors", trained)


def plain_method(architecture: str) -> tuple[str, dict[str, str]]:
    """(method, options) without anything of its own that trains an architecture of torchvision."""
    if architecture in ("alexnet", "inception_v3", "mobilenet_v2"):
        return architecture, {}
    return "vgg16" if architecture.startswith("vgg") else "resnet50", {"backbone": architecture}


def _job(architecture: str, dataset: Dataset, settings: PretrainSettings, runs: str) -> Job:
    stage = Stage(
        epochs=settings.epochs,
        lr=settings.learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_epochs=2,
    )
    recipe = Recipe(stages=(stage,), batch_size=settings.batch_size, resize=settings.resize, crop=settings.crop)
    name, options = plain_method(architecture)
    method = build(name, len(dataset.classes), **options)
    if settings.crop < method.min_side:
        raise UserError(
            f"{architecture} does not take images of {settings.crop} px",
            where="--crop",
            fix=f"use {method.min_side} or more",
        )
    train = TrainSettings(
        init=first_weights(settings.init, architecture),
        precision=settings.precision,
        gpu=settings.gpu,
        cache="host",
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    check_init(train.init)
    plan, identity = make_plan(dataset, replace(method, recipe=recipe), train, 0, None, runs)
    return Job(architecture, 0, 0, 1.0, "weights", plan, identity, keep_model=True)


def _keep(end: Finished, out: Store) -> None:
    """The weights under the architecture's name, and beside them what made them."""
    model = open_store(join(end.job.plan.run, "model"))
    out.write_bytes(f"{end.job.contestant}.safetensors", model.read_bytes("weights.safetensors"))
    out.write_bytes(f"{end.job.contestant}.json", model.read_bytes("model.json"))
