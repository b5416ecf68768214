"""Names that people and systems give to files, folders and cultivars: everything that reads or writes takes them as
they are.
"""

from __future__ import annotations

import csv
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from tests.command_line import QUICK_TRAINING, Ended, ufgvc
from tests.factories import encoded
from tests.golden.trainings import HERE
from ufgvc.data.dataset import open_dataset, read_index

NAMES = {
    "blanks": "two  blanks and one behind ",
    "quotes": 'it\'s "so" `called`',
    "percent": "100 %41 %s {x}",
    "hash": "#1 #2",
    "dollars": "$x^$",
    "umlauts": "Grüner Veltliner",
    "umlauts apart": unicodedata.normalize("NFD", "Rübe"),
    "other scripts": "中黄13 Бианка 🍃",
    "markup": "<b>bold & co",
    "dash": "-rf --help",
    "long": "x" * 180,
    "comma": "a, b; c\ttab",
    "backslash": "C:\\leaves",
    "colon": "s3:leaf",
    "dots": "a..b..",
}
FOLDERS = ("blanks", "quotes", "percent", "hash", "dollars", "umlauts", "umlauts apart", "backslash", "dash")
ALL = " ".join(NAMES[name] for name in reversed(FOLDERS))  # begins with the dash, ends with a blank
SIZES = ("--train.batch-size", "6", "--train.resize", "40", "--train.crop", "32", "--train.cache", "host")
OFF = ("--tracking.uri", "off")


def put(path: Path, seed: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(str(seed), "PNG"))


def answered(ended: Ended) -> Ended:
    """One message, or success."""
    assert ended.code in (0, 2), ended.text
    assert "Traceback" not in ended.text
    return ended


