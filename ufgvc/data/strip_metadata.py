"""Removes metadata from encoded JPEG, PNG and WebP images by dropping segments; compressed pixels stay as they are."""

from __future__ import annotations


def _strip_jpeg(image: bytes) -> bytes:
    """Keeps tables, frames, scans, the JFIF header without its thumbnail, and Adobe's colour transform."""
    segments, at, end = [b"\xff\xd8"], 2, len(image)
    while at + 4 <= end:
        if image[at] != 0xFF:
            at += 1
            continue
        marker = image[at + 1]
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        stop = at + 2 + int.from_bytes(image[at + 2 : at + 4], "big")
        segment = image[at:stop]
        if marker == 0xDA:
            stop = _end_of_scan(image, stop)
            segments.append(image[at:stop])
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segments.append(b"\xff\xe0\x00\x10" + segment[4:16] + b"\0\0")
        elif (marker == 0xEE and segment[4:9] == b"Adobe") or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            segments.append(segment)
        at = stop
    return b"".join([*segments, b"\xff\xd9"])


def _end_of_scan(image: bytes, at: int) -> int:
    """Index of the first marker at or after `at`. In a scan, 0xFF followed by 0 or a restart marker is data."""
    while (at := image.find(b"\xff", at)) >= 0 and at + 1 < len(image):
        if image[at + 1] in (0x00, 0xFF) or 0xD0 <= image[at + 1] <= 0xD7:
            at += 1 if image[at + 1] == 0xFF else 2
            continue
        return at
    return len(image)


def _strip_png(image: bytes) -> bytes:
    segments, at = [image[:8]], 8
    while at + 12 <= len(image):
        stop = at + 12 + int.from_bytes(image[at : at + 4], "big")
        name = image[at + 4 : at + 8]
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            segments.append(image[at:stop])
        if name == b"IEND":
            break
        at = stop
    return b"".join(segments)


def _strip_webp(image: bytes) -> bytes:
    segments, at = [], 12
    while at + 8 <= len(image):
        size = int.from_bytes(image[at + 4 : at + 8], "little")
        stop = at + 8 + size + size % 2
        name, chunk = image[at : at + 4], image[at:stop]
        if name == b"VP8X":
            # The flags say which chunks follow: ICC profile, alpha, EXIF, XMP, animation. Only alpha stays.
            chunk = chunk[:8] + bytes([chunk[8] & 0x10]) + chunk[9:]
        if name in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH"):
            segments.append(chunk)
        at = stop
    body = b"WEBP" + b"".join(segments)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def is_lossy_webp(image: bytes) -> bool:
    """Whether the (first) image of a WebP file is lossy."""
    at = 12
    while at + 8 <= len(image) and image[at : at + 4] not in (b"VP8 ", b"VP8L", b"ANMF"):
        at += 8 + int.from_bytes(image[at + 4 : at + 8], "little") + image[at + 4] % 2
    # The first frame of an animation has a chunk of its own, after 16 bytes with its position and duration.
    return image[at : at + 4] == b"VP8 " or b"VP8 " in image[at + 24 : at + 36]


# Pillow's name of a format -> function from the encoded image to the one without metadata.
STRIPPERS = {"JPEG": _strip_jpeg, "PNG": _strip_png, "WEBP": _strip_webp}
