"""The training loop of one worker: a rank of Ray Train, or the only process of a training."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ufgvc.core.process import keep_freed_memory
from ufgvc.core.startup import COMMAND, phases
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import read_index
from ufgvc.methods import build
from ufgvc.methods.backbones import memory_format
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.training.average import WeightAverage
from ufgvc.training.checkpoint import CheckpointSink, make_checkpoint_folder, write_checkpoint
from ufgvc.training.data_wait import DataWait
from ufgvc.training.ddp import Ranks, warm_up_ddp_buckets, wrap_ddp
from ufgvc.training.fit import fit_epoch
from ufgvc.training.graphs import StepGraphs, use_graphs
from ufgvc.training.head import fit_head
from ufgvc.training.loader import BatchLoader
from ufgvc.training.memory import memory_for_batches
from ufgvc.training.metrics_file import MetricsWriter
from ufgvc.training.optim import lr_at, make_optimizer, set_lr, stage_at, train_mode
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.sources import make_loader
from ufgvc.training.steps import (
    Precision,
    choose_precision,
    compute_gradients,
    num_steps,
    train_step,
    use_cudnn_benchmark,
)
from ufgvc.training.threads import choose_threads
from ufgvc.training.totals import EpochTotals, score_validation


@dataclass
class Worker:
    """One rank of a training.  model: the method's net wrapped by DDP and torch.compile.

    history: metrics of the finished epochs.  best: see `write_checkpoint`.  marks: see `WorkerConfig`.
    average: of the net's weights; None if the recipe has none.  fitted: metrics of `fit_head`, for the first epoch.
    """

    config: WorkerConfig
    recipe: Recipe
    ranks: Ranks
    precision: Precision
    method: Method
    loader: BatchLoader
    sink: CheckpointSink
    stage: int = -1
    optimizer: torch.optim.Optimizer = field(init=False)
    model: nn.Module = field(init=False)
    graphs: StepGraphs | None = None
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    saved_at: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)
    average: WeightAverage | None = field(init=False)
    fitted: dict[str, float] = field(default_factory=dict)
    metrics: MetricsWriter = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = MetricsWriter(open_store(self.config.run))
        self.average = WeightAverage(self.method.net, self.recipe.ema_decay) if self.recipe.ema_decay else None

    @classmethod
    def start(
        cls,
        config: WorkerConfig,
        rank: int,
        world_size: int,
        local_world_size: int,
        device: torch.device,
        state: dict[str, Any] | None,
        sink: CheckpointSink,
    ) -> Worker:
        """Builds the network and the loader, and restores a checkpoint.  state: the checkpoint, or None.

        local_world_size: ranks on this machine, which share its CPU threads.
        """
        marks = dict(config.marks) | {"workers": time.time()}
        if device.type == "cpu":
            torch.set_num_threads(max(1, config.cores // local_world_size))
            keep_freed_memory()
        torch.manual_seed(config.seed)
        recipe = Recipe.model_validate(config.recipe)
        dataset = config.open_dataset()
        index = read_index(dataset, config.split)
        torch.backends.cudnn.benchmark = use_cudnn_benchmark(recipe, index.num_rows, device)
        init = "none" if state else config.train.init
        method = build(config.method, num_classes=len(dataset.classes), init=init, **config.options)
        method = replace(method, recipe=recipe)
        method.net.to(device).to(memory_format=memory_format(method.net, device))
        marks["network"] = time.time()
        ranks = Ranks(rank, world_size, device)
        loader = make_loader(config, recipe, dataset, index, ranks, method.num_uniforms)
        precision = choose_precision(config.train.precision, device)
        marks["cache"] = time.time()
        fitted = {} if state or config.train.head == "random" else fit_head(method, loader, ranks, config.seed)
        if device.type == "cpu" and not recipe.classifier_fit:
            batch_size = recipe.batch_size // world_size
            torch.set_num_threads(choose_threads(method.net, recipe.crop, batch_size, torch.get_num_threads()))
        worker = cls(config, recipe, ranks, precision, method, loader, sink, marks=marks, fitted=fitted)
        worker._enter_stage()
        if state:
            worker.restore(state)
        else:
            torch.manual_seed(config.seed * 1_000_003 + rank)
        return worker

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint.  state: of `read_checkpoint`."""
        self.epoch, self.history, self.best = state["epoch"], state["history"], state["best"]
        self._enter_stage()
        self.method.net.load_state_dict(state["net"] if self.average is None else state["trained"])
        if self.average is not None:
            self.average.restore(state["net"], state["averaged"])
        if state["stage"] == self.stage:
            self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"][min(self.ranks.rank, len(state["random"]) - 1)])

    def run(self) -> dict[str, Any] | None:
        """Trains to the last epoch and saves a checkpoint. Returns the last epoch's metrics on rank 0."""
        while self.epoch < self.recipe.epochs and not self.stops_early:
            self.step()
        self.save()
        return self.history[-1] if self.ranks.rank == 0 else None

    @property
    def stops_early(self) -> bool:
        """Whether the accuracy on held-out leaves has not improved for as many epochs as the recipe waits."""
        wait = self.recipe.early_stopping
        return wait > 0 and self.best is not None and self.epoch - self.best["epoch"] >= wait

    def step(self) -> dict[str, float]:
        """One epoch: train, validate, log. Saves a checkpoint if one is due, except after the last epoch."""
        self._enter_stage()
        started = time.monotonic()
        shared = (self.ranks.world_size, self.loader.resident, self.ranks.device, self.graphs is not None)
        with memory_for_batches(self.recipe, *shared):
            row = self._train_epoch() | (self.fitted if self.epoch == 0 else {}) | self._validate()
        row["seconds"] = time.monotonic() - started
        self.history.append(row)
        self.epoch += 1
        if self.ranks.rank == 0:
            self.metrics.add(self.history)
        due = time.monotonic() - self.saved_at >= self.config.train.checkpoint_seconds
        if self.ranks.broadcast_flag(due) and self.epoch < self.recipe.epochs:
            self.save()
            self.saved_at = time.monotonic()
        return row

    def _enter_stage(self) -> None:
        """Each stage has its own frozen modules, and so its own optimizer and DDP wrapper."""
        stage = stage_at(self.recipe.stages, self.epoch)
        if stage == self.stage:
            return
        self.stage = stage
        self.optimizer = make_optimizer(self.method, self.recipe.stages[stage])
        self.model = wrap_ddp(self.method.net, self.config.train, self.ranks)
        steps = num_steps(self.recipe, self.loader.num_train)
        if use_graphs(self.config.train.cuda_graphs, self.method.name, steps, self.ranks.world_size, self.ranks.device):
            compute = partial(compute_gradients, self.method, self.model, precision=self.precision)
            self.graphs = StepGraphs(self.method.net, compute)
        if self.ranks.world_size > 1:
            warm_up_ddp_buckets(self.model, self.method.net, self.recipe.crop, self.ranks.device)

    def _train_epoch(self) -> dict[str, float]:
        """Trains for one epoch; its row of metrics. RuntimeError if not all training images were seen."""
        if self.recipe.classifier_fit:
            self._mark_first_step()
            return {"epoch": float(self.epoch + 1)} | fit_epoch(self.method, self.loader, self.ranks, self.config.seed)
        set_lr(self.optimizer, lr_at(self.recipe.stages, self.epoch, self._schedule_rows()))
        train_mode(self.method, self.model, self.recipe.stages[self.stage])
        if self.ranks.device.type == "cuda":
            # Checkpoints hold the CPU generator only, so the GPU's (dropout) is seeded for each epoch and rank.
            seed = ((self.config.seed * 1_000_003 + self.ranks.rank) * 1_000_003 + self.epoch) % 2**63
            torch.cuda.manual_seed_all(seed)
        sums = EpochTotals(self.ranks.device)
        waited = DataWait(self.ranks.device)
        started = time.monotonic()
        for batch in waited.watch(self.loader.training(self.epoch)):
            self.marks.setdefault("first batch", time.time())
            how = (self.precision, self.ranks.sum, self.ranks.world_size, self.graphs)
            done = train_step(self.method, self.model, batch, self.optimizer, *how)
            if self.average is not None:
                self.average.update(self.method.net)
            sums.add(done.losses, done.correct, done.count, done.images)
            self._mark_first_step()
        totals = sums.reduce(self.ranks)
        seconds = time.monotonic() - started  # after the transfer, which waits for the device
        seen = int(totals[-1, 0])
        if seen != self.loader.num_train:
            raise RuntimeError(f"epoch {self.epoch} saw {seen} of {self.loader.num_train} training images")
        row = {
            "epoch": float(self.epoch + 1),
            "train_accuracy": float(totals[-2, 0] / totals[-2, 1]),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        row |= {
            f"loss_{name}": float(total / number) if number else 0.0
            for name, (total, number) in zip(sums.losses, totals[:-2], strict=True)
        }
        row["loss"] = sum(self.method.loss_weights[name] * row[f"loss_{name}"] for name in sums.losses)
        return row | {"images_per_second": seen / seconds, "data_wait": waited.seconds / seconds}

    def _mark_first_step(self) -> None:
        """Writes startup.json after the first step."""
        if "first step" in self.marks:
            return
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
        self.marks["first step"] = time.time()
        if self.ranks.rank == 0 and self.config.marks:
            start = {"command": self.marks[COMMAND], "seconds": phases(self.marks)}
            open_store(self.config.run).write_json("startup.json", start)

    def _schedule_rows(self) -> list[dict[str, float]]:
        """The history without scores on test images, which must never change a learning rate."""
        if self.config.train.validation != "test":
            return self.history
        return [
            {name: value for name, value in row.items() if not name.startswith("validation_")} for row in self.history
        ]

    def _validate(self) -> dict[str, float]:
        """Accuracy and loss on the images that choose the epoch; {} if there are none. Updates `best`."""
        if self.loader.num_val == 0:
            return {}
        keeps = self.config.train.validation != "test"
        row, scored = score_validation(self.method, self.evaluated, self.loader, self.ranks, keeps)
        if self.best is None or row["validation_accuracy"] > self.best["accuracy"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}
            held = [pair for rank in self.ranks.gather(scored) for pair in rank]
            accuracy = row["validation_accuracy"]
            self.best = {"epoch": self.epoch + 1, "accuracy": accuracy, "net": weights, "held": held}
        return row

    @property
    def evaluated(self) -> nn.Module:
        """The net whose weights are evaluated and saved."""
        return self.method.net if self.average is None else self.average.net

    def save(self) -> None:
        """Writes a checkpoint. Every rank calls it; rank 0 passes the files to the sink."""
        states = self.ranks.gather(torch.get_rng_state())
        if self.ranks.rank != 0:
            return self.sink(None, self.epoch)
        folder = make_checkpoint_folder()
        write_checkpoint(
            folder,
            net=self.method.net,
            optimizer=self.optimizer,
            epoch=self.epoch,
            stage=self.stage,
            history=self.history,
            best=self.best,
            random=states,
            average=self.average,
        )
        self.metrics.flush(self.history)
        self.sink(folder, self.epoch)
        self.metrics.mark_checkpoint(self.history)