def listed(folder: Path, name: str = "predictions.csv") -> list[str]:
    with open(folder / name, encoding="utf-8", newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A cultivar of each name, with a photograph of that name."""
    root = tmp_path_factory.mktemp("names") / "source"
    for split in ("train", "test"):
        for name in NAMES.values():
            put(root / split / name / f"{split} {name}.png", (split, name))
    return root


@pytest.fixture(scope="module")
def data(source: Path) -> Path:
    data = source.parent / "data"
    ended = ufgvc("ingest", "--source", source, "--data", data, "--name", "odd")
    assert ended.code == 0, ended.text
    return data


def test_cultivars_and_photographs_keep_their_names(data: Path) -> None:
    dataset = open_dataset(str(data))
    assert set(dataset.classes) == {" ".join(unicodedata.normalize("NFC", name).split()) for name in NAMES.values()}
    rows = read_index(dataset)["image_id"].to_pylist()
    assert len(set(rows)) == 2 * len(NAMES)


def test_every_photograph_is_named_or_listed(source: Path, tmp_path: Path) -> None:
    ended = ufgvc("predict", "--source", source, "--model", HERE / "model", "--out", tmp_path / "out", *OFF)
    assert ended.code == 0, ended.text
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*.png")}
    assert set(listed(tmp_path / "out")) == wanted


@pytest.mark.parametrize("name", ["all of them", *(pytest.param(each, marks=pytest.mark.slow) for each in FOLDERS)])
def test_folders_of_such_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_local: None) -> None:
    """--source, --data, --model and --out, as paths from here and from the root."""
    monkeypatch.chdir(tmp_path)
    odd = NAMES.get(name, ALL)
    for split in ("train", "test"):
        for cultivar in "ab":
            put(Path(odd, split, cultivar, f"{split}.png"), (split, cultivar))
    shutil.copytree(HERE / "model", Path(f"model {odd}"))
    prefix = "./" if odd.startswith("-") else ""
    assert ufgvc("ingest", "--source", prefix + odd, "--data", tmp_path / f"data {odd}").code == 0
    assert open_dataset(str(tmp_path / f"data {odd}")).counts == {"train": 2, "test": 2}
    ended = ufgvc("predict", "--source", tmp_path / odd, "--model", f"model {odd}", "--out", f"out/{odd}", *OFF)
    assert ended.code == 0, ended.text
    assert len(listed(Path("out", odd))) == 4
    assert sorted(os.listdir(tmp_path)) == sorted([odd, f"model {odd}", f"data {odd}", "out"])


@pytest.mark.parametrize("name", ["100 %41", "a?b=c"])
def test_a_folder_in_which_mlflow_can_keep_no_database(name: str, tmp_path: Path, ray_local: None) -> None:
    ended = ufgvc("train", "--data", HERE / "leaves", "--runs", tmp_path / name, *QUICK_TRAINING, *SIZES)
    assert ended.code == 2
    assert "choose a folder without % and ?" in ended.err
    assert os.listdir(tmp_path) in ([], [name])  # nothing under another name


def test_runs_in_a_folder_of_such_a_name_and_cultivars_in_a_report(data: Path, tmp_path: Path) -> None:
    """MLflow's database, checkpoints, the cache and the report as well."""
    runs = tmp_path / "my runs, 100 #1 ü 'q' $HOME"
    ended = ufgvc("train", "--data", data, "--runs", runs, *QUICK_TRAINING, *SIZES)
    assert ended.code == 0, ended.text
    model = ended.out.strip().rpartition("model ")[2]
    assert Path(model, "model.json").is_file()
    assert sorted(os.listdir(tmp_path)) == [runs.name]
    ended = ufgvc("evaluate", "--data", data, "--runs", runs, "--model", model)
    assert ended.code == 0, ended.text
    page = Path(model).parent.joinpath("report", "report.html").read_text(encoding="utf-8")
    assert "<b>bold & co" not in page
    named = ("--model", "models:/ufgvc-odd@challenger", "--out", tmp_path / "o")
    ended = ufgvc("predict", "--source", HERE / "photographs", "--runs", runs, *named)
    assert ended.code == 0, ended.text


def test_links_that_loop_or_lead_nowhere(tmp_path: Path, ray_local: None) -> None:
    for split in ("train", "test"):
        for cultivar in "ab":
            put(tmp_path / "source" / split / cultivar / f"{split}.png", (split, cultivar))
    (tmp_path / "source" / "train" / "a" / "loop").symlink_to(tmp_path / "source", target_is_directory=True)
    (tmp_path / "source" / "test" / "self.png").symlink_to("self.png")
    (tmp_path / "source" / "train" / "b" / "gone.png").symlink_to(tmp_path / "not there.png")
    ended = answered(
        ufgvc("ingest", "--source", tmp_path / "source", "--data", tmp_path / "data", "--on-bad-image", "skip")
    )
    if ended.code == 0:
        assert open_dataset(str(tmp_path / "data")).counts == {"train": 2, "test": 2}
    ended = answered(
        ufgvc("predict", "--source", tmp_path / "source", "--model", HERE / "model", "--out", tmp_path / "out", *OFF)
    )
    if ended.code == 0:
        assert len([path for path in listed(tmp_path / "out") if "loop" not in path]) == 4


@pytest.mark.parametrize("command", ["ingest", "predict"])
def test_a_file_name_that_is_no_utf_8(command: str, tmp_path: Path, ray_local: None) -> None:
    for split in ("train", "test"):
        for cultivar in "ab":
            put(tmp_path / "source" / split / cultivar / f"{split}.png", (split, cultivar))
    put(Path(os.fsdecode(os.fsencode(tmp_path / "source" / "train" / "a") + b"/gr\xfcn.png")), "odd")
    if command == "ingest":
        ended = answered(ufgvc("ingest", "--source", tmp_path / "source", "--data", tmp_path / "data"))
    else:
        ended = answered(
            ufgvc(
                "predict", "--source", tmp_path / "source", "--model", HERE / "model", "--out", tmp_path / "out", *OFF
            )
        )
    assert ended.code == 0 or "UTF-8" in ended.err


def test_a_folder_name_that_is_no_utf_8(tmp_path: Path, ray_local: None) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfcn"))
    put(folder / "a.png", "a")
    for arguments in (
        ("predict", "--source", folder, "--model", HERE / "model", "--out", tmp_path / "out", *OFF),
        ("predict", "--source", HERE / "photographs", "--model", HERE / "model", "--out", folder, *OFF),
        ("ingest", "--source", folder, "--data", tmp_path / "data"),
        ("train", "--data", HERE / "leaves", "--runs", folder, *QUICK_TRAINING, *SIZES, *OFF),
    ):
        answered(ufgvc(*arguments))


TABLE = {
    "plain": "photographs/a.png",
    "doubled slashes": "photographs//a.png",
    "a dot": "./photographs/a.png",
    "up and down": "photographs/../photographs/a.png",
    "up and out": "../outside.png",
    "from the root": "/etc/hostname",
    "long": "photographs/" + "x" * 300 + ".png",
    "zero": "photographs/a\0.png",
    "umlauts apart": "photographs/" + unicodedata.normalize("NFD", "grün") + ".png",
}


@pytest.mark.parametrize("form", TABLE)
def test_paths_in_a_table(form: str, tmp_path: Path, ray_local: None) -> None:
    """What a row names is read, or the row is told; nothing outside of the folder is."""
    root = tmp_path / "source"
    for name in ("a", "b", "c", "d", "grün"):
        put(root / "photographs" / f"{name}.png", name)
    put(tmp_path / "outside.png", "outside")
    rows = [("path", "cultivar", "split"), (TABLE[form], "x", "train"), ("photographs/b.png", "y", "train")]
    rows += [("photographs/c.png", "x", "test"), ("photographs/d.png", "y", "test")]
    with open(root / "table.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    ended = answered(ufgvc("ingest", "--source", root, "--data", tmp_path / "data"))
    if form in ("up and out", "from the root", "long", "zero"):
        assert ended.code == 2
    elif ended.code == 0:
        assert open_dataset(str(tmp_path / "data")).counts == {"train": 2, "test": 2}
    else:
        assert TABLE[form] in ended.err


@pytest.mark.parametrize("name", ["x" * 300, "..", "../x", "a/b", "nul\0"])
def test_names_of_cultivars_in_a_table(name: str, tmp_path: Path, ray_local: None) -> None:
    rows: list[tuple[str, ...]] = [("path", "cultivar", "split")]
    for number, (cultivar, split) in enumerate([(name, "train"), ("y", "train"), (name, "test"), ("y", "test")]):
        put(tmp_path / "source" / f"{number}.png", number)
        rows.append((f"{number}.png", cultivar, split))
    with open(tmp_path / "source" / "table.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    ended = answered(ufgvc("ingest", "--source", tmp_path / "source", "--data", tmp_path / "data"))
    if ended.code == 0:
        assert set(open_dataset(str(tmp_path / "data")).classes) == {name, "y"}


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "ü", "x" * 300, "", ".", "a\0"])
def test_names_of_data_sets(name: str, tmp_path: Path, ray_local: None) -> None:
    """The name becomes a folder of the runs and part of a model's name."""
    for split in ("train", "test"):
        for cultivar in "ab":
            put(tmp_path / "source" / split / cultivar / f"{split}.png", (split, cultivar))
    ended = answered(ufgvc("ingest", "--source", tmp_path / "source", "--data", tmp_path / "data", "--name", name))
    assert ended.code == 2
    assert "--name" in ended.err
