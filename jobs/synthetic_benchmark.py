"""A benchmark on synthetic leaves, from initial weights to tables.

    python -m jobs.synthetic_benchmark --config jobs/configs/benchmark-small.yaml --folder FOLDER \
        [--seeds 211 212] [-- flags of benchmark]

For each seed a data set with other cultivars is made, with masks that a detector finds and with exact ones. Every step
uses what an earlier call finished, so the same command continues after a kill.
"""

import argparse
import sys
from pathlib import Path

from ufgvc.cli import main

PRETRAIN_SEED = 901  # of the leaves for initial weights; no data set of the benchmark has their shapes


class Failed(Exception):
    """A command ended with this exit code."""


def run(*command: str) -> None:
    """Runs a command of `ufgvc`. Failed with its exit code if that is not 0."""
    print(f"\n== ufgvc {' '.join(command)}", flush=True)
    if code := main([*command]):
        raise Failed(code)


def make_init(config: str, folder: Path) -> str:
    """Trains initial weights for every architecture; returns what --init takes."""
    leaves, data, runs = folder / "leaves-pretrain", folder / "data-pretrain", folder / "runs"
    run("synth", "--config", config, "--seed", str(PRETRAIN_SEED), "--out", str(leaves))
    run("ingest", "--source", str(leaves), "--data", str(data), "--name", "pretrain")
    run("pretrain", "--config", config, "--data", str(data), "--runs", str(runs))
    return f"{runs.resolve()}/pretrained/pretrain/{{backbone}}.safetensors"


def make_dataset(config: str, folder: Path, seed: int, detector: Path | None) -> tuple[str, Path]:
    """A data set with the masks that a detector finds and the exact ones.

    detector: None trains one on this data set.  Returns the data set's folder and the detector's.
    """
    name = f"{Path(config).stem}-{seed}"
    leaves, data, runs = folder / f"leaves-{seed}", folder / f"data-{seed}", folder / "runs"
    places = ["--config", config, "--data", str(data), "--runs", str(runs)]
    run("synth", "--config", config, "--seed", str(seed), "--out", str(leaves))
    run("ingest", "--source", str(leaves), "--data", str(data), "--name", name)
    if detector is None:
        run("detect", *places)
        detector = max(runs.glob(f"{name}/regions/*/model"), key=lambda path: path.stat().st_mtime)
    run("mask", *places, "--detector", str(detector))
    run("mask", *places, "--mask-kind", "exact", "--source", str(leaves))
    return str(data), detector


def benchmark(arguments: list[str]) -> int:
    """Runs everything that is missing and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.synthetic_benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML with the sections synth, detect and benchmark")
    parser.add_argument(
        "--pretrain", default="jobs/configs/pretrain-small.yaml", help="YAML with the sections synth and pretrain"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where all data and results are stored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[211, 212], help="one data set for each")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parser.parse_args(arguments[:split])
    try:
        init = make_init(flags.pretrain, flags.folder)
        data, detector = [], None
        for seed in flags.seeds:
            uri, detector = make_dataset(flags.config, flags.folder, seed, detector)
            data.append(uri)
        places = ["--data", *data, "--runs", str(flags.folder / "runs"), "--init", init]
        run("benchmark", "--config", flags.config, *places, *arguments[split + 1 :])
    except Failed as failed:
        return int(failed.args[0])
    return 0


if __name__ == "__main__":
    raise SystemExit(benchmark(sys.argv[1:]))
