"""Reads the boxes of a source, matches them to its photographs, and chooses the rules that map classes to regions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.storage import join
from ufgvc.data.readers.box_classes import BoxRules, choose_rules
from ufgvc.data.readers.box_files import Annotation
from ufgvc.data.readers.boxes import find_boxes, match_boxes, read_boxes
from ufgvc.data.readers.listing import Listing
from ufgvc.data.readers.photos import Photos
from ufgvc.data.readers.scan import Rejected

log = logging.getLogger(__name__)
NOT_USED = "is not a photograph, and nothing here uses it"


@dataclass(frozen=True)
class AnnotatedPhotos:
    """The photographs with boxes.  by_path: the boxes by path.  rejected: box files that cannot be read.  folder: their
    URI.
    """

    by_path: dict[str, Annotation] = field(default_factory=dict)
    rules: BoxRules = "named"
    rejected: list[Rejected] = field(default_factory=list)
    folder: str | None = None

    def warn_about_rotation(self, index: pa.Table, photos: Photos) -> None:
        """Warns if photographs are rotated by EXIF and their box files do not show on which orientation they were
        drawn.

        index: image_id and orientation (EXIF 1-8) of every photograph.  photos: that were listed.
        """
        if not self.by_path:
            return
        ids = index["image_id"].filter(pc.not_equal(index["orientation"], 1)).to_pylist()
        paths = photos.paths_of(ids)
        rotated = [
            paths[image_id]
            for image_id in ids
            if paths[image_id] in self.by_path and self.by_path[paths[image_id]].relative
        ]
        if rotated:
            log.warning(
                "%d of %d photographs with boxes are rotated by EXIF (for example %s); their boxes are read as drawn on"
                " the upright photograph. For boxes of LabelImg before 1.8.4, VoTT or Labelbox give"
                " --box-orientation stored (docs/boxes.md)",
                len(rotated),
                len(self.by_path),
                rotated[0],
            )


def read_annotations(
    uri: str | None, listing: Listing, setting: BoxRules, regions: Sequence[str] = PAPER_REGIONS
) -> AnnotatedPhotos:
    """Reads the boxes at `uri`, or those among the photographs. Unused files are added to `listing.left_out`.

    UserError if no box file belongs to a photograph, or if the classes are not regions.  regions: of the data set.
    """
    uri = uri or find_boxes(listing)
    if uri is None:
        log.info("no boxes: only methods that are guided by masks need them, on a few dozen photographs (--boxes)")
        _list_unused(listing, set())
        return AnnotatedPhotos()
    found = read_boxes(uri, listing.classes, regions)
    matched = match_boxes(found, listing.photos.paths())
    names_file = found.names[0] if found.names else None
    rules = choose_rules(set(found.labels()), setting, names_file, regions)
    source = f"named in {names_file}: {found.mapping}" if names_file else f"read by the rules {rules!r}"
    log.info("boxes: %d photographs, classes %s, %s", len(matched.by_path), dict(found.labels()), source)
    missing = set(regions) - {label.lower() for label in found.labels()}
    if rules == "named" and missing:
        log.warning("boxes: none of %s", join_names(sorted(missing)))
    _list_unused(listing, {join(found.folder, name) for name in found.files})
    if not matched.by_path and not matched.rejected:
        example = found.entries[0][1].file
        fix = "name each box file (or the file_name in the JSON) like its photograph"
        raise UserError(f"none of the boxes belongs to a photograph (for example {example})", where=uri, fix=fix)
    listing.left_out += [
        bad for bad in matched.left_out if found.folder != listing.store.uri or bad.path not in listing.used
    ]
    return AnnotatedPhotos(matched.by_path, rules, matched.rejected, found.folder)


def _list_unused(listing: Listing, read: set[str]) -> None:
    """Adds files that are not photographs and that were not read to `listing.left_out`.  read: URIs of box files."""
    known = {bad.path for bad in listing.left_out}
    for path in listing.unused:
        if path not in known and join(listing.store.uri, path) not in read:
            listing.left_out.append(Rejected(path, NOT_USED))
