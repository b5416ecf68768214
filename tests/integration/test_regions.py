"""Detector and masks on a tiny data set: real training, real Ray, real files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.ray_head import SLOTS
from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.data.dataset import open_dataset, read_images, read_manifest, read_shard
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.data.mask_png import decode_mask
from ufgvc.data.schemas import to_boxes
from ufgvc.regions.annotated import write_example
from ufgvc.regions.detector import Detector, load_detector
from ufgvc.regions.mask_dataset import mask, newest_detector
from ufgvc.regions.mask_results import MaskCompleteness, check_masks
from ufgvc.regions.settings import DetectSettings, MaskSettings
from ufgvc.regions.train_detector import detect
from ufgvc.regions.yolo import YoloConfig, train_yolo
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.run import train
from ufgvc.training.settings import TrainSettings

REGIONS = ("vein", "contour")
TINY = DetectSettings(num_annotated=6, image_size=64, epochs=1, batch_size=4, init="none", confidence=0.001)
OFF = TrackingSettings(uri="off")
ONE = {"max_actors": 1}
"""where the number of actors does not matter: each imports torch and the detector's library for seconds"""


def leaf(k: int) -> tuple[np.ndarray, list[Box]]:
    """A green disc with a rib on white, somewhere in 96 x 80 pixels."""
    dx, dy = k % 5 - 2, k % 3 - 1
    y, x = np.mgrid[:80, :96]
    image = np.full((80, 96, 3), 255, np.uint8)
    image[(x - 48 - dx) ** 2 + (y - 40 - dy) ** 2 < 30**2] = (40, 90 + k, 30)
    image[10 + dy : 70 + dy, 47 + dx : 50 + dx] = (170, 190, 90)
    vein = Box("vein", 43 + dx, 10 + dy, 54 + dx, 70 + dy)
    sides = [Box("contour", 18 + dx, 10 + dy, 43 + dx, 70 + dy), Box("contour", 54 + dx, 10 + dy, 78 + dx, 70 + dy)]
    return image, [vein, *sides]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    """Two cultivars, twelve leaves, all with boxes, in several shards."""
    source = tmp_path_factory.mktemp("source")
    for name in ("images", "labels"):
        (source / name).mkdir()
    for k in range(12):
        image, boxes = leaf(k)
        stem = f"{1 + k // 6}_{k % 6 + 1}_{'train' if k % 3 else 'test'}"
        Image.fromarray(image).save(source / "images" / f"{stem}.png")
        lines = [
            f"{REGIONS.index(b.region)} {(b.x0 + b.x1) / 192} {(b.y0 + b.y1) / 160} {b.width / 96} {b.height / 80}\n"
            for b in boxes
        ]
        (source / "labels" / f"{stem}.txt").write_text("".join(lines))
    target = tmp_path_factory.mktemp("data")
    ingest(str(source), str(target), name="tiny", settings=IngestSettings(on_duplicate="warn"))  # they are all alike
    return str(target)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


def masks_of(data: str, kind: str) -> dict[str, dict[str, np.ndarray | None]]:
    dataset = open_dataset(data)
    found = {}
    for shard in dataset.shards:
        table = read_shard(dataset, f"masks/{kind}", shard)
        assert table["image_id"].to_pylist() == read_images(dataset, shard)["image_id"].to_pylist()
        for row in table.to_pylist():
            found[row["image_id"]] = {region: row[region] and decode_mask(row[region]) for region in REGIONS}
    return found


def test_a_detector_learns_saves_and_loads_without_a_pickle(tmp_path: Path):
    for k in range(8):
        write_example(tmp_path / "yolo", f"{k}", *leaf(k), REGIONS, 64)
    losses = []
    config = YoloConfig(image_size=64, epochs=4, batch_size=4, learning_rate=3e-3)

    def on_epoch(epoch: int, parts: dict[str, float]) -> None:
        losses.append(sum(parts.values()))

    net = train_yolo(tmp_path / "yolo", tmp_path / "work", REGIONS, config, on_epoch=on_epoch)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    again = train_yolo(tmp_path / "yolo", tmp_path / "work2", REGIONS, config)
    assert all((a == b).all() for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    detector = Detector(net, "yolov5n", REGIONS, 64, {"vein": 1, "contour": 2}, {"note": "x"})
    detector.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]
    loaded = load_detector(tmp_path / "model")
    images = [leaf(k)[0] for k in range(3)]
    assert loaded.predict(images, 0.0001, limit=5) == detector.predict(images, 0.0001, limit=5)
    assert loaded.info == {"note": "x"}
    for box in loaded.predict([images[0]], 0.0001)[0]:
        assert 0 <= box.x0 < box.x1 <= 96
        assert 0 <= box.y0 < box.y1 <= 80
    assert not list(tmp_path.rglob("*.pt"))


