"""Every command through the real command line, in each of its documented forms, on one small drawn data set."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.command_line import QUICK_TRAINING, Ended, ufgvc
from tests.golden.trainings import HERE
from ufgvc.data.dataset import open_dataset, read_index, read_shard

ROOT = Path(__file__).parents[2]
TRAINING = (*QUICK_TRAINING, "--method", "mask_guided", "--mask-kind", "exact", "--train.batch-size", "6")
TRAINING += ("--train.resize", "40", "--train.crop", "32", "--train.cache", "host")
TRAINING += ("--options.backbone", "squeezenet1_1")  # it has few layers to export
MODEL, PHOTOGRAPHS = HERE / "model", HERE / "photographs"


def done(*arguments: object) -> Ended:
    ended = ufgvc(*arguments)
    assert ended.code == 0, f"ufgvc {' '.join(map(str, arguments))}\n{ended.text}"
    return ended


def boxes_in(data: Path) -> int:
    """How many photographs of a data set have boxes."""
    dataset = open_dataset(str(data))
    rows = [row for part in dataset.shards for row in read_shard(dataset, "regions/annotated", part).to_pylist()]
    return sum(row["boxes"] is not None for row in rows)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """leaves/ as `synth` draws it, and the same photographs in every other documented form."""
    work = tmp_path_factory.mktemp("work")
    settings = ("--cultivars", 3, "--train-per-cultivar", 4, "--test-per-cultivar", 2, "--size", 64, "--seed", 2)
    assert str(work / "leaves") in done("synth", "--out", work / "leaves", *settings).out
    rows = []
    for split in ("train", "test"):
        for path in sorted((work / "leaves" / "images").glob(f"*_{split}.jpg")):
            cultivar, number, _ = path.stem.split("_")
            for place in (f"folders/{split}/{cultivar}", f"unsplit/{cultivar}", f"table/{cultivar}"):
                (work / place).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, work / place)
            rows.append((f"{cultivar}/{path.name}", f"cultivar {cultivar}", split, f"plant {split} {number}"))
    with open(work / "table" / "leaves.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "cultivar", "split", "group"), *rows])
    shutil.copytree(work / "table", work / "parquet")
    table = pyarrow.csv.read_csv(work / "parquet" / "leaves.csv")
    pyarrow.parquet.write_table(table, work / "parquet" / "leaves.parquet")
    (work / "parquet" / "leaves.csv").unlink()
    write_boxes(work)
    return work


def write_boxes(work: Path) -> None:
    """Boxes of the training leaves: yolo/, voc/, coco/instances.json, and next-to/, photographs with boxes next to
    them.
    """
    photographs = sorted((work / "folders" / "train").rglob("*.jpg"))
    shutil.copytree(work / "folders", work / "next-to")
    for folder in ("yolo", "voc", "coco"):
        (work / folder).mkdir()
    (work / "yolo" / "classes.txt").write_text("vein\ncontour\n")
    (work / "next-to" / "classes.txt").write_text("vein\ncontour\n")
    coco: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "vein"}],
    }
    coco["categories"].append({"id": 2, "name": "contour"})
    for number, path in enumerate(photographs):
        text = "0 0.5 0.5 0.2 0.6\n1 0.5 0.5 0.8 0.9\n"
        (work / "yolo" / f"{path.stem}.txt").write_text(text)
        (work / "next-to" / path.relative_to(work / "folders")).with_suffix(".txt").write_text(text)
        objects = [("vein", 26, 13, 38, 51), ("contour", 6, 3, 58, 61)]
        xml = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
            for name, a, b, c, d in objects
        )
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        (work / "voc" / f"{path.stem}.xml").write_text(
            f"<annotation><filename>{path.name}</filename>{size}{xml}</annotation>"
        )
        coco["images"].append({"id": number, "file_name": path.name, "width": 64, "height": 64})
        for kind, (_, a, b, c, d) in enumerate(objects, start=1):
            place = {"id": 2 * number + kind, "image_id": number, "category_id": kind, "bbox": [a, b, c - a, d - b]}
            coco["annotations"].append(place)
    (work / "coco" / "instances.json").write_text(json.dumps(coco))


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    """Ingested in the released layout, with exact masks."""
    ended = done("ingest", "--source", work / "leaves", "--data", work / "data", "--name", "drawn")
    assert "drawn: 3 cultivars, 12 train, 6 test leaves" in ended.out
    assert (
        "every region on 18"
        in done("mask", "--data", work / "data", "--mask-kind", "exact", "--source", work / "leaves").out
    )
    return work / "data"


FORMS = {
    "released layout": ("leaves",),
    "folders": ("folders",),
    "folders with --split": ("unsplit", "--split", "0.5"),
    "folder with a CSV table": ("table",),
    "CSV table": ("table/leaves.csv",),
    "folder with a Parquet table": ("parquet",),
    "Parquet table": ("parquet/leaves.parquet",),
    "YOLO boxes": ("folders", "--boxes", "yolo"),
    "Pascal VOC boxes": ("folders", "--boxes", "voc"),
    "COCO boxes in a folder": ("folders", "--boxes", "coco"),
    "COCO boxes, the file": ("folders", "--boxes", "coco/instances.json"),
    "boxes next to the photographs": ("next-to",),
    "boxes next to the photographs, named": ("next-to", "--boxes", "next-to"),
}


@pytest.mark.parametrize("form", FORMS)
def test_ingest(form: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    ended = done("ingest", "--source", *FORMS[form], "--data", tmp_path / "data")
    dataset = open_dataset(str(tmp_path / "data"))
    assert len(dataset.classes) == 3
    assert sum(dataset.counts.values()) == 18
    assert boxes_in(tmp_path / "data") == (18 if form == "released layout" else 12 if "boxes" in form else 0), (
        ended.text
    )
    if "table" in form.lower():
        assert dataset.classes == ("cultivar 1", "cultivar 2", "cultivar 3")
        assert set(read_index(dataset)["group"].to_pylist()) >= {"plant train 1", "plant test 2"}
    again = done("ingest", "--source", *FORMS[form], "--data", tmp_path / "data")
    assert again.out == f"{ended.out}nothing in the source has changed since; --fresh reads it again\n"


class TestModels:
    """From a data set to predictions; each step takes what the one before left."""

    @pytest.fixture(scope="class")
    def runs(self, work: Path) -> Path:
        return work / "runs"

    @pytest.fixture(scope="class")
    def model(self, data: Path, runs: Path) -> str:
        ended = done("train", "--data", data, "--runs", runs, *TRAINING)
        model = ended.out.strip().rpartition("model ")[2]
        assert Path(model, "model.json").is_file()
        row = json.loads(Path(model).with_name("metrics.jsonl").read_text())
        assert row["loss_vein"] > 0
        assert row["loss_contour"] > 0
        again = done("train", "--data", data, "--runs", runs, *TRAINING)
        # The last line: a busy Ray writes warnings of its own.
        assert again.out.splitlines()[-1] == ended.out.splitlines()[-1]
        return model

    @pytest.fixture(scope="class")
    def challenger(self, data: Path, runs: Path, model: str) -> str:
        folds = ("--folds", 2, "--max-concurrent-trials", 1)
        assert "temperature" in done("calibrate", "--data", data, "--runs", runs, "--model", model, *folds).out
        ended = done("evaluate", "--data", data, "--runs", runs, "--model", model, "--compare", f"the same={model}")
        assert "of 6" in ended.out
        assert Path(ended.out.strip().rpartition("report: ")[2]).is_file()
        return "models:/ufgvc-drawn@challenger"

    def test_detect_and_its_masks(self, data: Path, work: Path) -> None:
        runs = work / "detectors"
        quick = ("--init", "none", "--num-annotated", 4, "--image-size", 64, "--epochs", 1, "--tracking.uri", "off")
        assert "mAP" in done("detect", "--data", data, "--runs", runs, *quick).out
        chosen = ("--mask-kind", "luminance", "--box-source", "annotated", "--max-actors", 1)
        assert "masks (luminance)" in done("mask", "--data", data, "--runs", runs, *chosen).out

    def test_promote_and_predict(self, data: Path, runs: Path, challenger: str, work: Path) -> None:
        ended = done("promote", "--data", data, "--runs", runs)
        assert "champion" in ended.out
        model = "models:/ufgvc-drawn@champion"
        ended = done("predict", "--source", work / "unsplit", "--model", model, "--runs", runs, "--out", work / "named")
        assert "18 photographs predicted" in ended.out
        with open(work / "named" / "predictions.csv", encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) == 18
        assert done("promote", "--data", data, "--runs", runs, "--model", challenger).out

    def test_sync(self, runs: Path, challenger: str) -> None:
        ended = ufgvc("sync", "--runs", runs)
        assert (ended.code, "Traceback" in ended.text) in ((0, False), (2, False)), ended.text

    def test_results_as_json(self, runs: Path, challenger: str, model: str, data: Path, work: Path) -> None:
        """The only line on standard output, whatever libraries print; what was done already is found."""
        places = ("--data", data, "--runs", runs)
        leaves, new = work / "leaves", ("--source", PHOTOGRAPHS, "--model", model, "--out", work / "json")
        drawn = ("--cultivars", 3, "--train-per-cultivar", 4, "--test-per-cultivar", 2, "--size", 64, "--seed", 2)
        results = {
            name: json.loads(done(name, *flags, "--json").out)
            for name, flags in {
                "synth": ("--out", leaves, *drawn),
                "ingest": ("--source", leaves, "--data", data, "--name", "drawn"),
                "mask": (*places, "--mask-kind", "exact", "--source", leaves),
                "train": (*places, *TRAINING),
                "evaluate": (*places, "--model", model),
                "promote": places,
                "predict": (*new, "--runs", runs),
                "status": places,
            }.items()
        }
        assert results["synth"] == {"folder": str(leaves)}
        assert (results["ingest"]["counts"], results["ingest"]["found"]) == ({"train": 12, "test": 6}, True)
        assert (results["mask"]["complete"], results["mask"]["n"]) == (18, 18)
        assert [run["model"] for run in results["train"]["runs"]] == [model]
        assert results["evaluate"]["metrics"]["models"]["this model"]["accuracy"]["n"] == 6
        assert results["promote"]["promotion"]["champion"] == results["evaluate"]["version"]
        assert results["predict"]["predicted"] == 3
        assert results["status"]["registry"]["champion"] == results["evaluate"]["version"]
        assert "predict --source" in results["status"]["next"]["command"]

    def test_export(self, model: str, runs: Path, work: Path) -> None:
        done("export", "--model", model, "--runs", runs, "--out", work / "onnx")
        places = ("--source", PHOTOGRAPHS, "--model", work / "onnx", "--out", work / "by-onnx")
        ended = done("predict", *places, "--tracking.uri", "off")
        assert "3 photographs predicted" in ended.out
        ended = ufgvc("predict", *places, "--tracking.uri", "off", "--runtime", "torch")
        assert ended.code == 2
        assert "exported model, which torch cannot run" in ended.err

    def test_pipeline(self, work: Path, data: Path, runs: Path, model: str) -> None:
        """All steps in one; what the single commands did is found."""
        places = ("--source", work / "leaves", "--data", data, "--name", "drawn", "--runs", runs)
        ended = done("pipeline", *places, *TRAINING)
        assert "== ingest (found, not done again)" in ended.out
        assert "== train (found, not done again)" in ended.out
        assert "== evaluate" in ended.out
        assert "== detect" not in ended.out, "exact masks need no detector"
        assert "masks (exact) of 18 leaves, every region on 18" in ended.out


# test_calibrate_predict.py exports for a prediction too, and test_export above by the command line.
@pytest.mark.parametrize("runtime", ["auto", pytest.param("onnx", marks=pytest.mark.slow)])
def test_predict_with_the_saved_model(runtime: str, tmp_path: Path, ray_local: None) -> None:
    ended = done(
        "predict",
        "--source",
        PHOTOGRAPHS,
        "--model",
        MODEL,
        "--out",
        tmp_path,
        "--runtime",
        runtime,
        "--tracking.uri",
        "off",
    )
    assert "3 photographs predicted, 1 of them unknown (`known` is false)" in ended.out


def test_predict_takes_one_photograph(tmp_path: Path, ray_local: None) -> None:
    ended = done(
        "predict", "--source", PHOTOGRAPHS / "leaf-1.png", "--model", MODEL, "--out", tmp_path, "--tracking.uri", "off"
    )
    assert "1 photograph predicted" in ended.out


def test_commands_in_processes_of_their_own(tmp_path: Path) -> None:
    """`ufgvc`, `python -m ufgvc` and `python -m jobs.<command>` are the same."""
    program = Path(sys.executable).with_name("ufgvc")
    settings = ["--cultivars", "2", "--train-per-cultivar", "1", "--test-per-cultivar", "1", "--size", "64"]
    starts = {"script": [str(program), "synth"], "module": [sys.executable, "-m", "ufgvc", "synth"]}
    starts["job"] = [sys.executable, "-m", "jobs.synth"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = []
    for name, start in starts.items():
        if name == "script" and not program.is_file():
            continue
        command = [*start, "--out", str(tmp_path / name), *settings]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
        found.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.jpg"))])
    assert found[0]
    assert all(each == found[0] for each in found)
