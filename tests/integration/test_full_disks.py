"""Full and read-only disks: one message with the path and the remedy, and what was there before stays whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.integration.disks import on_small_disk, ufgvc

FULL, READ_ONLY = r"no space is left on this disk", "the disk is read-only"
TRAIN = [
    "--method",
    "resnet50",
    "--options.backbone",
    "shufflenet_v2_x0_5",
    "--train.init",
    "none",
    "--train.epochs",
    "1",
]
TRAIN += ["--train.resize", "40", "--train.crop", "32"]

WRITERS = {
    "store": "from ufgvc.core.storage import open_store; open_store(disk).write_bytes('old', bytes(3 << 20))",
    "download": "from ufgvc.core.storage import open_store; open_store(source).download(pathlib.Path(disk) / 'copy')",
    "checkpoint": """
import torch
from ufgvc.training.checkpoint import write_checkpoint
net = torch.nn.Linear(1000, 1000)
about = dict(epoch=1, stage=0, history=[], best=None, random=[], run_id=None)
write_checkpoint(pathlib.Path(disk), net=net, optimizer=torch.optim.SGD(net.parameters()), **about)
""",
    "weights": """
import torch
from safetensors.torch import save_file
from ufgvc.core.errors import disk_errors
with disk_errors(disk):
    save_file({'a': torch.zeros(1000000)}, disk + '/weights')
""",
    "memory map": """
import numpy
from ufgvc.core.errors import disk_errors
from ufgvc.data.cache import preallocate
with disk_errors(disk):
    numpy.lib.format.open_memmap(disk + '/image.npy', 'w+', 'u1', (5 << 20,))
    preallocate(pathlib.Path(disk + '/image.npy'))
""",
    "MLflow's database": """
from ufgvc.tracking.registry import registry_client
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
with registry_client(Context(tracking=TrackingSettings(uri=f'sqlite:///{disk}/mlflow.db'))) as (client, _):
    client.create_registered_model('leaves')
""",
}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_bytes(bytes(1000))
    return tmp_path / "before"


@pytest.mark.parametrize("kind", ["small", "full", "read-only"])
def test_writers(kind: str, before: Path, tmp_path: Path) -> None:
    """Each writer in a folder of its own on one disk; all in one process, which imports for seconds."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(bytes(3 << 20))
    (tmp_path / "writers.json").write_text(json.dumps(WRITERS))
    program = f"""
import json, pathlib, shutil
from ufgvc.core.errors import user_error_in
root, answers = pathlib.Path({str(tmp_path)!r}), dict()
for name, code in json.loads((root / 'writers.json').read_text()).items():
    there = dict(disk=str(root / 'disk'), source=str(root / 'source'), pathlib=pathlib)
    try:
        exec(code, there)
        answers[name] = 'it succeeded'
    except Exception as error:
        answers[name] = str(user_error_in(error) or repr(error))
    for path in (root / 'disk').rglob('*.ufgvc-tmp-*'):
        print('LEFT', path)
    if {kind == "small"}:
        for path in (root / 'disk').iterdir():  # room for the next
            if path.name != 'old':
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    there.clear()
(root / 'answers.json').write_text(json.dumps(answers))
"""
    kinds = {"full": kind == "full", "read_only": kind == "read-only"}
    code, output = on_small_disk([sys.executable, "-c", program], tmp_path, size="512k", before=before, **kinds)
    assert code == 0, output
    assert "LOST" not in output
    assert "LEFT" not in output
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert set(answers) == set(WRITERS)
    for name, answer in answers.items():
        expected = READ_ONLY if kind == "read-only" else FULL
        if kind == "read-only" and name == "MLflow's database":
            expected = "no database can be made"
        assert expected in answer, (name, answer)
        assert str(tmp_path / "disk") in answer, name
        assert "\n  -> " in answer, name


def refused(command: list[str], folder: Path, message: str, **disk: object) -> None:
    code, said = on_small_disk(command, folder, **disk)  # type: ignore[arg-type]
    assert code == 2, said
    assert f"ufgvc {command[3]}: {folder / 'disk'}" in said
    assert message in said
    for bad in ("Traceback", "LOST", "LEFT"):
        assert bad not in said, said


def test_synth_and_ingest(small_dataset: str, tmp_path: Path) -> None:
    source, disk = Path(small_dataset).parent / "source", tmp_path / "disk"
    refused(ufgvc("synth", "--out", f"{disk}/new", "--size", "64"), tmp_path, FULL, size="100k")
    new = ufgvc("ingest", "--source", str(source), "--data", f"{disk}", "--name", "new", "--ray.cpus", "2")
    refused(new, tmp_path, FULL, size="16k")
    refused(new, tmp_path, READ_ONLY, read_only=True)


@pytest.mark.slow
def test_train(small_dataset: str, tmp_path: Path) -> None:
    """The disk holds the run's small files, and not its checkpoint, which Ray Train copies in the background."""
    train = ufgvc(
        "train",
        "--data",
        small_dataset,
        "--runs",
        f"{tmp_path / 'disk'}",
        *TRAIN,
        "--tracking.uri",
        "off",
        "--ray.cpus",
        "2",
    )
    refused(train, tmp_path, FULL, size="300k")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import torch

    from ufgvc import methods
    from ufgvc.models.format import save_model

    torch.manual_seed(0)
    made = methods.build("resnet50", 2, init="none", backbone="shufflenet_v2_x0_5")
    made.net.eval()
    save_model(
        tmp_path / "model",
        made,
        ("ash", "birch"),
        {"resize": 40, "size": 32},
        {"data": "none"},
        {},
    )
    return tmp_path / "model"


def test_predict_and_export(model: Path, small_dataset: str, tmp_path: Path) -> None:
    source, disk = Path(small_dataset).parent / "source" / "images", tmp_path / "disk"
    predict = ufgvc(
        "predict", "--source", str(source), "--model", str(model), "--out", f"{disk}/out", "--ray.cpus", "2"
    )
    refused(predict, tmp_path, FULL, full=True)
    refused(ufgvc("export", "--model", str(model), "--out", f"{disk}/out"), tmp_path, FULL, size="2m")
