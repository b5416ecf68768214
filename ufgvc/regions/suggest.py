"""Which leaves to annotate next: those on which the detector is unsure and that look unlike the annotated ones."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import open_store
from ufgvc.core.types import Box
from ufgvc.data.dataset import MANIFEST_FILE, Dataset, Shard, open_dataset, read_images, read_index, read_manifest
from ufgvc.data.images import decode
from ufgvc.data.resize import resize_square
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.regions.annotated import ANNOTATED, list_annotated
from ufgvc.regions.boxes import select_boxes
from ufgvc.regions.detector import Detector, load_detector
from ufgvc.regions.mask_dataset import check_detector, newest_detector
from ufgvc.regions.mask_worker import IOU_THRESHOLD
from ufgvc.regions.proposal_files import Proposal, write_proposals
from ufgvc.regions.settings import SuggestSettings
from ufgvc.regions.synthetic_init import synthetic_detector
from ufgvc.runtime.resources import choose_device
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)
SIDE = 224  # pixels, of the images that are compared with each other
BATCH_SIZE = 16
LOWEST = 0.01  # score of boxes that count in the uncertainty
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SuggestResult:
    """folder: with the photographs and boxes.  leaves: {image_id: uncertainty}, in the order of their choice.

    boxes: proposed ones.  looked_at: leaves.  annotated: training leaves that have boxes.  detector: what proposed; ""
    if no detector knows the regions yet.
    """

    folder: str
    leaves: Mapping[str, float]
    boxes: int
    looked_at: int
    annotated: int
    detector: str

    def summary(self) -> str:
        """The lines for the terminal."""
        names = ", ".join(self.leaves)
        proposed, todo = f"{self.boxes} boxes proposed by {self.detector}", "Correct them"
        if not self.detector:
            proposed, todo = "photographs without boxes, because no detector knows the regions yet", "Draw boxes"
        return (
            f"{len(self.leaves)} of {self.looked_at} leaves to annotate next ({self.annotated} have boxes): {names}\n"
            f"{proposed}, in {self.folder}\n"
            f"{todo} in LabelImg (yolo/ or voc/), CVAT (coco.json) or Label Studio (label-studio.json), and give "
            f"{'the corrected ones' if self.detector else 'them'} to `ufgvc ingest --boxes`"
        )


def suggest(
    data: str,
    out: str,
    settings: SuggestSettings | None = None,
    detector: str | None = None,
    context: Context = Context(),
) -> SuggestResult:
    """Chooses training leaves without boxes, proposes boxes on them, and writes both below `out`.

    detector: folder or URI; default: the newest of this data set in `context.runs`; without one that of synthetic
    leaves, which is trained where it does not exist. That one knows vein and contour: where neither is a region of the
    data set, no boxes are proposed, and leaves are chosen by their looks.
    UserError if every training leaf has boxes, or if there is no such detector, or one of other regions.
    """
    settings = settings or SuggestSettings()
    dataset = open_dataset(data)
    device = choose_device(settings.device)
    known = annotated_ids(dataset)
    pool = sample_pool(dataset, known, settings.pool, context.seed)
    proposer, name = _open_detector(dataset, detector, settings, context, device)
    backbone = build_backbone("efficientnet_lite0", "imagenet").eval().to(device)
    looked_at = (_look(batch, proposer, dataset.regions, backbone, settings) for batch in _read(dataset, pool))
    candidates = [candidate for batch in looked_at for candidate in batch]
    references = [_embed(batch, backbone) for batch in _read(dataset, set(sorted(known)[: settings.pool]))]
    embeddings = np.stack([candidate.embedding for candidate in candidates])
    uncertainty = np.array([candidate.uncertainty for candidate in candidates])
    annotated = np.concatenate(references) if references else np.zeros((0, embeddings.shape[1]))
    chosen = [candidates[i] for i in choose(embeddings, uncertainty, annotated, settings.count)]
    rank = {candidate.proposal.image_id: place for place, candidate in enumerate(chosen)}
    store = open_store(out)
    images = (row for batch in _read(dataset, set(rank)) for row in batch)
    write_proposals(store, images, [candidate.proposal for candidate in chosen], dataset.regions)
    return SuggestResult(
        folder=store.uri,
        leaves={candidate.proposal.image_id: candidate.uncertainty for candidate in chosen},
        boxes=sum(len(candidate.proposal.boxes) for candidate in chosen),
        looked_at=len(candidates),
        annotated=len(known),
        detector=name,
    )


@dataclass(frozen=True)
class _Candidate:
    """A leaf without boxes.  embedding: (C,) of unit length.  uncertainty: in [0, 1]."""

    proposal: Proposal
    embedding: Floats
    uncertainty: float


def choose(embeddings: Floats, uncertainty: Floats, annotated: Floats, count: int) -> list[int]:
    """Indices of `count` leaves, one after another: each has the largest product of uncertainty and distance to the
    nearest leaf that is annotated or was chosen before.

    embeddings: (N, C) of unit length.  uncertainty: (N,) in [0, 1].  annotated: (M, C) of unit length. The distance is
    1 - cos. Without annotated leaves the first one is the leaf nearest to the mean, which is typical.
    """
    chosen: list[int] = []
    distance = np.full(len(embeddings), np.inf)
    if len(annotated):
        distance = 1 - (embeddings @ annotated.T).max(axis=1)
    # A detector that is sure of everything leaves the choice to the distance.
    weight = np.maximum(uncertainty, 1e-3)
    while len(chosen) < min(count, len(embeddings)):
        value = weight * distance if len(annotated) or chosen else embeddings @ embeddings.mean(axis=0)
        value[chosen] = -np.inf
        best = int(np.argmax(value))
        chosen.append(best)
        distance = np.minimum(distance, 1 - embeddings @ embeddings[best])
    return chosen


def measure_uncertainty(boxes: Sequence[Box], max_boxes: Mapping[str, int]) -> float:
    """1 - the mean score of the boxes that a leaf should have, in [0, 1]: the best `max_boxes[region]` of each region,
    with 0 for those that were not found; 1 if none can be found.
    """
    scores: list[float] = []
    for region, limit in max_boxes.items():
        best = sorted((box.score for box in boxes if box.region == region), reverse=True)[:limit]
        scores += best + [0.0] * (limit - len(best))
    return 1 - float(np.mean(scores)) if scores else 1.0


def annotated_ids(dataset: Dataset) -> set[str]:
    """The ids of the training images with boxes; empty where none were ingested."""
    if not dataset.store.exists(f"{ANNOTATED}/{MANIFEST_FILE}"):
        return set()
    manifest = read_manifest(dataset, ANNOTATED)
    return {image.image_id for image in list_annotated(dataset, manifest) if image.split == "train"}


def sample_pool(dataset: Dataset, known: set[str], size: int, seed: int) -> set[str]:
    """At most `size` ids of training images without boxes. UserError if there are none."""
    ids = sorted(set(read_index(dataset, "train")["image_id"].to_pylist()) - known)
    if not ids:
        fix = "train the detector with them (`ufgvc detect`)"
        raise UserError("every training leaf has boxes already", where=dataset.store.uri, fix=fix)
    if len(ids) > size:
        log.info("suggest: looks at %d of %d leaves without boxes (`--pool`)", size, len(ids))
    return set(np.random.default_rng(seed).permutation(ids)[:size].tolist())


def _open_detector(
    dataset: Dataset, detector: str | None, settings: SuggestSettings, context: Context, device: str
) -> tuple[Detector | None, str]:
    """(detector, how the summary names it); (None, "") if there is none, and that of synthetic leaves finds no region.

    UserError if `detector` names one of other regions.
    """
    place = detector
    if place is None:
        with contextlib.suppress(UserError):  # none yet: these are the first leaves to annotate
            place = newest_detector(dataset, context.runs)
    if place is not None:
        with tempfile.TemporaryDirectory(prefix="ufgvc-detector-") as folder:
            open_store(place).download(Path(folder))
            found = load_detector(Path(folder), device)
        if detector is not None:
            check_detector(found.regions, dataset, detector)
        if set(found.regions) <= set(dataset.regions):
            return found, place
    if not set(PAPER_REGIONS) & set(dataset.regions):
        return None, ""
    found = synthetic_detector(context.runs, settings.model, settings.pretrain, device)
    return found, "the detector of synthetic leaves"


Row = dict[str, object]


def _read(dataset: Dataset, ids: set[str]) -> Iterator[list[Row]]:
    """Batches of rows (image_id, image, orientation, ...) of the training images with these ids, shard by shard."""
    shards: list[Shard] = [shard for shard in dataset.shards if shard.split == "train"] if ids else []
    for shard in shards:
        table = read_images(dataset, shard)
        rows = [place for place, name in enumerate(table["image_id"].to_pylist()) if name in ids]
        for start in range(0, len(rows), BATCH_SIZE):
            yield table.take(rows[start : start + BATCH_SIZE]).to_pylist()


def _look(
    rows: list[Row],
    detector: Detector | None,
    regions: Sequence[str],
    backbone: Backbone,
    settings: SuggestSettings,
) -> Iterator[_Candidate]:
    """Boxes, uncertainty and embedding of a batch of rows.  regions: of the data set; boxes of others are left out."""
    images = [decode(row["image"], row["orientation"]) for row in rows]  # type: ignore[arg-type]
    found: list[list[Box]] = [[] for _ in images]
    max_boxes: dict[str, int] = {}
    if detector is not None:
        found = detector.predict(images, min(LOWEST, settings.confidence), IOU_THRESHOLD)
        max_boxes = {region: most for region, most in detector.max_boxes.items() if region in regions}
    embedded = _embed_images(images, backbone)
    for row, image, boxes, embedding in zip(rows, images, found, embedded, strict=True):
        proposed = tuple(select_boxes(boxes, settings.confidence, max_boxes))
        proposal = Proposal(str(row["image_id"]), image.shape[1], image.shape[0], proposed)
        yield _Candidate(proposal, embedding, measure_uncertainty(boxes, max_boxes))


def _embed(rows: list[Row], backbone: Backbone) -> Floats:
    return _embed_images([decode(row["image"], row["orientation"]) for row in rows], backbone)  # type: ignore[arg-type]


def _embed_images(images: Sequence[NDArray[np.uint8]], backbone: Backbone) -> Floats:
    """(B, C) of unit length: the mean of the last map of images (H, W, 3) uint8."""
    device = next(backbone.parameters()).device
    stacked = torch.from_numpy(np.stack([resize_square(image, SIDE) for image in images])).to(device)
    with torch.inference_mode():
        pooled = backbone(stacked.permute(0, 3, 1, 2).float() / 255).mean(dim=(2, 3)).double().cpu().numpy()
    unit: Floats = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return unit
