"""Three short trainings on the data set in `leaves/`: every number that they give, and a digest of their weights.

    python -m tests.golden.trainings        # prints what differs from golden.json
    python -m tests.golden.trainings --write

`leaves/` was made by

    ufgvc synth --out leaves --cultivars 3 --train-per-cultivar 6 --test-per-cultivar 2 --size 96 --seed 11
    ufgvc ingest --source leaves --data data --name golden
    ufgvc mask --data data --mask-kind exact --source leaves

The numbers are the same for any number of threads and for AVX2 in place of AVX512, within TOLERANCE; the digests are
not.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset, read_manifest
from ufgvc.experiments.training_job import score_test
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings

HERE = Path(__file__).parent
LEAVES, GOLDEN = HERE / "leaves", HERE / "golden.json"
# Without BatchNorm, rounding stays as small as it is; of the nets with it, most make 1 % of 1e-7 within three epochs of
# batches of six.
METHODS = {"resnet50": "mobilenet_v3_small", "mask_guided": "squeezenet1_1", "dcl": "squeezenet1_1"}
TIMES = frozenset(("seconds", "images_per_second", "data_wait"))  # the clock's, and never the same twice
TOLERANCE = 1e-5  # relative; numbers near 0 are compared to the same absolute difference


def machine() -> dict[str, str]:
    """On what the weights depend to the last bit."""
    info = Path("/proc/cpuinfo")
    models = (
        {line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")}
        if info.exists()
        else ()
    )
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "model": ", ".join(sorted(models)) or platform.machine(),
    }


def train(name: str, runs: Path, cores: int = 1) -> dict[str, Any]:
    """Metrics of every epoch, logits of the test images, norm and SHA-256 of the last weights (as one vector)."""
    dataset = open_dataset(str(LEAVES))
    method = build(name, len(dataset.classes), init="none", backbone=METHODS[name])
    settings = TrainSettings(
        init="none",
        mask_kind="exact",
        epochs=3,
        batch_size=6,
        resize=72,
        crop=64,
        validation="holdout",
        device="cpu",
        precision="fp32",
        cache="host",
    )
    masks = read_manifest(dataset, "masks/exact").fingerprint if method.regions else None
    config, _ = make_worker_config(dataset, method, settings, seed=5, masks=masks, runs=str(runs))
    config = replace(config, cores=cores)
    threads = torch.get_num_threads()
    try:
        state = train_in_process(config, torch.device("cpu"))
        method.net.load_state_dict(state["net"])
        scored = replace(method, recipe=Recipe.model_validate(config.recipe))
        logits, labels, image_ids = score_test(scored, dataset, config, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    rows = read_metrics(open_store(config.run))
    return {
        "epochs": [{key: value for key, value in row.items() if key not in TIMES} for row in rows],
        "test": {"leaves": image_ids, "labels": labels.tolist(), "logits": logits.tolist()},
        "length": math.sqrt(sum(float(tensor.double().square().sum()) for tensor in state["net"].values())),
        "weights": digest(state["net"]),
    }


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of all tensors."""
    seen = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.detach().contiguous().numpy().tobytes())
    return seen.hexdigest()


def differences(now: Any, golden: Any, where: str = "") -> Iterator[str]:
    """What differs, each with its place; numbers by more than TOLERANCE. Digests of weights are not compared."""
    if isinstance(golden, dict) and isinstance(now, dict):
        for key in sorted(golden.keys() | now.keys()):
            if key != "weights":
                yield from differences(now.get(key, "(missing)"), golden.get(key, "(missing)"), f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for place, (one, other) in enumerate(zip(now, golden, strict=True)):
            yield from differences(one, other, f"{where}[{place}]")
    elif isinstance(golden, float) and isinstance(now, float):
        if not math.isclose(now, golden, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{where}: {now!r} is not {golden!r}"
    elif now != golden:
        yield f"{where}: {now!r} is not {golden!r}"


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, ray_session(RaySettings(cpus=1)):
        found: dict[str, Any] = {name: train(name, Path(folder) / name) for name in METHODS}
    if "--write" in arguments:
        GOLDEN.write_text(json.dumps({"machine": machine(), "trainings": found}, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    lines = list(differences(found, golden["trainings"]))
    lines += [
        f".{name}.weights: other bits"
        for name in METHODS
        if found[name]["weights"] != golden["trainings"][name]["weights"]
    ]
    print("\n".join(lines) or "the same numbers and weights")


if __name__ == "__main__":
    main(sys.argv[1:])