@pytest.fixture(scope="module")
def detected(data: str, runs: str):
    return detect(data, TINY, Context(runs=runs, tracking=OFF, seed=1))


def test_detect_writes_a_complete_run_finds_it_again_and_takes_the_newest(data: str, runs: str, detected):
    run = Path(detected.run)
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.json", "model", "report"}
    assert not list(run.glob("work-*"))
    assert json.loads((run / "metrics.json").read_text()) == detected.metrics
    assert detected.metrics["num_trained"] == 6
    assert detected.metrics["num_evaluated"] == 4
    assert "test" in detected.metrics["evaluated_on"]
    assert load_detector(run / "model").max_boxes == {"vein": 1, "contour": 2}
    assert (run / "report" / "figure3.png").read_bytes().startswith(b"\x89PNG")
    assert "0.963" in (run / "report" / "table1.md").read_text()
    again = detect(data, TINY, Context(runs=runs, tracking=OFF, seed=1))
    assert again.found
    assert again.metrics == detected.metrics
    newest = detect(data, TINY, Context(runs=runs, tracking=OFF, seed=2))
    assert newest.run != detected.run
    assert newest_detector(open_dataset(data), runs) == newest.model


def test_coco_weights_that_are_not_there_are_refused_before_training(data: str, runs: str):
    settings = TINY.model_copy(update={"init": "coco", "coco_weights": "/nowhere/yolov5nu.pt"})
    with pytest.raises(UserError, match="nothing is downloaded"):
        detect(data, settings, Context(runs=runs, tracking=OFF))


def test_masks_of_detected_boxes(data: str, runs: str, detected, ray_local: None):
    result = mask(data, MaskSettings(mask_kind="box", batch_size=3), detected.model, context=Context(runs=runs))
    assert result.n == 12
    assert not result.failed
    dataset, found = open_dataset(data), masks_of(data, "box")
    for shard in dataset.shards:
        for row in read_shard(dataset, "regions/detected", shard).to_pylist():
            boxes = to_boxes(row["boxes"])
            assert boxes is not None
            for region in REGIONS:
                expected = [b for b in boxes if b.region == region]
                assert len(expected) <= {"vein": 1, "contour": 2}[region]
                assert (found[row["image_id"]][region] is None) == (not expected)
    again = mask(data, MaskSettings(mask_kind="box", batch_size=3), detected.model, context=Context(runs=runs))
    assert again.found
    assert again.fingerprint == result.fingerprint


def test_other_kinds_use_the_existing_boxes(data: str, runs: str, detected, ray_local: None):
    mask(data, MaskSettings(mask_kind="box", **ONE), detected.model, context=Context(runs=runs))
    before = read_manifest(open_dataset(data), "regions/detected")
    structure = mask(data, MaskSettings(mask_kind="structure", **ONE), detected.model, context=Context(runs=runs))
    assert read_manifest(open_dataset(data), "regions/detected") == before
    assert (
        structure.fingerprint
        != mask(data, MaskSettings(mask_kind="box", **ONE), detected.model, context=Context(runs=runs)).fingerprint
    )


def test_masks_of_annotated_boxes_need_no_detector(data: str, ray_local: None, tmp_path: Path):
    result = mask(
        data, MaskSettings(mask_kind="luminance", box_source="annotated", **ONE), context=Context(runs=str(tmp_path))
    )
    assert result.complete == 12
    assert all(
        found["vein"].shape == (80, 96) and found["vein"].any() for found in masks_of(data, "luminance").values()
    )


