"""Colour profiles for tests: small ICC files made from primaries and curves."""

from __future__ import annotations

import struct

import numpy as np

D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CURVE = struct.pack(
    ">4sIHH5i", b"para", 0, 3, 0, *(round(65536 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def gamma_curve(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(256 * gamma))


def rgb_profile(
    primaries: tuple[tuple[float, float], ...], curve: bytes = SRGB_CURVE, white: tuple[float, float] = D65
) -> bytes:
    """A display profile with three primaries (x, y), a white and one curve."""
    columns = to_xyz(primaries, white).T
    tags = {b"wtpt": _xyz(_white(D50)), b"cprt": _text("none"), b"desc": _text("a display")}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(gamma: float) -> bytes:
    tags = {b"wtpt": _xyz(_white(D50)), b"cprt": _text("none"), b"desc": _text("grey"), b"kTRC": gamma_curve(gamma)}
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags)


def cmyk_profile() -> bytes:
    """A printer whose cyan ink is blue, its magenta red, its yellow yellow; a table of two steps a channel."""
    lab = {
        (0, 0, 0, 0): (255, 128, 128),
        (1, 0, 0, 0): (128, 128, 78),
        (0, 1, 0, 0): (128, 198, 158),
        (0, 0, 1, 0): (230, 118, 208),
    }
    table = b"".join(bytes(lab.get(ink, (0 if ink[3] else 100, 128, 128))) for ink in np.ndindex(2, 2, 2, 2))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + table + 3 * ramp
    tags = {b"wtpt": _xyz(_white(D50)), b"cprt": _text("none"), b"desc": _text("a printer"), b"A2B0": lut}
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)


def to_xyz(primaries: tuple[tuple[float, float], ...], white: tuple[float, float]) -> np.ndarray:
    """Linear RGB -> XYZ as seen under D50."""
    corners = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    matrix = corners * np.linalg.solve(corners, _white(white))
    cones = (BRADFORD @ _white(D50)) / (BRADFORD @ _white(white))
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ matrix


def expected_srgb(
    pixels: np.ndarray, primaries: tuple[tuple[float, float], ...], gamma: float | None = None
) -> np.ndarray:
    """What uint8 pixels of a display with these primaries (white D65) are in sRGB, computed in numbers.

    gamma: None is sRGB's curve.
    """
    values = pixels / 255
    linear = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ (np.linalg.inv(to_xyz(SRGB, D65)) @ to_xyz(primaries, D65)).T, 0, 1)
    return 255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


def _white(xy: tuple[float, float]) -> np.ndarray:
    return np.array([xy[0] / xy[1], 1, (1 - xy[0] - xy[1]) / xy[1]])


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(65536 * value) for value in values))


def _text(text: str) -> bytes:
    return struct.pack(">4sIII2s2sII", b"mluc", 0, 1, 12, b"en", b"US", 2 * len(text), 28) + text.encode("utf-16-be")


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    illuminant = struct.pack(">3i", *(round(65536 * value) for value in _white(D50)))
    head = struct.pack(
        ">I4sI4s4s4s12s4s", at + len(body), bytes(4), 0x04200000, kind, space, connection, bytes(12), b"acsp"
    )
    return (head.ljust(68, b"\0") + illuminant).ljust(128, b"\0") + table + body
