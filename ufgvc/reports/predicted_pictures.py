"""Small pictures of predicted photographs, each next to the map of what spoke for its cultivar."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ufgvc.core.errors import UnreadableFile, UserError
from ufgvc.core.storage import Store
from ufgvc.data.images import BadImage, Pixels, decode_photograph
from ufgvc.data.resize import encode_thumbnail
from ufgvc.evaluation.cam import BATCH_SIZE, activation_maps
from ufgvc.evaluation.predict import predicts_in_process
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.models.model import LoadedModel
from ufgvc.reports.photographs import overlay_map
from ufgvc.runtime.resources import actor_pool, choose_device
from ufgvc.runtime.session import RaySettings
from ufgvc.runtime.tasks import configure_ray_data, map_in_threads, run_tasks

SIDE = 192  # pixels, the longer side of a picture
QUALITY = 80
THREADS = 2  # in this process: pictures of a batch are drawn while the network computes the maps of another
_PASS = threading.Lock()  # a network may keep maps of its pass (`StageMaps`), so one thread uses it at a time


def draw_pictures(
    model: LoadedModel, images: Sequence[Pixels], shapes: Sequence[tuple[int, int]] | None = None
) -> Iterator[tuple[bytes, int, int, bool]]:
    """The picture of each upright image (H, W, 3) uint8: JPEG file, width, height and has_map, as of `PictureMaker`.

    shapes: (height, width) of the photographs, where the images are resized already; None: those of the images.
    """
    views = model.view(images)
    maps = None
    if not model.exported:
        try:
            with _PASS:
                maps, _ = activation_maps(model.net, views, model.method.last_map)
        except UserError:  # a network without a map before pooling
            maps = None
    for i, (height, width) in enumerate(shapes or [image.shape[:2] for image in images]):
        seen = (views[i].permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        tiles = [seen] if maps is None else [seen, overlay_map(views[i], maps[i])]
        scale = SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        tiles = [np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS)) for tile in tiles]
        yield encode_thumbnail(np.hstack(tiles), 2 * SIDE, QUALITY), *size, maps is not None


class PictureMaker:
    """{"path": (B,)} -> columns path, picture (a JPEG file; b"" for a photograph that could not be read again), width
    and height of one photograph in it, and has_map: the map lies on the right half.

    Photographs are shown as the network sees them (its crop), in the aspect ratio that they have.
    model: or, for an actor, Ray's reference to it.
    """

    def __init__(self, store: Store, model: Any, device: str) -> None:
        if not isinstance(model, LoadedModel):
            import ray

            model = ray.get(model)
        self.store = store
        self.model: LoadedModel = model if model.exported else model.to(device)

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Makes the pictures of a batch."""
        paths = [str(path) for path in batch["path"]]
        images = {path: image for path in paths if (image := self._read(path)) is not None}
        drawn: dict[str, tuple[bytes, int, int, bool]] = {}
        readable = list(images)
        for start in range(0, len(readable), BATCH_SIZE):
            part = readable[start : start + BATCH_SIZE]
            squares, shapes = zip(*(images[path] for path in part), strict=True)
            drawn |= zip(part, draw_pictures(self.model, squares, shapes), strict=True)
        columns = zip(*[drawn.get(path, (b"", 1, 1, False)) for path in paths], strict=True)
        return pa.table(dict(zip(("path", "picture", "width", "height", "has_map"), (paths, *columns), strict=True)))

    def _read(self, path: str) -> tuple[Pixels, tuple[int, int]] | None:
        """The photograph as the model resizes it, and its (height, width)."""
        try:
            image = decode_photograph(self.store.read_bytes(path))
            return self.model.resize(image), (image.shape[0], image.shape[1])
        except (BadImage, FileNotFoundError, UnreadableFile):
            return None  # changed since it was predicted; the page shows no picture


def make_pictures(
    store: Store, paths: Sequence[str], model: LoadedModel, settings: PredictSettings, session: RaySettings
) -> Iterator[dict[str, Any]]:
    """The rows of `PictureMaker` in the order of the paths: by actors where `predict` uses them, else here.

    Inside of a Ray session where `predicts_in_process` is false.
    """
    if not paths:
        return
    if predicts_in_process(len(paths), settings, session):
        maker = PictureMaker(store, model, "cpu" if model.exported else choose_device(settings.device))
        size = settings.batch_size
        parts = ({"path": paths[start : start + size]} for start in range(0, len(paths), size))
        for part in map_in_threads(maker, parts, THREADS):
            yield from part.to_pylist()
        return
    import ray

    configure_ray_data()
    batches = -(-len(paths) // settings.batch_size)
    pool = actor_pool(settings, batches, can_use_gpu=not model.exported)
    rows = ray.data.from_arrow(pa.table({"path": list(paths)})).repartition(min(batches, 4 * pool.max_actors))
    made = rows.map_batches(
        PictureMaker,
        fn_constructor_args=(store, ray.put(model.to("cpu")), pool.device),
        batch_size=settings.batch_size,
        **pool.options,
    )
    table: pa.Table
    for table in run_tasks(made.iter_batches(batch_size=None, batch_format="pyarrow")):
        yield from table.to_pylist()
