"""The files of a prediction."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ufgvc.core.storage import Store, join
from ufgvc.core.text import plural
from ufgvc.evaluation.explanation import explain
from ufgvc.evaluation.settings import PredictResult, PredictSettings
from ufgvc.models.model import LoadedModel

log = logging.getLogger(__name__)

MAX_LISTED = 10  # photographs whose answers are printed
CSV, JSON, REJECTED, PARQUET = "predictions.csv", "predictions.json", "rejected.csv", "predictions"


class PredictionWriter:
    """Writes the files of a prediction row by row: CSV and JSON through temporary files, Parquet in parts."""

    def __init__(self, store: Store, model: LoadedModel, settings: PredictSettings) -> None:
        self.store, self.model = store, model
        self.limit, self.top = settings.rows_per_file, min(settings.top, len(model.classes))
        self.calibrated, self.has_threshold = model.calibration is not None, model.subspace is not None
        self.unknown, self.unknown_name = 0, model.unknown_name
        self.rows: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.parts: list[str] = []
        self.counts = {CSV: 0, REJECTED: 0}

    def __enter__(self) -> PredictionWriter:
        self.folder = tempfile.TemporaryDirectory(prefix="ufgvc-predict-")
        self.files = {
            name: (Path(self.folder.name) / name).open("w", newline="", encoding="utf-8")
            for name in (*self.counts, JSON)
        }
        self.writers = {name: csv.writer(self.files[name]) for name in self.counts}
        self.columns = ["path", "cultivar", "probability", "known"]
        self.columns += [f"top{i}_{what}" for i in range(1, self.top + 1) for what in ("cultivar", "probability")]
        self.writers[CSV].writerow(self.columns)
        self.writers[REJECTED].writerow(["path", "reason"])
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()
        self.folder.cleanup()

    def add(self, row: dict[str, Any]) -> None:
        """Adds a photograph: {path, reason} and what `explain` takes."""
        if row["reason"]:
            self.reject(row["path"], row["reason"])
            return
        self.files[JSON].write(",\n" if self.counts[CSV] else "[\n")  # one photograph a line
        self.files[JSON].write(json.dumps(explain(row, self.model), ensure_ascii=False))  # dump is written in Python
        self.counts[CSV] += 1
        pairs = list(zip(row["names"], row["probabilities"], strict=True))
        flat = [cell for name, probability in pairs for cell in (name, f"{probability:.6f}")]
        known = row["known"]
        self.unknown += not known
        cultivar = pairs[0][0] if known else self.unknown_name
        if len(self.answers) <= MAX_LISTED:
            self.answers.append(_answer(row["path"], cultivar, pairs))
        self.writers[CSV].writerow([row["path"], cultivar, f"{pairs[0][1]:.6f}", "true" if known else "false", *flat])
        cells = [row["path"], cultivar, pairs[0][1], known, *(cell for pair in pairs for cell in pair)]
        self.rows.append(dict(zip(self.columns, cells, strict=True)))
        if len(self.rows) >= self.limit:
            self._write_part()

    def reject(self, path: str, reason: str) -> None:
        """Adds a file without a prediction."""
        self.counts[REJECTED] += 1
        self.writers[REJECTED].writerow([path, reason])

    def finish(self, expected: int) -> PredictResult:
        """Writes the remaining rows and the CSV files. RuntimeError unless there are `expected` files in all."""
        if sum(self.counts.values()) != expected:
            raise RuntimeError(f"{sum(self.counts.values())} of {expected} photographs came back from the workers")
        if self.rows:
            self._write_part()
        self.files[JSON].write("\n]\n" if self.counts[CSV] else "[]\n")
        stale = set(self.store.list(PARQUET)) - set(self.parts)
        for name, file in self.files.items():
            file.flush()
            with Path(file.name).open("rb") as source, self.store.writer(name) as target:
                while chunk := source.read(1 << 22):
                    target.write(chunk)
        self.store.delete(*sorted(stale))
        if self.counts[REJECTED]:
            count = plural(self.counts[REJECTED], "file")
            log.warning("without a prediction: %s; see %s", count, join(self.store.uri, REJECTED))
        parquet = tuple(join(self.store.uri, name) for name in self.parts)
        return PredictResult(
            predicted=self.counts[CSV],
            rejected=self.counts[REJECTED],
            csv=join(self.store.uri, CSV),
            json=join(self.store.uri, JSON),
            rejected_csv=join(self.store.uri, REJECTED),
            parquet=parquet,
            unknown=self.unknown,
            calibrated=self.calibrated,
            has_threshold=self.has_threshold,
            answers=tuple(self.answers) if len(self.answers) <= MAX_LISTED else (),
        )

    def _write_part(self) -> None:
        name = f"{PARQUET}/part-{len(self.parts):05d}.parquet"
        with self.store.writer(name) as file:
            pq.write_table(pa.Table.from_pylist(self.rows), file, compression="zstd")
        self.parts.append(name)
        self.rows = []


def _answer(path: str, cultivar: str, pairs: Sequence[tuple[str, float]]) -> str:
    """ "leaf.jpg: Cotton-4 (81.0 %; next Cotton-3, 7.2 %)"."""
    candidates = [f"{100 * pairs[0][1]:.1f} %", *(f"next {name}, {100 * share:.1f} %" for name, share in pairs[1:2])]
    if cultivar != pairs[0][0]:
        candidates[0] = f"{pairs[0][0]}, {candidates[0]}"
    return f"{path}: {cultivar} ({'; '.join(candidates)})"
