"""Names of regions: what may be one, and those of the paper.

A data set's regions are chosen when it is ingested (`Dataset.regions`). Their names are columns of its masks, folders
of exact masks, losses and keys of weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from ufgvc.core.config import unique

PAPER_REGIONS = ("vein", "contour")  # also the regions of a data set that was ingested without others
MAX_REGIONS = 8
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
# Columns of images and masks, arrays of decoded masks (<region>_bits, has_<region>), and losses of the methods.
_TAKEN = frozenset(("image", "image_id", "has", "bits", "classification", "tokens"))


def is_region_name(name: str) -> bool:
    """Whether a region may have this name."""
    return bool(_NAME.fullmatch(name)) and not _is_taken(name)


def check_region_name(name: str) -> str:
    """Returns a name that a region may have. ValueError for any other, with one that is like it if there is one."""
    if _is_taken(name):
        raise ValueError(f"{name!r} cannot name a region: a column or a loss has this name; take another one")
    if not is_region_name(name):
        close = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        example = f", such as {close}" if is_region_name(close) else ""
        rule = "at most 30 lower-case letters, digits and _, a letter first"
        raise ValueError(f"{name!r} cannot name a region: use {rule}{example}")
    return name


def _is_taken(name: str) -> bool:
    return name in _TAKEN or name.startswith("has_") or name.endswith("_bits")


def check_region_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of a data set's regions. ValueError for none, more than MAX_REGIONS, or the same one twice."""
    if not 1 <= len(names) <= MAX_REGIONS:
        raise ValueError(f"these are {len(names)} regions: name 1 to {MAX_REGIONS}")
    return unique(names)


RegionName = Annotated[str, AfterValidator(check_region_name)]


def join_names(names: Sequence[str]) -> str:
    """The names in a sentence: "vein", "vein and contour", "midrib, margin and base"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
