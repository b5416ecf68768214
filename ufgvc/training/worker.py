"""The training loop of one worker. Ray Train starts it on every rank; a trial runs it in its own process, as one rank alone."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.startup import COMMAND, phases
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_index
from ufgvc.methods import build
from ufgvc.methods.layers.memory_format import memory_format
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.training.checkpoint import read_checkpoint, write_checkpoint
from ufgvc.training.ddp import searches_algorithms, warm_up_ddp_buckets, wrap_ddp
from ufgvc.training.loader import BatchLoader, WorkerConfig, make_loader
from ufgvc.training.memory import memory_for_batches
from ufgvc.training.optim import lr_at, make_optimizer, set_lr, stage_at, train_mode
from ufgvc.training.steps import Precision, choose_precision, eval_step, train_step

CALIBRATION_LEAVES = (
    20_000  # held-out leaves whose logits are kept: enough for a temperature, and little beside the weights
)
# Takes the folder of a checkpoint and the number of epochs that are done; None on every rank but the first.
Keep = Callable[[Path | None, int], None]


def train_worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """Trains one rank of Ray Train to the end. Rank 0 writes the run's metrics, checkpoints and, at the end, its weights."""
    import ray.train
    import ray.train.torch

    plan = WorkerConfig(**config)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = read_checkpoint(Path(folder))
    ranks = context.get_world_rank(), context.get_world_size(), context.get_local_world_size()
    return Worker.start(plan, *ranks, device, state, report).run()


