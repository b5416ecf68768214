"""Exact masks, also from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset, read_images, read_manifest, read_shard
from ufgvc.data.ingest import ingest
from ufgvc.data.mask_png import encode_mask
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import MaskSettings
from ufgvc.synthetic import SynthSettings, synthesize
from ufgvc.tracking.context import Context

EXACT = MaskSettings(mask_kind="exact")

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return synthesize(
        tmp_path / "source", SynthSettings(cultivars=2, train_per_cultivar=3, test_per_cultivar=1, size=64)
    )


def test_masks_of_several_shards_are_reused_until_a_file_changes(source: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    dataset = ingest(str(source), data, name="tiny")
    first = mask(data, EXACT, source=str(source))
    assert (first.n, first.complete, first.failed, first.found) == (8, 8, (), False)
    for shard in dataset.shards:
        rows = read_shard(dataset, "masks/exact", shard).to_pylist()
        assert [row["image_id"] for row in rows] == read_images(dataset, shard)["image_id"].to_pylist()
        for row in rows:
            for region in ("vein", "contour"):
                assert row[region] == (source / f"masks/{region}/{row['image_id']}.png").read_bytes()
    assert not dataset.store.list("regions/detected")
    again = mask(data, EXACT, source=str(source))
    assert again.found
    assert again.fingerprint == first.fingerprint
    assert not mask(data, EXACT, source=str(source), context=Context(fresh=True)).found
    (source / "masks/vein/1_1_train.png").write_bytes(encode_mask(np.zeros((64, 64), bool)))
    changed = mask(data, EXACT, source=str(source))
    assert not changed.found
    assert changed.fingerprint != first.fingerprint


def test_an_error_in_a_task_is_one_message(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, bad = str(tmp_path / "data"), source / "masks/contour/2_2_test.png"
    ingest(str(source), data, name="tiny")
    bad.write_bytes(encode_mask(np.zeros((64, 60), bool)))
    arguments = ["mask", "--data", data, "--mask-kind", "exact", "--tracking.uri", "off"]
    assert main([*arguments, "--source", str(source)]) == 2
    assert f"{bad}: has 60 x 64 pixels, its photograph 64 x 64" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "--source" in capsys.readouterr().err
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(open_dataset(data), "masks/exact")


# A training with exact masks, and a pipeline with them that needs no detector: TestModels of test_every_command.py.
def test_the_kind_of_masks_may_stand_in_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("mask_kind: exact\ntracking: {uri: 'off'}\ntrain: {epochs: 1}\n")
    data = tmp_path / "data"
    ingest(str(source), str(data), name="tiny")
    assert main(["mask", "--config", str(tmp_path / "tiny.yaml"), "--data", str(data), "--source", str(source)]) == 0
    assert mask(str(data), EXACT, source=str(source)).found
