"""A benchmark on synthetic leaves from nothing: first weights, draws of cultivars with found and exact masks, then all trainings.

`python -m jobs.draws --config jobs/configs/benchmark-small.yaml --folder FOLDER [--seeds 211 212] [-- flags of benchmark]`
Every step finds what it finished before, so the same command goes on.
"""

import argparse
import sys
from pathlib import Path

from ufgvc.cli import main

PRETRAIN_SEED = 901  # of leaves of another family than any draw's


class Failed(Exception):
    """A step ended with an exit code."""


def run(*command: str) -> None:
    print(f"\n== ufgvc {' '.join(command)}", flush=True)
    if code := main(list(command)):
        raise Failed(code)


def first_weights(config: str, folder: Path) -> str:
    """Trains a trunk for every architecture; returns what --init takes."""
    leaves, data, runs = folder / "leaves-pretrain", folder / "data-pretrain", folder / "runs"
    run("synth", "--config", config, "--seed", str(PRETRAIN_SEED), "--out", str(leaves))
    run("ingest", "--source", str(leaves), "--data", str(data), "--name", "pretrain")
    run("pretrain", "--config", config, "--data", str(data), "--runs", str(runs))
    return f"{runs.resolve()}/pretrained/pretrain/{{backbone}}.safetensors"


def draw(config: str, folder: Path, seed: int, detector: Path | None) -> tuple[str, Path]:
    """One data set with the masks that a detector finds and the exact ones; returns it and the detector, trained on the first draw."""
    name = f"{Path(config).stem}-{seed}"
    leaves, data, runs = folder / f"leaves-{seed}", folder / f"data-{seed}", folder / "runs"
    places = ["--config", config, "--data", str(data), "--runs", str(runs)]
    run("synth", "--config", config, "--seed", str(seed), "--out", str(leaves))
    run("ingest", "--source", str(leaves), "--data", str(data), "--name", name)
    if detector is None:
        run("detect", *places)
        detector = max(runs.glob(f"{name}/regions/*/model"), key=lambda path: path.stat().st_mtime)
    run("mask", *places, "--model", str(detector))
    run("mask", *places, "--kind", "exact", "--source", str(leaves))
    return str(data), detector


def benchmark(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jobs.draws", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML with the sections synth, detect, mask and benchmark")
    parser.add_argument(
        "--pretrain", default="jobs/configs/pretrain-small.yaml", help="YAML with the sections synth and pretrain"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[211, 212], help="one draw of cultivars each")
    own, more = (
        (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
        if "--" in arguments
        else (arguments, [])
    )
    told = parser.parse_args(own)
    try:
        init = first_weights(told.pretrain, told.folder)
        data, detector = [], None
        for seed in told.seeds:
            made, detector = draw(told.config, told.folder, seed, detector)
            data.append(made)
        run(
            "benchmark",
            "--config",
            told.config,
            "--data",
            *data,
            "--runs",
            str(told.folder / "runs"),
            "--init",
            init,
            *more,
        )
    except Failed as failed:
        return int(failed.args[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(benchmark(sys.argv[1:]))
