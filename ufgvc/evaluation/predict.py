"""Names cultivars on any number of photographs: a pool of model actors, constant memory, bad photographs listed."""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ufgvc.core.errors import UnreadableFile, UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.file_types import HEAD_BYTES, READABLE_TYPES, detect_file_type, explain_unreadable
from ufgvc.data.images import BadImage, decode, inspect
from ufgvc.data.readers.places import split_place
from ufgvc.data.readers.scan import Rejected, find_photographs, scan
from ufgvc.evaluation.predict_settings import PredictResult, PredictSettings
from ufgvc.models.calibration import softmax
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.models.onnx import has_gpu_provider
from ufgvc.runtime.resources import actor_pool
from ufgvc.runtime.session import ray_session
from ufgvc.runtime.tasks import configure_ray_data, run_tasks
from ufgvc.tracking.context import Context
from ufgvc.training.memory import memory_for_scores

log = logging.getLogger(__name__)

CSV, REJECTED, PARQUET = "predictions.csv", "rejected.csv", "predictions"


def predict(
    source: str,
    model: str,
    out: str,
    settings: PredictSettings | None = None,
    context: Context = Context(),
) -> PredictResult:
    """Writes <out>/predictions.csv, predictions/*.parquet and rejected.csv for every photograph below `source`.

    source: a folder, a bucket or one file.  model: models:/name@alias, runs:/<id>/model or a folder.  Paths in the output are
    relative to `source`. UserError if there is no photograph or no model; a photograph that cannot be read is listed, not fatal.
    """
    settings = settings or PredictSettings()
    target = open_store(out)
    store, names, left_out = photographs(source, without=target)
    if target.path == store.path and target.fs.equals(store.fs):
        raise UserError(
            "the predictions would be written among the photographs", where="--out", fix="give another folder"
        )
    loaded = run_by(settings.runtime, load_model(model, context), model)
    with ray_session(context.ray, settings.gpus_to_wait_for), Output(target, loaded, settings) as output:
        for bad in left_out:
            output.reject(bad.path, bad.reason)
        for batch in _predicted(store, names, loaded, settings):
            output.add(batch)
        return output.finish(len(names) + len(left_out))


def run_by(runtime: str, model: LoadedModel, uri: str) -> LoadedModel:
    """The model as torch or onnxruntime runs it; one that was not exported yet is exported for the purpose, and checked.

    runtime: auto is what the model's folder holds.  UserError for torch where the folder holds an exported model only.
    """
    if runtime == "torch" and model.exported:
        fix = "use `--runtime onnx`, or give the model that it was made from"
        raise UserError("is an exported model, which torch cannot run", where=uri, fix=fix)
    if runtime != "onnx" or model.exported:
        return model
    from ufgvc.models.model import export_to_onnx

    exported, parity = export_to_onnx(model)
    log.info("exported to ONNX for this prediction: %s", parity.summary())
    return exported


def photographs(source: str, without: Store | None = None) -> tuple[Store, list[str], list[Rejected]]:
    """The place, the names of its photographs, and what lies there and is none, with the reason: the list that `ingest` reads.

    without: a place below the source that does not count.  UserError if there is no photograph.
    """
    folder, file = split_place(source)
    store = open_store(folder)
    if file:
        head = _head_of(store, file) if store.is_file(file) else b""
        if not store.is_file(file):
            raise UserError("there is no such file or folder", where=source, fix="check --source")
        if detect_file_type(head) not in READABLE_TYPES:
            raise UserError(
                explain_unreadable(head), where=source, fix="give a photograph, or a folder or bucket of photographs"
            )
        return store, [file], []
    found = find_photographs(scan(store, without=without))
    others = [Rejected(path, "is not a photograph") for path in found.others]
    left_out = [*found.rejected, *found.left_out, *others]
    if not found.sizes:
        some = f"; {left_out[0].path} {left_out[0].reason}" if left_out else ""
        raise UserError(
            f"holds no photograph that can be read{some}", where=source, fix="give a folder or bucket of photographs"
        )
    return store, list(found.sizes), left_out


def _head_of(store: Store, name: str) -> bytes:
    with store.open_input(name) as file:
        return bytes(file.read(HEAD_BYTES))


class Predictor:
    """One actor: reads, decodes and names a batch of photographs; a failure of one photograph stays with that photograph."""

    def __init__(self, store: Store, model_ref: Any, top: int, device: str) -> None:
        import ray

        self.store, self.top = store, top
        self.model: LoadedModel = ray.get(model_ref).to(device)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """{"path": (B,)} -> path, reason ("" if it was read), known, top classes and probabilities as lists (empty if it was not)."""
        paths = [str(path) for path in batch["path"]]
        images: list[np.ndarray] = []
        reasons: list[str] = []
        for path in paths:
            image, reason = self._read(path)
            reasons.append(reason)
            if image is not None:
                images.append(image)
        with memory_for_scores(len(images), self.model.input, self.model.device):
            logits, ood_score = self.model.score(images, max(1, len(images)))
        order, chances = top_classes(logits, self.top, self.model.temperature)
        read = zip(order.tolist(), chances.tolist(), self.model.is_known(ood_score).tolist(), strict=True)
        rows = [([], [], False) if reason else next(read) for reason in reasons]
        classes, values, known = zip(*rows, strict=True)
        columns = {"path": paths, "reason": reasons, "known": known, "classes": classes, "probabilities": values}
        types = {"known": pa.bool_(), "classes": pa.list_(pa.int32()), "probabilities": pa.list_(pa.float64())}
        return pa.table({name: pa.array(value, types.get(name, pa.string())) for name, value in columns.items()})

    def _read(self, path: str) -> tuple[np.ndarray | None, str]:
        try:
            encoded = self.store.read_bytes(path)
            return self.model.resize(decode(encoded, inspect(encoded).orientation)), ""
        except BadImage as error:
            return None, error.reason
        except FileNotFoundError:
            return None, "is gone since the folder was listed"
        except UnreadableFile as error:
            return None, error.what