def report(folder: Path | None, epoch: int) -> None:
    """Hands a checkpoint to Ray Train, which uploads it in the background. A barrier: every rank calls it."""
    import ray.train

    if folder is None:
        ray.train.report({})
        return
    ray.train.report(
        {"epoch": epoch},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


@dataclass
class Worker:
    """One rank.  net: the method's network, on the device.  model: the same behind DDP (and torch.compile)."""

    plan: WorkerConfig
    recipe: Recipe
    rank: int
    world: int
    device: torch.device
    precision: Precision
    method: Method
    feed: BatchLoader
    keep: Keep
    stage: int = -1
    optimizer: torch.optim.Optimizer = field(init=False)
    model: nn.Module = field(init=False)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    saved_at: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        plan: WorkerConfig,
        rank: int,
        world: int,
        local_world: int,
        device: torch.device,
        state: dict[str, Any] | None,
        keep: Keep,
    ) -> Worker:
        marks = dict(plan.marks) | {"workers": time.time()}
        if device.type == "cpu":
            torch.set_num_threads(max(1, plan.cores // local_world))
        torch.manual_seed(plan.seed)
        recipe = Recipe.model_validate(plan.recipe)
        dataset = open_dataset(plan.data)
        index = read_index(dataset, "train")
        torch.backends.cudnn.benchmark = searches_algorithms(recipe, index.num_rows, device)
        method = build(
            plan.method, num_classes=len(dataset.classes), init="none" if state else plan.init, **plan.options
        )
        method = replace(method, recipe=recipe)
        method.net.to(device).to(memory_format=memory_format(method.net, device))
        marks["network"] = time.time()
        feed = make_loader(plan, recipe, dataset, index, rank, world, device, method.chances)
        precision = choose_precision(plan.precision, device)
        marks["cache"] = time.time()
        worker = cls(plan, recipe, rank, world, device, precision, method, feed, keep, marks=marks)
        worker._enter_stage()
        if state:
            worker._restore(state)
        else:
            torch.manual_seed(plan.seed * 1_000_003 + rank)
        return worker

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.history, self.best = state["epoch"], state["history"], state["best"]
        self._enter_stage()
        self.method.net.load_state_dict(state["net"])
        if state["stage"] == self.stage:
            self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"][min(self.rank, len(state["random"]) - 1)])

    def run(self) -> dict[str, Any] | None:
        while self.epoch < self.recipe.epochs:
            self.step()
        self.save()
        return self.history[-1] if self.rank == 0 else None

    def step(self) -> dict[str, float]:
        """One epoch: learn, score what is held out, tell. Saves if that is due; the last epoch is saved by who calls."""
        self._enter_stage()
        started = time.monotonic()
        with memory_for_batches(self.recipe, self.world, self.feed.resident, self.device):
            row = self._train_epoch()
            row |= self._validate()
        row["seconds"] = time.monotonic() - started
        self.history.append(row)
        self.epoch += 1
        if self.rank == 0:
            self._write_metrics()
        if (
            self.agree(time.monotonic() - self.saved_at >= self.plan.checkpoint_seconds)
            and self.epoch < self.recipe.epochs
        ):
            self.save()
            self.saved_at = time.monotonic()
        return row

    def _enter_stage(self) -> None:
        """A stage freezes what it freezes, so it has an optimizer and a DDP wrapper of its own."""
        stage = stage_at(self.recipe.stages, self.epoch)
        if stage == self.stage:
            return
        self.stage = stage
        self.optimizer = make_optimizer(self.method, self.recipe.stages[stage])
        self.model = wrap_ddp(self.method.net, self.plan, self.world, self.device)
        if self.world > 1:
            warm_up_ddp_buckets(self.model, self.method.net, self.recipe.crop, self.device)

    def _train_epoch(self) -> dict[str, float]:
        stage = self.recipe.stages[self.stage]
        set_lr(self.optimizer, lr_at(self.recipe.stages, self.epoch, self._schedule_rows()))
        train_mode(self.method, self.model, stage)
        if self.device.type == "cuda":
            # Checkpoints keep the CPU's generator only, so a GPU's (dropout) starts each epoch from numbers that the epoch and rank decide.
            torch.cuda.manual_seed_all(((self.plan.seed * 1_000_003 + self.rank) * 1_000_003 + self.epoch) % 2**63)
        sums: dict[str, Tensor] = {}
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        count = images = 0
        waited = 0.0
        started = mark = time.monotonic()
        for batch in self.feed.training(self.epoch):
            waited += time.monotonic() - mark
            self.marks.setdefault("first batch", time.time())
            done = train_step(
                self.method, self.model, batch, self.optimizer, self.precision, reduce=self._sum, world=self.world
            )
            for name, (total, number) in done.losses.items():
                pair = torch.stack([total.detach().double(), number.detach().double()])
                sums[name] = sums[name] + pair if name in sums else pair
            correct, count, images = correct + done.correct, count + done.count, images + done.images
            self._note_first_step()
            mark = time.monotonic()
        right = torch.stack([correct.double(), torch.full_like(correct, count, dtype=torch.float64)])
        seen_here = torch.full((2,), float(images), dtype=torch.float64, device=self.device)
        # One read for all numbers of the epoch. It waits for the device, so the clock is asked after it.
        totals = self._sum(torch.stack([*sums.values(), right, seen_here])).cpu()
        seconds = time.monotonic() - started
        seen = int(totals[-1, 0])
        if seen != self.feed.learn:
            raise RuntimeError(
                f"epoch {self.epoch} saw {seen} of {self.feed.learn} training leaves; a partial epoch is not an epoch"
            )
        row = {
            "epoch": float(self.epoch + 1),
            "train_accuracy": float(totals[-2, 0] / totals[-2, 1]),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        row |= {
            f"loss_{name}": float(total / number) if number else 0.0
            for name, (total, number) in zip(sums, totals[:-2], strict=True)
        }
        row["loss"] = sum(self.method.loss_weights[name] * row[f"loss_{name}"] for name in sums)
        return row | {"images_per_second": seen / seconds, "data_wait": waited / seconds}

    def _note_first_step(self) -> None:
        if "first step" in self.marks:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks["first step"] = time.time()
        if self.rank == 0 and self.plan.marks:
            start = {"command": self.marks[COMMAND], "seconds": phases(self.marks)}
            open_store(self.plan.run).write_json("startup.json", start)

    def _schedule_rows(self) -> list[dict[str, float]]:
        """The epochs so far, without scores on test leaves, which may choose an epoch when that is asked for but never a rate."""
        if self.plan.validation != "test":
            return self.history
        return [
            {name: value for name, value in row.items() if not name.startswith("validation_")} for row in self.history
        ]

    def _validate(self) -> dict[str, float]:
        """Accuracy on the leaves that choose the epoch; nothing when none were asked for."""
        if self.feed.hold == 0:
            return {}
        net = self.method.net.eval()
        counts = torch.zeros(3, dtype=torch.float64, device=self.device)
        held: list[tuple[Tensor, Tensor]] = []
        thin = -(-self.feed.hold // CALIBRATION_LEAVES)
        for images, labels in self.feed.validation():
            logits = eval_step(self.method, net, images).double()
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            right = (logits.argmax(1) == labels).sum()
            counts += torch.stack([right.double(), torch.full_like(loss, len(labels)), loss])
            if self.plan.validation != "test":
                held.append((logits[::thin].float().cpu(), labels[::thin].cpu()))
        counts = self._sum(counts)
        if int(counts[1]) != self.feed.hold:
            raise RuntimeError(f"evaluated {int(counts[1])} of {self.feed.hold} leaves; a partial score is not a score")
        accuracy = float(counts[0] / counts[1])
        if self.best is None or accuracy > self.best["accuracy"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.method.net.state_dict().items()}
            scored = [pair for rank in self._gather(held) for pair in rank]
            self.best = {"epoch": self.epoch + 1, "accuracy": accuracy, "net": weights, "held": scored}
        return {
            "validation_accuracy": accuracy,
            "validation_correct": float(counts[0]),
            "validation_leaves": float(counts[1]),
            "validation_loss": float(counts[2] / counts[1]),
        }

    def save(self) -> None:
        """Every rank takes part; rank 0 brings the checkpoint."""
        states = self._gather(torch.get_rng_state())
        if self.rank != 0:
            self.keep(None, self.epoch)
            return
        folder = Path(tempfile.mkdtemp(prefix="ufgvc-checkpoint-"))
        write_checkpoint(
            folder,
            net=self.method.net,
            optimizer=self.optimizer,
            epoch=self.epoch,
            stage=self.stage,
            history=self.history,
            best=self.best,
            random=states,
            run_id=self.plan.run_id,
        )
        self.keep(folder, self.epoch)
        open_store(self.plan.run).write_json("progress.json", {"checkpointed": self.epoch})

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        open_store(self.plan.run).write_text("metrics.jsonl", lines)

    def _sum(self, value: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        gathered = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(gathered, value)
        return gathered

    def agree(self, wish: bool) -> bool:
        """Rank 0's wish, on every rank."""
        if self.world == 1:
            return wish
        flag = torch.tensor([float(wish)], device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag.item())
