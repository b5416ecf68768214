"""Three regions of the user's own on storage: boxes of every format, masks, their schema, the cache and the stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.own_regions.leaves import CORNERS, HEIGHT, OWN, WIDTH, ingested, photographs, write_coco
from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.data.cache import CachedSource, decoded_size, load_decoded_split
from ufgvc.data.dataset import Dataset, open_dataset, read_index, read_manifest, read_shard
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.data.mask_png import decode_mask, encode_mask
from ufgvc.data.schemas import masks_schema, to_boxes
from ufgvc.data.stream import StreamedSource, decode_chunk, list_chunks
from ufgvc.experiments.status import read_status
from ufgvc.experiments.status_text import status_lines
from ufgvc.regions.mask_dataset import check_detector, mask
from ufgvc.regions.mask_results import MaskResult
from ufgvc.regions.masks import make_masks
from ufgvc.regions.settings import DetectSettings, MaskSettings
from ufgvc.regions.train_detector import detect
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

SETTINGS = IngestSettings(regions=OWN)
CPU = torch.device("cpu")


def masks_of(dataset: Dataset, kind: str = "box", source: str | None = None) -> MaskResult:
    context = Context(runs=f"{dataset.store.uri}-runs", tracking=TrackingSettings(uri="off"))
    settings = MaskSettings(mask_kind=kind, box_source="annotated")  # type: ignore[arg-type]
    return mask(dataset.store.uri, settings, source=source, context=context)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """With masks of kind box."""
    made = ingested(tmp_path_factory.mktemp("own"))
    assert masks_of(made).complete == 12
    return made


def yolo(root: Path, labels: Path) -> None:
    for name in photographs(root):
        file = (labels / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{k} {(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT} {(x1 - x0) / WIDTH} {(y1 - y0) / HEIGHT}"
            for k, (x0, y0, x1, y1) in enumerate(CORNERS.values())
        ]
        file.write_text("\n".join(lines))
    (labels.parent / "data.yaml").write_text(json.dumps({"names": list(OWN)}))  # above --boxes, as exports have it


def voc(root: Path, labels: Path) -> None:
    for name in photographs(root):
        file = (labels / name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        objects = "".join(
            f"<object><name>{region}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for region, (x0, y0, x1, y1) in CORNERS.items()
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        file.write_text(f"<annotation><filename>{name}</filename>{size}{objects}</annotation>")


def coco(root: Path, labels: Path) -> None:
    labels.mkdir()
    write_coco(root, labels / "boxes.json")


@pytest.mark.parametrize("write", [coco, yolo, voc])
def test_boxes_of_every_format_have_their_regions(write: object, tmp_path: Path) -> None:
    root, labels = tmp_path / "photographs", tmp_path / "labels"
    write(root, labels)  # type: ignore[operator]
    made = ingest(str(root), str(tmp_path / "data"), boxes=str(labels), settings=SETTINGS)
    assert made.regions == open_dataset(made.store.uri).regions == OWN
    assert read_manifest(made, "regions/annotated").extra["rules"] == "named"
    for shard in made.shards:
        for value in read_shard(made, "regions/annotated", shard)["boxes"].to_pylist():
            found = {box.region: (box.x0, box.y0, box.x1, box.y1) for box in to_boxes(value) or []}
            assert found == {region: pytest.approx(corners, abs=0.01) for region, corners in CORNERS.items()}


def test_the_names_of_boxes_are_not_taken_for_cultivars(tmp_path: Path) -> None:
    root = tmp_path / "photographs"
    yolo(root, root)
    (root / "classes.txt").write_text("midrib\nmargin\nbase\n")
    assert ingest(str(root), str(tmp_path / "data"), settings=SETTINGS).classes == ("a", "b")


def test_masks_have_a_column_for_each_region(dataset: Dataset) -> None:
    table = read_shard(dataset, "masks/box", "train-00000")
    assert table.schema == masks_schema(OWN)
    assert table.schema.names == ["image_id", *OWN]
    for row in table.to_pylist():
        for region, (x0, y0, x1, y1) in CORNERS.items():
            inside = np.zeros((HEIGHT, WIDTH), bool)
            inside[int(y0) : int(y1), int(x0) : int(x1)] = True
            np.testing.assert_array_equal(decode_mask(row[region]), inside)


def test_masks_of_other_regions_are_stale(dataset: Dataset, tmp_path: Path) -> None:
    made = ingested(tmp_path)
    masks_of(made)
    boxes = write_coco(tmp_path / "photographs", tmp_path / "fewer.json", without=("base",))
    fewer = IngestSettings(regions=("midrib", "margin"))
    again = ingest(str(tmp_path / "photographs"), made.store.uri, boxes=boxes, settings=fewer)
    assert again.fingerprint == made.fingerprint
    with pytest.raises(UserError, match="has masks of midrib, margin and base, the regions of the data set are") as one:
        read_manifest(again, "masks/box")
    assert "ufgvc mask" in str(one.value)
    status = read_status(made.store.uri, Context(str(tmp_path / "runs"), tracking=TrackingSettings(uri="off")))
    assert "other regions" in "".join(status.stale) or "other boxes" in "".join(status.stale)
    assert "regions   midrib, margin" in list(status_lines(status))
    assert not masks_of(again).found, "they are made again"
    assert read_shard(again, "masks/box", "test-00000").schema.names == ["image_id", "midrib", "margin"]


def test_luminance_works_for_every_region_and_structure_for_those_of_the_paper(dataset: Dataset) -> None:
    image = np.full((40, 60, 3), 250, np.uint8)
    image[5:35, 5:55] = np.random.default_rng(0).integers(40, 160, (30, 50, 3))
    boxes = [Box(region, *corners) for region, corners in CORNERS.items()]
    masks = make_masks(image, boxes, "luminance", OWN)
    assert list(masks) == list(OWN)
    assert all(mask is not None and mask.any() for mask in masks.values())
    with pytest.raises(UserError, match="defined for vein and contour, and this data set has midrib, margin and base"):
        masks_of(dataset, "structure")


def test_exact_masks_of_every_region(dataset: Dataset, tmp_path: Path) -> None:
    ids = read_index(dataset)["image_id"].to_pylist()
    for number, region in enumerate(OWN):
        for image_id in ids:
            file = tmp_path / "masks" / region / f"{image_id}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_mask(np.arange(WIDTH)[None].repeat(HEIGHT, 0) < 10 * (number + 1)))
    assert masks_of(dataset, "exact", str(tmp_path)).complete == 12
    row = read_shard(dataset, "masks/exact", "train-00000").to_pylist()[0]
    assert [int(decode_mask(row[region]).sum()) for region in OWN] == [400, 800, 1200]
    file.unlink()
    with pytest.raises(UserError, match="this mask is missing") as caught:
        mask(dataset.store.uri, MaskSettings(mask_kind="exact"), source=str(tmp_path), context=Context(fresh=True))
    assert "masks/base/" in str(caught.value)


def test_chunks_cache_and_stream_have_the_masks(dataset: Dataset, tmp_path: Path) -> None:
    (chunk,) = list_chunks(dataset, "train", "box")
    columns = decode_chunk(dataset.store, chunk, 40)
    assert set(columns) == {"position", "image", *(f"{r}_bits" for r in OWN), *(f"has_{r}" for r in OWN)}
    labels = read_index(dataset, "train")["label"].to_numpy().astype(np.int64)
    fingerprint = read_manifest(dataset, "masks/box").fingerprint
    data = load_decoded_split(dataset, "train", 40, "box", fingerprint, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) == pytest.approx(
        decoded_size(6, 40, 3), abs=3000
    )
    common = labels, np.arange(6), 6, 0, 0, 1, CPU
    sources = CachedSource(data, *common), StreamedSource(dataset, "box", 40, *common)
    for batch in (next(source.epoch(0)) for source in sources):
        assert tuple(batch.packed_masks) == tuple(batch.has_mask) == OWN
        for region in OWN:
            wanted = columns[f"{region}_bits"][batch.positions]
            np.testing.assert_array_equal(batch.packed_masks[region].numpy(), wanted)
            assert batch.has_mask[region].all()
    plain = next(StreamedSource(dataset, None, 40, *common).epoch(0))
    assert not plain.packed_masks
    assert not plain.has_mask


def test_a_detector_of_other_regions_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    check_detector(("midrib", "base"), dataset, "detector")
    with pytest.raises(UserError, match="finds vein and contour, the regions of the data set are midrib"):
        check_detector(("vein", "contour"), dataset, "detector")
    with pytest.raises(UserError, match="detector of synthetic leaves finds vein and contour, this data set has"):
        detect(dataset.store.uri, DetectSettings(num_annotated=0), Context(runs=str(tmp_path)))


def test_a_description_without_regions_is_that_of_an_earlier_version(tmp_path: Path) -> None:
    made = ingested(tmp_path, regions=("vein", "contour", *OWN))
    description = made.store.read_json("dataset.json")
    assert description.pop("regions") == ["vein", "contour", *OWN]
    made.store.write_json("dataset.json", description)
    assert open_dataset(made.store.uri).regions == ("vein", "contour")
