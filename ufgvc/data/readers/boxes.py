"""Finds and reads the box files of annotation tools, and matches them to photographs.

Boxes are relative to the upright photograph, as annotation tools show it (docs/boxes.md).
"""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import Store, join, open_store
from ufgvc.core.text import decode_text
from ufgvc.data.file_types import file_extension
from ufgvc.data.readers.box_classes import ClassNames, is_names_file, read_name_files
from ufgvc.data.readers.box_files import Annotation, RawBox, json_format, load_json, parse_coco, parse_voc, parse_yolo
from ufgvc.data.readers.listing import Listing
from ufgvc.data.readers.matching import PathMatcher
from ufgvc.data.readers.scan import Rejected, scan, split_uri

_READERS = 8
_MAX_JSON = 4  # JSON files among the photographs that are opened to find boxes
_FORMATS = {".txt": "YOLO .txt", ".xml": "Pascal VOC .xml", ".json": "COCO .json"}
_FIX = "point --boxes at a folder with one format, or at the .json file"


@dataclass
class BoxFiles:
    """The content of the box files of a folder.

    entries: (name of the photograph in the file, its boxes).  unread: (name, why its boxes cannot be read).
    names: files of class names that were used, mapping: their content.  folder: its URI.  files: all files that were
    read.
    """

    uri: str
    entries: list[tuple[str, Annotation]] = field(default_factory=list)
    unread: list[tuple[str, Rejected]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    mapping: dict[int, str] = field(default_factory=dict)
    folder: str = ""
    files: list[str] = field(default_factory=list)

    def labels(self) -> Counter[str]:
        """How often each class occurs."""
        return Counter(box.label for _, annotation in self.entries for box in annotation.boxes)


@dataclass(frozen=True)
class Matched:
    """by_path: the boxes of each photograph.  rejected: boxes that cannot be used.  left_out: files without a
    photograph.
    """

    by_path: dict[str, Annotation]
    rejected: list[Rejected]
    left_out: list[Rejected]


def read_boxes(uri: str, cultivars: Iterable[str] = (), regions: Sequence[str] = PAPER_REGIONS) -> BoxFiles:
    """Reads every YOLO .txt, Pascal VOC .xml or COCO .json file below a folder, or one .json file, with the files of
    class names.

    cultivars: the classes of the data set, so that a list of them is not taken for classes of boxes.  regions: of the
    data set, so that a list of them in the parent folder is found.
    UserError if there are no box files, or several formats.
    """
    folder, file = split_uri(uri)
    if file and file_extension(file) != ".json":
        raise UserError(f"is one file, but not COCO .json ({file})", where=uri, fix=_FIX)
    store = open_store(folder)
    if file and not store.is_file(file):
        raise UserError("there is no such file", where=uri, fix="check --boxes")
    files = [file] if file else list(scan(store, "--boxes").sizes)
    named = [name for name in files if is_names_file(name)]
    found = BoxFiles(uri, folder=store.uri)
    documents = _read_json(
        store, [name for name in files if file_extension(name) == ".json" and name not in named], bool(file)
    )
    texts = [name for name in files if file_extension(name) in (".txt", ".xml") and name not in named]
    names = read_name_files(store, named, cultivars, regions, None if file else parent_folder(store))
    with ThreadPoolExecutor(_READERS) as pool:
        read = dict(zip(texts, pool.map(store.read_bytes, texts), strict=True))
    found.files = [*named, *texts, *documents]
    for name in texts:
        classes = names.names_for(name) if file_extension(name) == ".txt" else None
        try:
            annotation = (
                _read_yolo(store, name, read[name], classes, found)
                if file_extension(name) == ".txt"
                else parse_voc(read[name], name)
            )
            found.entries.append((posixpath.splitext(name)[0], annotation))
        except (ValueError, UserError) as error:
            reason = f"it {error.what}; {error.fix}" if isinstance(error, UserError) else str(error)
            found.unread.append((posixpath.splitext(name)[0], Rejected(name, f"its boxes cannot be read: {reason}")))
    for name, document in documents.items():
        try:
            found.entries += parse_coco(document, name)
        except ValueError as error:
            raise UserError(
                str(error), where=f"{store.uri}/{name}", fix="export the boxes again as COCO JSON"
            ) from None
    _check_formats(found)
    return found


def _check_formats(found: BoxFiles) -> None:
    """UserError if nothing could be read, or if there are several formats."""
    formats = sorted({file_extension(annotation.file) for _, annotation in found.entries})
    if len(formats) > 1:
        several = ", ".join(_FORMATS[ending] for ending in formats)
        raise UserError(f"contains boxes of several formats ({several})", where=found.uri, fix=_FIX)
    if not formats and found.unread:
        first = found.unread[0][1]
        raise UserError(f"contains no boxes that can be read; {first.path}: {first.reason}", where=found.uri, fix=_FIX)
    if not formats:
        raise UserError("contains no YOLO .txt, COCO .json or Pascal VOC .xml files", where=found.uri, fix=_FIX)


def _read_yolo(store: Store, name: str, data: bytes, classes: ClassNames | None, found: BoxFiles) -> Annotation:
    text = decode_text(data, f"{store.uri}/{name}")
    boxes = parse_yolo(text, classes.names if classes else {})
    if classes and classes.file not in found.names:
        found.names.append(classes.file)
        found.mapping |= classes.names
    return Annotation(name, boxes, None, relative=True)


def _read_json(store: Store, names: list[str], only: bool) -> dict[str, Any]:
    """The COCO documents among the .json files. UserError for the format of another tool."""
    documents: dict[str, Any] = {}
    for name in names:
        where = f"{store.uri}/{name}"
        try:
            document = load_json(store.read_text(name))
        except ValueError as error:
            raise UserError(str(error), where=where, fix="export the boxes again as COCO JSON") from None
        kind = json_format(document)
        if kind == "coco":
            documents[name] = document
        elif kind and kind != "names":
            raise UserError(f"is {kind}, not COCO", where=where, fix="export as COCO JSON, YOLO or Pascal VOC")
        elif only:
            fix = "export the boxes as COCO JSON: images, categories, annotations"
            raise UserError("is JSON, but not COCO", where=where, fix=fix)
    return documents


def parent_folder(store: Store) -> Store | None:
    """The parent folder, where YOLO exports keep the class names of labels/; None for a bucket or the root folder."""
    parent, _, name = store.uri.rstrip("/").rpartition("/")
    return open_store(parent) if name and parent and not parent.endswith("/") else None


def find_boxes(listing: Listing) -> str | None:
    """The URI of boxes among the photographs: files of the same names, or one COCO file; None if there are none."""
    stems = {posixpath.splitext(path)[0] for path in listing.unused if file_extension(path) in (".txt", ".xml")}
    if stems and any(posixpath.splitext(path)[0] in stems for path in listing.photos.paths()):
        return listing.store.uri
    documents = [path for path in listing.unused if file_extension(path) == ".json"]
    coco = [path for path in documents[:_MAX_JSON] if json_format(_read_any_json(listing.store, path)) == "coco"]
    return join(listing.store.uri, coco[0]) if len(coco) == len(documents) == 1 else None


def _read_any_json(store: Store, name: str) -> Any:
    """The value of a file; None if it cannot be read as JSON."""
    try:
        return load_json(store.read_text(name))
    except (ValueError, UserError):
        return None


def match_boxes(found: BoxFiles, paths: Iterable[str]) -> Matched:
    """Matches the boxes to the photographs; several files with different classes of one photograph are merged.

    A file that matches no photograph, or several, is left out. Two files with different boxes of the same class for one
    photograph contradict each other, and both are rejected.
    """
    matcher = PathMatcher(paths, names=[name for name, _ in (*found.entries, *found.unread)])
    by_path: dict[str, list[Annotation]] = defaultdict(list)
    matched = Matched({}, [], [])
    for name, annotation in found.entries:
        photos = matcher.find(name)
        if len(photos) == 1:
            by_path[photos[0]].append(annotation)
        else:
            matched.left_out.append(Rejected(_describe_entry(name, annotation), _why_unmatched(photos)))
    for name, bad in found.unread:
        if matcher.find(name):
            matched.rejected.append(bad)
        else:
            matched.left_out.append(Rejected(bad.path, f"belongs to no photograph, and {bad.reason}"))
    for path, several in by_path.items():
        merged = several[0]
        for other in several[1:]:
            problem = _contradiction(merged, other)
            if problem:
                matched.rejected.append(Rejected(path, problem))
                break
            merged = Annotation(
                merged.file, tuple(dict.fromkeys((*merged.boxes, *other.boxes))), merged.size, merged.relative
            )
        else:
            matched.by_path[path] = merged
    return matched


def _describe_entry(name: str, annotation: Annotation) -> str:
    return f"{annotation.file}: {name}" if file_extension(annotation.file) == ".json" else annotation.file


def _why_unmatched(photos: list[str]) -> str:
    if not photos:
        return "its boxes belong to no photograph of the data set"
    return f"{len(photos)} photographs have this name: {', '.join(photos[:3])}"


def _contradiction(first: Annotation, other: Annotation) -> str:
    """Why the boxes of two files cannot be merged; "" if they can."""
    if (first.size, first.relative) != (other.size, other.relative):
        return f"has boxes in {first.file} and {other.file}, drawn on pictures of different sizes"
    both = {box.label for box in first.boxes} & {box.label for box in other.boxes}
    for label in sorted(both):
        if _boxes_of(first, label) != _boxes_of(other, label):
            return f"has boxes of the class {label!r} in {first.file} and in {other.file}"
    return ""


def _boxes_of(annotation: Annotation, label: str) -> set[RawBox]:
    return {box for box in annotation.boxes if box.label == label}
