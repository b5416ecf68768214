"""The Python functions as docs/python.md and docs/notebook.ipynb show them, on drawn leaves."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.documented import ROOT
from tests.golden.trainings import HERE
from ufgvc import UserError, load_model
from ufgvc.core.storage import open_store
from ufgvc.data.images import BadImage
from ufgvc.synthetic import SynthSettings, synthesize

PAGE, NOTEBOOK = ROOT / "docs" / "python.md", ROOT / "docs" / "notebook.ipynb"
PHOTOGRAPHS = sorted((HERE / "photographs").iterdir())
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_blocks_of_the_page(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SynthSettings(cultivars=3, train_per_cultivar=4, test_per_cultivar=2, size=64)
    synthesize(tmp_path / "photographs", settings, seed=2)
    (tmp_path / "new-leaves").mkdir()
    for path in sorted((tmp_path / "photographs" / "images").glob("*_test.jpg"))[:4]:
        shutil.copy(path, tmp_path / "new-leaves")
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 7
    shown = capsys.readouterr().out
    assert names["dataset"].counts == {"train": 12, "test": 6}
    assert "masks (luminance) of 18 leaves" in shown
    assert re.search(r"accuracy \d of 6 = ", shown)
    predictions = names["predictions"]
    assert [Path(path).parent.name for path in predictions.index] == ["new-leaves"] * 4
    assert set(predictions["cultivar"]) <= set(names["dataset"].classes)
    assert "4 photographs predicted" in shown
    assert "there is no such photograph\n" in shown
    assert Path("predictions/predictions.csv").is_file()


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    """In a kernel of its own, which starts Ray: more than a minute on a busy machine."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "it is kept without outputs"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    text = str([output for cell in code for output in cell.outputs])
    assert re.search(r"accuracy \d+ of 15 = ", text)
    assert "_test.jpg" in text
    assert not [cell for cell in code for output in cell.outputs if output.output_type == "error"]


class TestPredict:
    """What a loaded model takes, with the saved model and the photographs of tests/golden."""

    @pytest.fixture(scope="class")
    def model(self) -> Any:
        return load_model(str(HERE / "model"))

    def test_paths_and_contents_are_the_same(self, model: Any) -> None:
        by_content = model.predict([path.read_bytes() for path in PHOTOGRAPHS])
        by_path = model.predict(PHOTOGRAPHS)
        assert by_path.index.tolist() == [str(path) for path in PHOTOGRAPHS]
        assert by_content.index.tolist() == list(range(len(PHOTOGRAPHS)))
        assert by_path.reset_index(drop=True).equals(by_content)
        texts = model.predict([str(path) for path in PHOTOGRAPHS], batch_size=1)
        np.testing.assert_allclose(texts["probability"], by_path["probability"], rtol=1e-4)

    def test_one_photograph(self, model: Any) -> None:
        whole = model.predict(PHOTOGRAPHS)
        for one in (PHOTOGRAPHS[0], str(PHOTOGRAPHS[0]), PHOTOGRAPHS[0].read_bytes()):
            (cultivar,) = model.predict(one)["cultivar"]
            assert cultivar == whole["cultivar"].iloc[0]
        assert len(model.predict([])) == 0

    def test_a_bucket(self, model: Any, s3: str) -> None:
        open_store(s3 + "/new").write_bytes("leaf.jpg", PHOTOGRAPHS[0].read_bytes())
        predicted = model.predict([f"{s3}/new/leaf.jpg", PHOTOGRAPHS[0]])
        assert predicted.index[0] == f"{s3}/new/leaf.jpg"
        assert predicted["cultivar"].iloc[0] == predicted["cultivar"].iloc[1]

    def test_mistakes_name_the_file(self, model: Any, tmp_path: Path) -> None:
        (tmp_path / "text.jpg").write_text("no photograph")
        with pytest.raises(UserError) as missing:
            model.predict([PHOTOGRAPHS[0], tmp_path / "none.jpg"])
        assert (missing.value.what, missing.value.where) == ("there is no such photograph", str(tmp_path / "none.jpg"))
        with pytest.raises(UserError) as broken:
            model.predict(tmp_path / "text.jpg")
        assert broken.value.where == str(tmp_path / "text.jpg")
        with pytest.raises(UserError):
            model.predict(tmp_path)
        with pytest.raises(BadImage):
            model.predict(b"no photograph")