def top_classes(logits: np.ndarray, top: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Class indices and probabilities (B, top) from likely to unlikely; all of them if there are fewer."""
    chances = softmax(logits, temperature)
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(chances, order, axis=1)


def _predicted(
    store: Store, names: list[str], model: LoadedModel, settings: PredictSettings
) -> Iterator[dict[str, Any]]:
    import ray

    configure_ray_data()
    can_use_gpu = not model.exported or has_gpu_provider()
    if settings.device == "gpu" and not can_use_gpu:
        what = "the onnxruntime that is installed cannot use a GPU"
        raise UserError(what, where="--device gpu", fix="use `--device auto`, or install onnxruntime-gpu")
    batches = -(-len(names) // settings.batch_size)
    pool = actor_pool(settings, batches, can_use_gpu=can_use_gpu)
    rows = ray.data.from_arrow(pa.table({"path": names})).repartition(min(batches, 4 * pool.max_actors))
    named = rows.map_batches(
        Predictor,
        fn_constructor_args=(store, ray.put(model.to("cpu")), settings.top, pool.device),
        batch_size=settings.batch_size,
        **pool.options,
    )
    classes = model.classes
    for batch in run_tasks(named.iter_batches(batch_size=None, batch_format="pyarrow")):
        for row in cast(pa.Table, batch).to_pylist():
            row["names"] = [classes[i] for i in row.pop("classes")]
            yield row


class Output:
    """The files of a prediction, written as rows come: CSV and rejected.csv through a temporary file, Parquet in parts."""

    def __init__(self, store: Store, model: LoadedModel, settings: PredictSettings) -> None:
        self.store, self.limit, self.top = store, settings.rows_per_file, min(settings.top, len(model.classes))
        self.calibrated, self.tells_unknown = model.calibration is not None, model.subspace is not None
        self.tell_unknown, self.unknown, self.unknown_name = settings.unknown, 0, model.unknown_name
        self.rows: list[dict[str, Any]] = []
        self.parts: list[str] = []
        self.counts = {CSV: 0, REJECTED: 0}

    def __enter__(self) -> Output:
        self.folder = tempfile.TemporaryDirectory(prefix="ufgvc-predict-")
        self.files = {
            name: (Path(self.folder.name) / name).open("w", newline="", encoding="utf-8") for name in self.counts
        }
        self.writers = {name: csv.writer(file) for name, file in self.files.items()}
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
        """One photograph: path, reason, known, names, probabilities."""
        if row["reason"]:
            self.reject(row["path"], row["reason"])
            return
        self.counts[CSV] += 1
        pairs = list(zip(row["names"], row["probabilities"], strict=True))
        flat = [cell for name, chance in pairs for cell in (name, f"{chance:.6f}")]
        known = row["known"] or not self.tell_unknown
        self.unknown += not known
        cultivar = pairs[0][0] if known else self.unknown_name
        self.writers[CSV].writerow([row["path"], cultivar, f"{pairs[0][1]:.6f}", "true" if known else "false", *flat])
        cells = [row["path"], cultivar, pairs[0][1], known, *(cell for pair in pairs for cell in pair)]
        self.rows.append(dict(zip(self.columns, cells, strict=True)))
        if len(self.rows) >= self.limit:
            self._write_part()

    def reject(self, path: str, reason: str) -> None:
        """One file that has no prediction."""
        self.counts[REJECTED] += 1
        self.writers[REJECTED].writerow([path, reason])

    def finish(self, expected: int) -> PredictResult:
        """Writes what is left; RuntimeError if a photograph is in neither list."""
        if sum(self.counts.values()) != expected:
            raise RuntimeError(f"{sum(self.counts.values())} of {expected} photographs came back from the workers")
        if self.rows:
            self._write_part()
        stale = set(self.store.list(PARQUET)) - set(self.parts)
        for name, file in self.files.items():
            file.flush()
            with Path(file.name).open("rb") as source, self.store.writer(name) as target:
                while chunk := source.read(1 << 22):
                    target.write(chunk)
        self.store.delete(*sorted(stale))
        if self.counts[REJECTED]:
            log.warning("%d files have no prediction: %s", self.counts[REJECTED], join(self.store.uri, REJECTED))
        parquet = tuple(join(self.store.uri, name) for name in self.parts)
        return PredictResult(
            predicted=self.counts[CSV],
            rejected=self.counts[REJECTED],
            csv=join(self.store.uri, CSV),
            rejected_csv=join(self.store.uri, REJECTED),
            parquet=parquet,
            unknown=self.unknown,
            calibrated=self.calibrated,
            tells_unknown=self.tells_unknown,
        )

    def _write_part(self) -> None:
        name = f"{PARQUET}/part-{len(self.parts):05d}.parquet"
        with self.store.writer(name) as file:
            pq.write_table(pa.Table.from_pylist(self.rows), file, compression="zstd")
        self.parts.append(name)
        self.rows = []
