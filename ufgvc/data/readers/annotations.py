"""The boxes of a source's photographs: found, read, matched, and the rules by which their classes are regions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.core.storage import join
from ufgvc.data.readers.box_classes import BoxRules, decide_rules
from ufgvc.data.readers.box_files import Annotation
from ufgvc.data.readers.boxes import boxes_beside, match_photos, read_boxes
from ufgvc.data.readers.listing import Listing
from ufgvc.data.readers.scan import Rejected

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoBoxes:
    """by_path: each annotated photograph's boxes.  rejected: box files that cannot be read.  folder: URI of the box files."""

    by_path: dict[str, Annotation] = field(default_factory=dict)
    rules: BoxRules = "named"
    rejected: list[Rejected] = field(default_factory=list)
    folder: str | None = None

    def warn_of_turns(self, index: pa.Table, paths: dict[str, str]) -> None:
        """Box files without a size cannot say whether they were drawn on the upright photograph: warns where it matters.

        index: image_id and orientation (EXIF 1-8) of every photograph.  paths: image_id -> path in the source.
        """
        turned = [
            paths[image_id]
            for image_id, orientation in zip(
                index["image_id"].to_pylist(), index["orientation"].to_pylist(), strict=True
            )
            if orientation != 1 and paths[image_id] in self.by_path and self.by_path[paths[image_id]].relative
        ]
        if turned:
            log.warning(
                "%d of %d photographs with boxes are turned by EXIF (for example %s); their boxes are read as drawn on the upright"
                " photograph. For boxes of LabelImg before 1.8.4, VoTT or Labelbox give --box-orientation stored (docs/boxes.md)",
                len(turned),
                len(self.by_path),
                turned[0],
            )


def read_annotations(uri: str | None, listing: Listing, setting: BoxRules) -> PhotoBoxes:
    """Reads the boxes at `uri`, or those among the photographs. Files that nothing used are added to `listing.left_out`.

    UserError if there are box files and none belongs to a photograph, or their classes are no regions.
    """
    uri = uri or boxes_beside(listing)
    if uri is None:
        log.warning("no boxes: `detect` needs them on a few dozen photographs; give --boxes")
        _list_unused(listing, set())
        return PhotoBoxes()
    found = read_boxes(uri, listing.classes)
    matched = match_photos(found, [photo.path for photo in listing.photos])
    names_file = found.names[0] if found.names else None
    rules = decide_rules(set(found.labels()), setting, names_file)
    meaning = f"named in {names_file}: {found.mapping}" if names_file else f"read by the rules {rules!r}"
    log.info("boxes: %d photographs, classes %s, %s", len(matched.by_path), dict(found.labels()), meaning)
    _list_unused(listing, {join(found.folder, name) for name in found.files})
    if not matched.by_path and not matched.rejected:
        some = found.entries[0][1].file
        fix = "name each box file (or the file_name in the JSON) like its photograph"
        raise UserError(f"none of the boxes belongs to a photograph (for example {some})", where=uri, fix=fix)
    listing.left_out += [
        bad for bad in matched.left_out if found.folder != listing.store.uri or bad.path not in listing.used
    ]
    return PhotoBoxes(matched.by_path, rules, matched.rejected, found.folder)


def _list_unused(listing: Listing, read: set[str]) -> None:
    """Files of the source that are no photographs and that nobody has read are listed too. read: URIs of box files."""
    known = {bad.path for bad in listing.left_out}
    for path in listing.unused:
        if path not in known and join(listing.store.uri, path) not in read:
            listing.left_out.append(Rejected(path, "is not a photograph, and nothing here uses it"))
