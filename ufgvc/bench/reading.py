"""Times decoding on one core: from encoded photographs to square images with both masks."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ufgvc.bench.dataset import BenchData
from ufgvc.bench.timing import Measurement, time_in_turn
from ufgvc.data.stream import Chunk, decode_chunk, list_chunks

Pixels = NDArray[np.uint8]
Decoder = Callable[[bytes], Pixels]
SIDE = 512  # pixels that the paper's recipes decode to
SAMPLE = 24  # photographs a call, on one core: with `--photographs 32` a whole row group, which is read at once
EXACT = 1  # grey levels that a decoder may differ from Pillow's, to count as exact
UNIT = "photographs/s/core"
PLAIN = "Pillow + torchvision transforms"


def read_on_one_core(data: BenchData, rounds: int, seed: int) -> list[Measurement]:
    """Image and both masks, single-threaded, in process time.

    `ufgvc` is compared with Pillow and torchvision transforms, the fastest exact way, and decoding alone.
    """
    images, masks = data.encoded[:SAMPLE], data.masks[:SAMPLE]
    name, fastest = fastest_exact_decoder(images, seed)
    # As training reads: Parquet, decoding, resizing, packed masks.
    chunk = _first_rows(list_chunks(data.dataset, "train", "exact")[0], SAMPLE)
    alone, exact = f"decoding alone ({name})", f"fastest exact: {name}, torch resize, OpenCV masks"
    calls: dict[str, Callable[[], object]] = {
        PLAIN: lambda: [plain_sample(*each) for each in zip(images, masks, strict=True)],
        "ufgvc": lambda: decode_chunk(data.dataset.store, chunk, SIDE),
        exact: lambda: [fast_sample(fastest, *each) for each in zip(images, masks, strict=True)],
        alone: lambda: [fastest(image) for image in images],
    }
    with SingleThreaded():
        timed = time_in_turn(calls, rounds, clock=time.process_time, seed=seed)
    count = len(images)
    rows = [timed.rate(PLAIN, UNIT, count)]
    rows += [timed.rate(each, UNIT, count, baseline=PLAIN) for each in ("ufgvc", exact, alone)]
    return [*rows, timed.rate("ufgvc", UNIT, count, baseline=exact), timed.rate("ufgvc", UNIT, count, baseline=alone)]


def _first_rows(chunk: Chunk, rows: int) -> Chunk:
    return Chunk(chunk.images, chunk.masks, chunk.start, min(chunk.start + rows, chunk.stop), chunk.position)


class SingleThreaded:
    """Context manager: torch and OpenCV use one thread."""

    def __enter__(self) -> None:
        import cv2

        self.before = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(1)

    def __exit__(self, *error: object) -> None:
        import cv2

        torch.set_num_threads(self.before[0])
        cv2.setNumThreads(self.before[1])


def plain_sample(image: bytes, masks: Sequence[bytes]) -> tuple[torch.Tensor, ...]:
    """The usual way with Pillow and torchvision: image (3, SIDE, SIDE) and masks (1, SIDE, SIDE), float in [0, 1]."""
    from torchvision.transforms import functional as transforms
    from torchvision.transforms.functional import InterpolationMode

    whole = transforms.to_tensor(transforms.resize(Image.open(io.BytesIO(image)).convert("RGB"), [SIDE, SIDE]))
    squares = (
        transforms.resize(Image.open(io.BytesIO(mask)), [SIDE, SIDE], InterpolationMode.NEAREST) for mask in masks
    )
    return (whole, *(transforms.to_tensor(each) for each in squares))


def fast_sample(decoder: Decoder, image: bytes, masks: Sequence[bytes]) -> tuple[Pixels, ...]:
    """The same as uint8 (SIDE, SIDE, 3) and packed masks; torch's antialiased uint8 resize is within one grey level
    of Pillow's."""
    import cv2

    pixels = torch.from_numpy(decoder(image)).permute(2, 0, 1)[None]  # channels last in memory
    squared = functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    read: Any = (cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE) for mask in masks)
    return (
        squared,
        *(np.packbits(cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0, axis=1) for each in read),
    )


def decoders() -> dict[str, Decoder]:
    """The installed decoders to (H, W, 3) uint8 RGB, by name."""
    import cv2
    from torchvision.io import ImageReadMode, decode_image

    def by_torchvision(image: bytes) -> Pixels:
        read = torch.frombuffer(bytearray(image), dtype=torch.uint8)
        return decode_image(read, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()

    def by_opencv(image: bytes) -> Any:
        read: Any = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(read, cv2.COLOR_BGR2RGB)

    found: dict[str, Decoder] = {
        "Pillow": lambda image: np.asarray(Image.open(io.BytesIO(image)).convert("RGB")),
        "OpenCV": by_opencv,
        "torchvision": by_torchvision,
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = simplejpeg.decode_jpeg
    return found


def fastest_exact_decoder(images: Sequence[bytes], seed: int) -> tuple[str, Decoder]:
    """The fastest installed decoder whose pixels are within EXACT grey levels of Pillow's on these photographs."""
    known = decoders()
    exact = {
        name: decoder
        for name, decoder in known.items()
        if all(_agrees(decoder, known["Pillow"], image) for image in images[:2])
    }
    calls = {name: partial(_decode_all, decoder, images) for name, decoder in exact.items()}
    with SingleThreaded():
        timed = time_in_turn(calls, rounds=3, clock=time.process_time, seed=seed)
    name = min(exact, key=lambda each: sorted(timed.seconds[each])[1])
    return name, exact[name]


def _decode_all(decoder: Decoder, images: Sequence[bytes]) -> list[Pixels]:
    return [decoder(image) for image in images]


def _agrees(decoder: Decoder, reference: Decoder, image: bytes) -> bool:
    import cv2

    wanted = reference(image).astype(np.int16)
    try:
        pixels = decoder(image)
    except (ValueError, RuntimeError, cv2.error):  # a format that this decoder does not read
        return False
    return pixels.shape == wanted.shape and int(np.abs(pixels - wanted).max()) <= EXACT
