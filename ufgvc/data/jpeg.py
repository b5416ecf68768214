"""Decodes plain JPEG with libjpeg-turbo directly, in a third of Pillow's time and to the same pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:  # where a saved model is served, which needs Pillow only
    simplejpeg = None


def decode_jpeg(image: bytes) -> NDArray[np.uint8] | None:
    """A grey or YCbCr JPEG -> (H, W, 3) uint8 RGB as stored, not turned; None for what Pillow has to judge.

    Those are files that libjpeg-turbo warns of or refuses: damaged ones, of which Pillow still reads some.
    """
    if simplejpeg is None:
        return None
    try:
        # Pillow's settings: the accurate cosine transform, and interpolated colours.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(image, "RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return pixels
