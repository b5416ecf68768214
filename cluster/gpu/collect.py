"""Collects the results of benchmarks, finished or not: a row for each training, and the tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.gpu.paths import read_json


def collect_trainings(runs: Path) -> list[dict[str, Any]]:
    """A row for each training below <runs>/<data set>/<method>/<key>: its result, its failure, or its last epoch.

    Of trainings of the same row and seed with other settings, the one that was started last.
    """
    found: dict[Any, dict[str, Any]] = {}
    for path in sorted(runs.glob("*/*/*/job.json"), key=lambda path: path.stat().st_mtime):
        job = read_json(path)
        if not isinstance(job, dict):
            continue
        row: dict[str, Any] = {"data": job["data"], "row": job["variant"], "seed": job["seed"]}
        row |= {key: job[key] for key in ("fold", "folds") if key in job}
        result, failure = read_json(path.with_name("result.json")), read_json(path.with_name("failed.json"))
        epochs = history(path.with_name("metrics.jsonl"))
        if result:
            row |= {"state": "done", **{key: result[key] for key in ("correct", "leaves") if key in result}}
            row |= {key: result[key] for key in ("images_per_second", "seconds", "train_accuracy", "machine")}
        elif failure:
            row |= {
                "state": "failed",
                "reason": failure["reason"],
                "traceback": failure.get("traceback", "").splitlines()[-8:],
            }
        else:
            row |= {"state": "not finished"}
        row["epochs"] = len(epochs)
        if epochs and not result:
            row["images_per_second"] = statistics.median(each["images_per_second"] for each in epochs)
            row["seconds"] = sum(each["seconds"] for each in epochs)
            row["train_accuracy"] = epochs[-1]["train_accuracy"]
        if epochs:
            row["data_wait"] = round(statistics.median(each.get("data_wait", 0.0) for each in epochs), 4)
        found[job["data"], job["variant"], job["seed"], job["purpose"], job["lr_factor"], job.get("fold")] = row
    return sorted(found.values(), key=lambda row: (row["data"], row["row"], row["seed"], row.get("fold", 0)))


def history(path: Path) -> list[dict[str, float]]:
    """The epochs that a training recorded; the last line may be incomplete."""
    rows: list[dict[str, float]] = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def reports(runs: Path) -> dict[str, str]:
    """The tables that a finished benchmark wrote, as text by file name."""
    paths = [*runs.glob("*/benchmark/*/table-*.md"), *runs.glob("*/benchmark/*/benchmark.csv")]
    return {path.name: path.read_text() for path in sorted(paths)}


def by_row(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each data set and row of the tables, with the results of all seeds; in cross-validation a seed
    counts when all its folds are done.
    """
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in found:
        grouped.setdefault((cell["data"], cell["row"]), []).append(cell)
    lines = []
    for (data, row), several in grouped.items():
        done = [cell for cell in several if cell["state"] == "done"]
        scored = sum_folds(cell for cell in done if "correct" in cell)
        speeds = [cell["images_per_second"] for cell in several if "images_per_second" in cell]
        lines.append(
            {
                "data": data,
                "row": row,
                "correct": [correct for correct, _ in scored],
                "leaves": scored[0][1] if scored else None,
                "done": len(done),
                "started": len(several),
                "images_per_second": statistics.median(speeds) if speeds else None,
                "seconds": statistics.median([cell["seconds"] for cell in several if "seconds" in cell] or [0.0]),
                "problem": next((str(cell["reason"]) for cell in several if "reason" in cell), ""),
            }
        )
    return lines


def sum_folds(cells: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """(correct leaves, leaves) of each seed, in order; a seed that lacks a fold is left out."""
    of_seed: dict[int, list[Mapping[str, Any]]] = {}
    for cell in cells:
        of_seed.setdefault(cell["seed"], []).append(cell)
    whole = [folds for _, folds in sorted(of_seed.items()) if len(folds) == folds[0].get("folds", 1)]
    return [(sum(cell["correct"] for cell in folds), sum(cell["leaves"] for cell in folds)) for folds in whole]


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines as a Markdown table."""
    head = ["data", "row", "correct, by seed", "of", "mean", "done", "images/s", "seconds"]
    text = [" | ".join(head), " | ".join("---" for _ in head)]
    for line in lines:
        correct = ", ".join(map(str, line["correct"])) or "-"
        mean = f"{100 * statistics.mean(line['correct']) / line['leaves']:.1f} %" if line["correct"] else "-"
        speed = f"{line['images_per_second']:.0f}" if line["images_per_second"] else "-"
        done = f"{line['done']} of {line['started']}" + (f": {line['problem'][:60]}" if line["problem"] else "")
        cells = [line["data"], line["row"], correct, str(line["leaves"] or "-"), mean, done, speed]
        text.append(" | ".join([*cells, f"{line['seconds']:.0f}"]))
    return [f"| {each} |" for each in text]