def test_a_detector_that_finds_nothing_guides_nothing(
    data: str, runs: str, detected, ray_local: None, tmp_path: Path, caplog
):
    data = shutil.copytree(data, str(tmp_path / "data"))  # other tests use the masks that it replaces
    strict = {"mask_kind": "box", "confidence": 0.9999, **ONE}
    before = mask(data, MaskSettings(mask_kind="box", **ONE), detected.model, context=Context(runs=runs))
    with pytest.raises(UserError, match=r"every region on 0 of 8 training leaves \(0.0%\)") as caught:
        mask(data, MaskSettings(**strict), detected.model, context=Context(runs=runs))
    assert "--min-found 0" in str(caught.value)
    assert "ufgvc detect" in str(caught.value)
    dataset = open_dataset(data)
    assert read_manifest(dataset, "masks/box").fingerprint == before.fingerprint, "the existing masks were overwritten"
    assert read_manifest(dataset, "regions/detected").extra["confidence"] == 0.9999, "detected boxes are used again"

    poor = mask(data, MaskSettings(**strict, min_found=0), detected.model, context=Context(runs=runs))
    assert (poor.complete, poor.found) == (0, False)
    assert mask(data, MaskSettings(**strict, min_found=0), detected.model, context=Context(runs=runs)).found
    with pytest.raises(UserError, match="every region on 0 of 8"):
        mask(data, MaskSettings(**strict), detected.model, context=Context(runs=runs))
    assert check_masks(dataset, "box") == MaskCompleteness(0, 8, 0, 0.0)
    assert "the box masks show every region on 0 of 8 training leaves" in caplog.text

    # a manifest without min_found
    manifest = json.loads(Path(data, "masks/box/manifest.json").read_text())
    del manifest["extra"]["min_found"], manifest["extra"]["train_found"]
    Path(data, "masks/box/manifest.json").write_text(json.dumps(manifest))
    settings = TrainSettings(init="none", epochs=1, batch_size=4, resize=40, crop=32)
    with pytest.raises(UserError, match="every region on 0 of 12 training leaves") as caught:
        train(
            data, "mask_guided", {"backbone": "shufflenet_v2_x0_5"}, settings, Context(runs=str(tmp_path), tracking=OFF)
        )
    assert "ufgvc mask --data" in str(caught.value)
    again = mask(data, MaskSettings(**strict, min_found=0), detected.model, context=Context(runs=runs))
    assert not again.found, "masks that were not accepted before are made again"
    assert check_masks(dataset, "box").min_found == 0


def test_a_detector_that_no_node_can_hold_is_refused(data: str, runs: str, detected, ray_local: None):
    with pytest.raises(
        UserError, match=rf"no node has the {SLOTS + 1} CPU that each actor needs \(nodes: 1 x {SLOTS} CPU\)"
    ):
        mask(
            data,
            MaskSettings(mask_kind="structure", cpus_per_actor=SLOTS + 1),
            detected.model,
            context=Context(runs=runs, fresh=True),
        )


def test_without_a_detector_the_command_to_run_is_named(data: str, tmp_path: Path, ray_local: None):
    with pytest.raises(UserError, match="ufgvc detect --data"):
        mask(data, MaskSettings(), context=Context(runs=str(tmp_path)))


def test_one_damaged_photograph_costs_only_itself(data: str, runs: str, detected, tmp_path: Path):
    """The actor itself, on a shard whose second photograph lost its second half."""
    import pyarrow as pa

    from ufgvc.core.storage import open_store
    from ufgvc.data.dataset import Shard, ShardWriter
    from ufgvc.data.schemas import IMAGES_SCHEMA
    from ufgvc.regions.mask_worker import ShardMasker

    dataset = open_dataset(data)
    rows = read_images(dataset, dataset.shards[0]).to_pylist()[:3]
    rows[1]["image"] = rows[1]["image"][: len(rows[1]["image"]) // 2]
    store = open_store(tmp_path)
    shard = ShardWriter(store, "images", "", "images").write(
        "train-00000", "train", pa.Table.from_pylist(rows, IMAGES_SCHEMA)
    )
    damaged = dataclasses.replace(dataset, store=store, shards=(shard,))
    writers = {
        "detected": ShardWriter(store, "regions/detected", "x", "regions"),
        "masks": ShardWriter(store, "masks/box", "x", "masks"),
    }
    masker = ShardMasker(damaged, writers, open_store(detected.model), "detected", "box", 0.0001, 8, 1, "cpu")
    answer = masker({"shard": json.dumps(dataclasses.asdict(shard))})
    failed = json.loads(answer["failed"])
    assert [image_id for image_id, _ in failed] == [rows[1]["image_id"]]
    assert "truncated" in failed[0][1]
    for folder in ("detected", "masks"):
        writers[folder].commit([Shard(**json.loads(answer[folder]))])
    boxes = read_shard(damaged_made_from(damaged), "regions/detected", "train-00000")["boxes"].to_pylist()
    assert [value is None for value in boxes] == [False, True, False]
    made = read_shard(damaged_made_from(damaged), "masks/box", "train-00000").to_pylist()
    assert made[1]["vein"] is None
    assert made[0]["vein"] is not None


def damaged_made_from(dataset):
    return dataclasses.replace(dataset, fingerprint="x")
