"""Full and read-only disks: one message with the path and the remedy, and what was there before stays whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.command_line import QUICK_TRAINING
from tests.factories import put
from tests.golden.trainings import HERE
from tests.integration.disks import on_small_disk

FULL, READ_ONLY = r"no space is left on this disk", "the disk is read-only"
TRAIN = [*QUICK_TRAINING, "--train.resize", "40", "--train.crop", "32"]

WRITERS = {
    "store": "from ufgvc.core.storage import open_store; open_store(disk).write_bytes('old', bytes(3 << 20))",
    "download": "from ufgvc.core.storage import open_store; open_store(source).download(pathlib.Path(disk) / 'copy')",
    "checkpoint": """
import torch
from ufgvc.training.checkpoint import write_checkpoint
net = torch.nn.Linear(1000, 1000)
about = dict(epoch=1, stage=0, history=[], best=None, random=[])
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
with registry_client(Context(tracking=TrackingSettings(uri=f'sqlite:///{disk}/{kind}.db'))) as (client, _):
    client.create_registered_model('leaves')
""",
}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_bytes(bytes(1000))
    return tmp_path / "before"


# Each writer in a folder of its own on one disk that is read-only, then too small, then full; all in one process, which
# imports for seconds.
WRITE = """
import json, pathlib, shutil, subprocess
from ufgvc.core.errors import user_error_in
root = pathlib.Path({root!r})
disk, answers = root / 'disk', dict()
for kind in ('read-only', 'small', 'full'):
    if kind != 'full':
        subprocess.run(['mount', '-o', 'remount,' + ('ro' if kind == 'read-only' else 'rw'), str(disk)], check=True)
    else:
        try:
            with open(disk / 'filling', 'wb', buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            pass
    for name, code in json.loads((root / 'writers.json').read_text()).items():
        there = dict(kind=kind, disk=str(disk), source=str(root / 'source'), pathlib=pathlib)
        try:
            exec(code, there)
            answers[kind + ' ' + name] = 'it succeeded'
        except Exception as error:
            answers[kind + ' ' + name] = str(user_error_in(error) or repr(error))
        for path in disk.rglob('*.ufgvc-tmp-*'):
            print('LEFT', path)
        for path in disk.iterdir():  # room for the next
            if path.name not in ('old', 'filling'):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        there.clear()
(root / 'answers.json').write_text(json.dumps(answers))
"""


def test_writers(before: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(bytes(3 << 20))
    (tmp_path / "writers.json").write_text(json.dumps(WRITERS))
    program = WRITE.format(root=str(tmp_path))
    code, output = on_small_disk([sys.executable, "-c", program], tmp_path, size="512k", before=before)
    assert code == 0, output
    assert "LOST" not in output
    assert "LEFT" not in output
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert set(answers) == {f"{kind} {name}" for kind in ("read-only", "small", "full") for name in WRITERS}
    for name, answer in answers.items():
        expected = READ_ONLY if name.startswith("read-only") else FULL
        if name == "read-only MLflow's database":
            expected = "no database can be made"
        assert expected in answer, (name, answer)
        assert str(tmp_path / "disk") in answer, name
        assert "\n  -> " in answer, name


# Several commands in one process, which imports for seconds, and in one Ray session. ["fill"]: nothing more goes on the
# disk, ["lock"]: it is read-only from here on.
COMMANDS = """
import json, pathlib, shutil, subprocess, sys
from ufgvc.cli import main
from ufgvc.runtime.session import RaySettings, ray_session
disk = pathlib.Path(sys.argv[1])
session = ray_session(RaySettings(cpus=2))
session.__enter__()
for arguments in json.loads(sys.argv[2]):
    if arguments == ['lock']:
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
    elif arguments != ['fill']:
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
        print('CODE', arguments[0], code, flush=True)
        for path in disk.rglob('*.ufgvc-tmp-*'):
            print('LEFT', path)
        shutil.rmtree(disk / 'new', ignore_errors=True)
    else:
        try:
            with open(disk / 'filling', 'wb', buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            pass
session.__exit__(None, None, None)
"""


def refused(commands: list[list[str]], folder: Path, size: str) -> None:
    """Each of the commands (one list of arguments) ends with 2 and says that the disk is full, or after ["lock"] that
    it is read-only.
    """
    program = [sys.executable, "-c", COMMANDS, str(folder / "disk"), json.dumps(commands)]
    code, said = on_small_disk(program, folder, size=size)
    assert code == 0, said
    rest, message = said, FULL
    for name, *others in commands:
        if others:
            part, found, rest = rest.partition(f"CODE {name} ")
            assert found, said
            assert rest.startswith("2\n"), said
            assert f"ufgvc {name}: {folder / 'disk'}" in part, said
            assert message in part, said
        elif name == "lock":
            message = READ_ONLY
    for bad in ("Traceback", "LOST", "LEFT"):
        assert bad not in said, said


@pytest.mark.slow
def test_synth_and_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Ray session of its own: the workers of another would see another disk, and they write the photographs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for split in ("train", "test"):
        for cultivar in "ab":
            for number in range(4):
                put(tmp_path / "source" / split / cultivar / f"{split} {number}.png")
    disk = tmp_path / "disk"
    synth = ["synth", "--out", f"{disk}/new", "--size", "64"]
    ingest = ["ingest", "--source", f"{tmp_path / 'source'}", "--data", f"{disk}", "--name", "new"]
    refused([synth, ingest, ["lock"], ingest], tmp_path, size="16k")


@pytest.mark.slow
def test_train(small_dataset: str, tmp_path: Path) -> None:
    """The disk holds the run's small files, and not its checkpoint, which Ray Train copies in the background."""
    train = [
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
    ]
    refused([train], tmp_path, size="300k")


@pytest.mark.slow
def test_export_and_predict(tmp_path: Path, ray_head: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is smaller than the ONNX file, then full."""
    monkeypatch.setenv("RAY_ADDRESS", ray_head["RAY_ADDRESS"])
    model, out = str(HERE / "model"), f"{tmp_path / 'disk'}/new"
    export = ["export", "--model", model, "--out", out]
    predict = ["predict", "--source", str(HERE / "photographs"), "--model", model, "--out", out]
    predict += ["--ray.cpus", "2", "--tracking.uri", "off"]
    refused([export, ["fill"], predict], tmp_path, size="1m")
