"""Detects the type of a file by its first bytes, and lists file extensions of images and of types that are not read."""

from __future__ import annotations

import posixpath
import re
import struct

HEAD_BYTES = 4096  # as much of a file as `detect_file_type` and `explain_unreadable` need
READABLE_TYPES = ("jpeg", "png", "webp", "tiff", "heic", "avif", "bmp", "gif")
# Extensions of files that are taken for photographs; the first bytes decide on the type.
IMAGE_EXTENSIONS = (
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


_RAW_REASON = "is a raw photograph of a camera ({}): export it as JPEG or PNG"
_OTHER_REASON = "is {}, which is not read: save it as JPEG or PNG"
_DRAWING_REASON = "is {}, no photograph: save the photograph in it as JPEG or PNG"
_VIDEO_REASON = "is a video: save single pictures of it as JPEG or PNG"
# Extensions of images and videos that are not read -> reason.
UNSUPPORTED_EXTENSIONS: dict[str, str] = {
    **{f".{name}": _RAW_REASON.format(name.upper()) for name in _RAW.split()},
    **{f".{name}": _OTHER_REASON.format(text) for names, text in _OTHERS.items() for name in names.split()},
    **{f".{name}": _DRAWING_REASON.format(text) for names, text in _DRAWINGS.items() for name in names.split()},
    **{f".{name}": _VIDEO_REASON for name in _VIDEOS.split()},
}

# Those of them that are not of photographs, and can be left out without a loss.
NON_IMAGE_EXTENSIONS = frozenset(f".{name}" for names in (*_DRAWINGS, _VIDEOS) for name in names.split())

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
_TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "", b"MM\0+": ""}  # byte order; BigTIFF is not parsed
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
# Files that stand in for a photograph.
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


def detect_file_type(head: bytes) -> str | None:
    """One of READABLE_TYPES, or a key of UNSUPPORTED_EXTENSIONS without its dot; None if the type is not known.

    head: the first HEAD_BYTES bytes of the file, or all of a shorter one.
    """
    for start, file_type in _STARTS:
        if head.startswith(start):
            return file_type
    if head[:4] in _TIFF:
        return _tiff_type(head)
    if head[4:8] == b"ftyp":
        return _iso_media_type(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"pnot"):
        return "mov"
    if head.startswith(b"RIFF"):
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    # A text can begin with these two letters, so the size of the second header is checked too.
    if head.startswith(b"BM") and head[14:15] in b"\x0c\x28\x34\x38\x40\x6c\x7c" and head[15:18] == b"\0\0\0":
        return "bmp"
    if head[6:14] == b"HEAPCCDR":
        return "crw"
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml.*?)?(<!--.*?-->\s*|<!DOCTYPE svg.*?>\s*)*<svg\b", head, re.S):
        return "svg"
    return None


def explain_unreadable(head: bytes) -> str:
    """Why a file that begins with `head` cannot be read as an image, and what to do; ends an error message."""
    if not head:
        return "is empty (zero bytes)"
    file_type = detect_file_type(head)
    if file_type is not None and file_type not in READABLE_TYPES:
        return UNSUPPORTED_EXTENSIONS[f".{file_type}"]
    for pattern, reason in _NOT_PICTURES:
        if pattern.match(head):
            return reason
    if not head.strip(b"\0"):
        return "holds nothing but zeros (an unfinished copy?): copy it again"
    return (
        "is not a photograph of a type that is read (JPEG, PNG, WebP, TIFF, HEIC, AVIF, BMP, GIF), "
        "or its beginning is damaged"
    )


def file_extension(path: str) -> str:
    """The extension in lower case with its dot, without trailing blanks; "" if there is none."""
    return posixpath.splitext(path.rstrip())[1].lower()


def _iso_media_type(head: bytes) -> str:
    """The type of an ISO base media file by the brands in its first box."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))}
    if head[8:12] == b"crx ":
        return "cr3"
    if brands & _HEIC:
        return "heic"
    if brands & _AVIF:
        return "avif"
    # mif1 only means an image file; libheif finds the codec.
    return "heic" if brands & {b"mif1", b"msf1"} else "mp4"


def _tiff_type(head: bytes) -> str:
    """Returns "tiff" or the raw format: most raw photographs are TIFF files whose first image is a thumbnail."""
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
    """{tag: its four value bytes as a number} of the first directory of a TIFF file, as far as `head` goes.

    order: byte order as in `struct`, "<" or ">".
    """
    at = struct.unpack_from(order + "I", head, 4)[0] if len(head) >= 8 else len(head)
    if at + 2 > len(head):
        return {}
    count = struct.unpack_from(order + "H", head, at)[0]
    entries = range(at + 2, min(at + 2 + 12 * count, len(head) - 11), 12)
    return {tag: value for tag, _, _, value in (struct.unpack_from(order + "HHII", head, entry) for entry in entries)}
