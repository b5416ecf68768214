"""One whole experiment of the size of the paper's smallest data set, timed: leaves, masks, a training, its report."""

from __future__ import annotations

import json
import shutil
import time

from cluster.gpu.call import Call
from cluster.gpu.commands import State
from cluster.gpu.parts import Part
from cluster.gpu.paths import WORK, write_json

# As Cotton80 has them: 80 cultivars with 3 training and 3 test leaves each.
LEAVES = ("--preset", "cotton80", "--cultivars", "80", "--train-per-cultivar", "3", "--test-per-cultivar", "3")
TINY_LEAVES = ("--preset", "cotton80", "--cultivars", "4", "--train-per-cultivar", "3", "--test-per-cultivar", "2")

MODEL = "MODEL"  # stands for the folder of the trained one


def run_experiment(call: Call, limit: float) -> Part:
    """Runs the commands one after another, for `limit` seconds at most; experiment.json has the seconds of each."""
    folder = WORK / "experiment"
    shutil.rmtree(folder, ignore_errors=True)
    leaves, data, runs = (str(folder / name) for name in ("leaves", "data", "runs"))
    off = ("--tracking.uri", "off", "--runs", runs)
    size, epochs = ("96", "2") if call.dry else ("512", "300")
    net: tuple[str, ...] = ("--train.init", "none", "--train.epochs", epochs, "--mask-kind", "exact")
    net += ("--train.device", "cpu" if call.dry else "gpu")
    net += ("--options.backbone", "resnet18", "--train.crop", "64", "--train.resize", "72") if call.dry else ()
    commands = {
        "synth": ("--out", leaves, "--size", size, *(TINY_LEAVES if call.dry else LEAVES)),
        "ingest": ("--source", leaves, "--data", data, "--name", "cotton"),
        "mask": ("--data", data, "--source", leaves, "--mask-kind", "exact", *off),
        "train": ("--data", data, "--method", "mask_guided", *net, *off),
        "evaluate": ("--data", data, "--model", MODEL, *off),
    }
    started, deadline = time.monotonic(), call.until(limit)
    seconds: dict[str, float] = {}
    state: State = "ok"
    tail: tuple[str, ...] = ()
    for name, flags in commands.items():
        model = next((str(path.parent) for path in folder.rglob("model.json")), MODEL)
        flags = tuple(model if flag == MODEL else flag for flag in flags)
        outcome = call.run(name, ("-m", "ufgvc.cli", name, *flags), deadline - time.monotonic())
        seconds[name] = round(outcome.seconds, 1)
        shutil.rmtree(
            folder / "leaves" / "labels", ignore_errors=True
        )  # boxes are read by a package that the host lacks
        if outcome.state != "ok":
            state, tail = outcome.state, outcome.tail
            break
    rows = [json.loads(line) for path in folder.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    steady = [row["images_per_second"] for row in rows if "images_per_second" in row][1:]
    rate = sorted(steady)[len(steady) // 2] if steady else None
    report = {"state": state, "seconds": seconds, "epochs": len(rows), "images_per_second": rate}
    write_json(call.out / "experiment.json", report)
    headline = [f"{name}: {spent} s" for name, spent in seconds.items()]
    headline.append(f"{len(rows)} epochs, median {rate:.0f} images/s" if rate else f"{len(rows)} epochs")
    return Part("experiment", state, time.monotonic() - started, headline, tail)
