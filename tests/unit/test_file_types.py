"""Detection of file types by the first bytes."""

from __future__ import annotations

import struct

import pytest

from tests.factories import encoded
from ufgvc.data.file_types import (
    IMAGE_EXTENSIONS,
    READABLE_TYPES,
    UNSUPPORTED_EXTENSIONS,
    detect_file_type,
    explain_unreadable,
    file_extension,
)


def iso(main: bytes, *others: bytes) -> bytes:
    brands = main + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(40)


def tiff(*tags: tuple[int, int]) -> bytes:
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    )


@pytest.mark.parametrize(("name", "kind"), [("JPEG", "jpeg"), ("MPO", "jpeg"), ("JPEG2000", "jp2"), ("AVIF", "avif")])
def test_what_pillow_writes(name: str, kind: str) -> None:
    assert detect_file_type(encoded(1, name)[:4096]) == kind


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_kinds_with_the_name_that_pillow_gives_them(kind: str) -> None:
    assert detect_file_type(encoded(1, kind)[:64]) == kind.lower()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (iso(b"heic", b"mif1", b"MiHE", b"MiPr", b"miaf", b"MiHB", b"heic"), "heic"),
        (iso(b"mif1", b"heic", b"hevc"), "heic"),
        (iso(b"mif1", b"avif", b"miaf"), "avif"),
        (iso(b"mif1"), "heic"),
        (iso(b"crx ", b"crx ", b"isom"), "cr3"),
        (iso(b"qt  "), "mp4"),
        (iso(b"isom", b"mp42"), "mp4"),
        (b"\0\0\0\x14moov", "mov"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"II*\0\x10\0\0\0CR\x02\0", "cr2"),
        (tiff((254, 1), (50706, 0x00000401)), "dng"),
        (tiff((254, 1), (330, 3)), "raw"),
        (tiff((254, 0), (330, 3)), "tiff"),
        (tiff((256, 40)), "tiff"),
        (b"II*\0", "tiff"),
        (b"FUJIFILMCCD-RAW 0201", "raf"),
        (b"8BPS\0\x01", "psd"),
        (b"%PDF-1.7", "pdf"),
        (b'<?xml version="1.0"?>\n<!-- made by -->\n<svg xmlns=""/>', "svg"),
        (b"<svg/>", "svg"),
    ],
)
def test_first_bytes(head: bytes, kind: str) -> None:
    assert detect_file_type(head) == kind


@pytest.mark.parametrize(
    "head", [b"", b"BM is how this text begins", b"<html>", b"path,label\n", b"RIFF\0\0\0\0WAVE", bytes(99), b"II"]
)
def test_no_picture(head: bytes) -> None:
    assert detect_file_type(head) is None


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "is empty"),
        (bytes(99), "nothing but zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--00.jpg\n", "git annex get"),
        (b"\n<!DOCTYPE html><html>quota exceeded</html>", "HTML page"),
        (b"<HTML>", "HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "error message of a storage server"),
        (b"\0\x05\x16\x07\0", "metadata of another file"),
        (b"PK\x03\x04", "zip archive"),
        (b"II*\0\x10\0\0\0CR\x02\0", r"raw photograph of a camera \(CR2\): export it as JPEG or PNG"),
        (encoded(1, "JPEG2000"), "JPEG 2000"),
        (b"what is this", "is not a photograph of a type that is read"),
    ],
)
def test_a_refusal_says_what_it_is_and_what_to_do(head: bytes, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(explain_unreadable(head))


def test_every_kind_has_its_ending() -> None:
    assert not set(IMAGE_EXTENSIONS) & set(UNSUPPORTED_EXTENSIONS)
    assert {f".{kind}" for kind in READABLE_TYPES} <= set(IMAGE_EXTENSIONS)


def test_endings() -> None:
    assert file_extension("a/b.c/IMG_12.JPG ") == ".jpg"
    assert file_extension("a/b.c/IMG_9") == ""
