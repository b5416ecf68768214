"""Trains initial weights, where ImageNet's are not available: one backbone per architecture, without masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset
from ufgvc.experiments.entries import decode_images, resolve_init
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import check_shared_storage, trial_resources
from ufgvc.experiments.settings import PretrainSettings, gpus_to_wait_for
from ufgvc.experiments.training_job import JobOutcome, TrainingJob, check_outcomes, run_jobs
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.weights import check_init
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings


@dataclass(frozen=True)
class PretrainResult:
    """What a pretraining returns.

    pattern: the value for `init`, with {backbone}.  accuracies: by architecture, on its training crops, in [0, 1].
    """

    pattern: str
    accuracies: dict[str, float]

    def summary(self) -> str:
        """The lines for the terminal."""
        lines = [
            f"{name}: {100 * accuracy:.1f} % of its training crops are correct"
            for name, accuracy in self.accuracies.items()
        ]
        return "\n".join([*lines, f"use them with --init '{self.pattern}'"])


def pretrain(data: str, settings: PretrainSettings, context: Context = Context()) -> PretrainResult:
    """Trains the plain method of every architecture and writes <runs>/pretrained/<data set>/<architecture>.safetensors.

    Weights of the same settings and leaves are not trained again.  UserError, with the reasons, if an architecture
    failed.
    """
    dataset = open_dataset(data)
    out = open_store(context.runs).child("pretrained", dataset.name)
    jobs = [_make_job(name, dataset, settings, context.runs) for name in settings.architectures]
    run = start_run(
        context,
        experiment=dataset.name,
        name="pretrain",
        params=settings.model_dump(mode="json"),
        tags={"step": "pretrain", "data": dataset.fingerprint, "folder": out.uri},
        store=out,
    )
    with finish_run_on_exit(run):
        gpus = gpus_to_wait_for(settings.device, settings.max_concurrent_trials, settings.gpu_per_trial)
        with ray_session(context.ray, gpus):
            check_shared_storage([data], context.runs, settings.init)
            decode_images(jobs, [dataset])
            recorder = JobRecorder(context, dataset.name, run.id)
            resources = trial_resources(settings)
            outcomes = run_jobs(jobs, resources, out.child("tune"), settings.max_failures, recorder)
        for outcome in outcomes:
            if outcome.result is not None:
                _copy_weights(outcome, out)
        check_outcomes(outcomes, "architectures")
    accuracies = {each.job.variant: float(each.result["train_accuracy"]) for each in outcomes if each.result}
    return PretrainResult(f"{out.uri}/{{backbone}}.safetensors", accuracies)


def plain_method(architecture: str) -> tuple[str, dict[str, str]]:
    """(method, options) that trains an architecture of torchvision without anything added."""
    if architecture in ("alexnet", "inception_v3", "mobilenet_v2"):
        return architecture, {}
    return "vgg16" if architecture.startswith("vgg") else "resnet50", {"backbone": architecture}


def _make_job(architecture: str, dataset: Dataset, settings: PretrainSettings, runs: str) -> TrainingJob:
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
        what = f"{architecture} does not take images of {settings.crop} px"
        raise UserError(what, where="--crop", fix=f"use {method.min_side} or more")
    train = TrainSettings(
        init=resolve_init(settings.init, architecture),
        precision=settings.precision,
        device=settings.device,
        cache="host",
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    check_init(train.init, method.options.get("backbone"))
    config, identity = make_worker_config(dataset, replace(method, recipe=recipe), train, 0, None, runs)
    return TrainingJob(architecture, 0, 0, 1.0, "pretrain", config, identity, save_model=True)


def _copy_weights(outcome: JobOutcome, out: Store) -> None:
    """Copies the weights and their description to the name of the architecture."""
    model = open_store(join(outcome.job.config.run, "model"))
    out.write_bytes(f"{outcome.job.variant}.safetensors", model.read_bytes("weights.safetensors"))
    out.write_bytes(f"{outcome.job.variant}.json", model.read_bytes("model.json"))
