"""What kind of file it is, by its first bytes or by its ending, and the reason why some kinds are not read."""

from __future__ import annotations

import posixpath
import re
import struct

HEAD_BYTES = 4096  # of a file are enough for `kind_of` and `refusal`
READABLE = ("jpeg", "png", "webp", "tiff", "heic", "avif", "bmp", "gif")
# Endings of photographs. What the file really is, its first bytes say.
PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjpg", ".pjp", ".mpo", ".jps"),
    *(".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs"),
)
_RAW = "3fr arw cr2 cr3 crw dcr dng erf gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_OTHERS = {
    "jp2 j2k j2c jpc jpf jpx jpm": "a JPEG 2000 picture",
    "jxl": "a JPEG XL picture",
    "jxr wdp hdp": "a JPEG XR picture",
    "psd psb": "a Photoshop document",
    "exr": "an OpenEXR picture",
    "ppm pgm pbm pnm": "a portable pixmap",
}
_DRAWINGS = {"svg svgz": "an SVG drawing", "pdf": "a PDF document", "eps ps ai": "a PostScript drawing"}
_VIDEOS = "mov mp4 m4v avi mkv webm 3gp mts m2ts mpg mpeg wmv flv"


def _raw(name: str) -> str:
    return f"is a raw photograph of a camera ({name}): export it as JPEG or PNG"


def _other(name: str) -> str:
    return f"is {name}, which is not read: save it as JPEG or PNG"


def _drawing(name: str) -> str:
    return f"is {name}, no photograph: save the photograph in it as JPEG or PNG"


_VIDEO = "is a video: save single pictures of it as JPEG or PNG"
# Endings of pictures that are not read: ending -> reason.
OTHER_KINDS: dict[str, str] = {
    **{f".{name}": _raw(name.upper()) for name in _RAW.split()},
    **{f".{name}": _other(words) for names, words in _OTHERS.items() for name in names.split()},
    **{f".{name}": _drawing(words) for names, words in _DRAWINGS.items() for name in names.split()},
    **{f".{name}": _VIDEO for name in _VIDEOS.split()},
}

# Of these, the endings of files that are no photographs in the first place: leaving them out loses none.
NO_PHOTOGRAPHS = frozenset(f".{name}" for names in (*_DRAWINGS, _VIDEOS) for name in names.split())

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF = {b"avif", b"avis"}
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"II\xbc", "jxr"),
    (b"8BPS", "psd"),
    (b"v/1\x01", "exr"),
    (b"FUJIFILMCCD-RAW", "raf"),
    (b"IIRO", "orf"),
    (b"IIRS", "orf"),
    (b"MMOR", "orf"),
    (b"IIU\0", "rw2"),
    (b"\0MRM", "mrw"),
    (b"FOVb", "x3f"),
    (b"%PDF", "pdf"),
    (b"%!PS", "eps"),
    (b"\x1aE\xdf\xa3", "mkv"),
)
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "", b"MM\0+": ""}  # byte order; BigTIFF is not looked into
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
# Files that take the place of a photograph.
_NOT_PICTURES = (
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "is a Git LFS pointer, not the photograph: run `git lfs pull`",
    ),
    (
        re.compile(rb"/annex/objects/|(\.\./)*\.git/annex/"),
        "is a git-annex pointer, not the photograph: run `git annex get`",
    ),
    (
        re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S),
        "is an HTML page (a failed download?): download it again",
    ),
    (
        re.compile(rb"\s*<\?xml.*?<Error>", re.S),
        "is an error message of a storage server (a failed download?): download it again",
    ),
    (re.compile(rb"\0\x05\x16[\0\x07]"), "holds the metadata of another file (macOS), no photograph: delete it"),
    (re.compile(rb"PK\x03\x04"), "is a zip archive: unpack it"),
)


def kind_of(head: bytes) -> str | None:
    """What a file is by its first bytes: one of READABLE, or a key of OTHER_KINDS without its dot; None if it is no picture at all.

    head: the first HEAD_BYTES of the file, or all of a shorter one.
    """
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] in _TIFF:
        return _kind_of_tiff(head)
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot"):
        return "mov"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    # Two letters could be the beginning of any text: the size of the second header has to fit too.
    if head.startswith(b"BM") and head[14:15] in b"\x0c\x28\x34\x38\x40\x6c\x7c" and head[15:18] == b"\0\0\0":
        return "bmp"
    if head[6:14] == b"HEAPCCDR":
        return "crw"
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml.*?)?(<!--.*?-->\s*|<!DOCTYPE svg.*?>\s*)*<svg\b", head, re.S):
        return "svg"
    return None


def refusal(head: bytes) -> str:
    """Why the bytes that begin so are no photograph that can be read: what they are and what to do."""
    if not head:
        return "is empty (zero bytes)"
    kind = kind_of(head)
    if kind is not None and kind not in READABLE:
        return OTHER_KINDS[f".{kind}"]
    for pattern, reason in _NOT_PICTURES:
        if pattern.match(head):
            return reason
    if not head.strip(b"\0"):
        return "holds nothing but zeros (an unfinished copy?): copy it again"
    return "is not a photograph of a kind that is read (JPEG, PNG, WebP, TIFF, HEIC, AVIF, BMP, GIF), or its beginning is damaged"


def ending_of(path: str) -> str:
    """The ending in lower case with its dot, without the blanks that some programs leave behind it; "" if there is none."""
    return posixpath.splitext(path.rstrip())[1].lower()


def _kind_of_brands(head: bytes) -> str:
    """The first box of an ISO file names its main brand and those that it is compatible with."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))}
    if head[8:12] == b"crx ":
        return "cr3"
    if brands & _HEIC:
        return "heic"
    if brands & _AVIF:
        return "avif"
    # mif1 says only that it is an image file; without a codec's brand libheif finds out which.
    return "heic" if brands & {b"mif1", b"msf1"} else "mp4"


def _kind_of_tiff(head: bytes) -> str:
    """Most raw photographs are TIFF files whose first picture is a thumbnail."""
    if head[8:11] == b"CR\x02":
        return "cr2"
    order = _TIFF[head[:4]]
    if not order:
        return "tiff"
    tags = first_tags(head, order)
    if _DNG_VERSION in tags:
        return "dng"
    return "raw" if tags.get(_NEW_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags else "tiff"


def first_tags(head: bytes, order: str) -> dict[int, int]:
    """Tag -> its four bytes as a number, of the first directory of a TIFF file, as far as `head` holds it."""
    at = struct.unpack_from(order + "I", head, 4)[0] if len(head) >= 8 else len(head)
    if at + 2 > len(head):
        return {}
    count = struct.unpack_from(order + "H", head, at)[0]
    entries = range(at + 2, min(at + 2 + 12 * count, len(head) - 11), 12)
    return {tag: value for tag, _, _, value in (struct.unpack_from(order + "HHII", head, entry) for entry in entries)}
