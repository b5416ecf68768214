"""The files that make a model one of MLflow are those that MLflow itself writes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import ufgvc
from ufgvc.methods.plugins import Package
from ufgvc.models import mlflow_files
from ufgvc.models.mlflow_files import write_mlflow_files

OWN = ("model_uuid", "utc_time_created")  # of each model


@pytest.mark.filterwarnings("ignore")
def test_they_are_those_of_save_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pyfunc

    package = tmp_path / "ufgvc"  # the copy of the whole package says nothing more
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "answer.txt", "__pycache__/x.pyc"):
        (package / name).write_text("")
    monkeypatch.setattr(ufgvc, "__file__", str(package / "__init__.py"))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_mlflow_files(ours)
    described = yaml.safe_load((ours / "MLmodel").read_text())
    signature = mlflow.models.ModelSignature.from_dict(described["signature"])
    required = [f"{name}=={version(name).split('+')[0]}" for name in mlflow_files._REQUIRED]
    mlflow.pyfunc.save_model(
        theirs,
        loader_module="ufgvc.models.pyfunc",
        code_paths=[str(package)],
        pip_requirements=required,
        signature=signature,
    )
    found, wanted = (
        {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
        for folder in (ours, theirs)
    )
    model, other = yaml.safe_load(found.pop("MLmodel")), yaml.safe_load(wanted.pop("MLmodel"))
    assert found == wanted
    assert {name: model[name] for name in model if name not in OWN} == {
        name: other[name] for name in other if name not in OWN
    }


def test_a_backbone_and_a_plug_in_name_their_packages(tmp_path: Path) -> None:
    write_mlflow_files(tmp_path, "efficientnet_lite0", Package("leafy", "1.2+cu130"))
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert lines[-2:] == [f"timm=={version('timm')}", "leafy==1.2"]
