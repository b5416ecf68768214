"""Listing a source: what is refused, and the cultivar of each photograph."""

from __future__ import annotations

from pathlib import Path

import pytest

from ufgvc.core.errors import UserError
from ufgvc.data.readers import list_source
from ufgvc.data.readers.listing import Listing, check_names


def refused(source: Path, *texts: str, **options: object) -> str:
    """Listing stops with one UserError that contains the texts."""
    with pytest.raises(UserError) as caught:
        check_names(list_source(str(source), **options), str(source))  # type: ignore[arg-type]
    for text in (*texts, "->"):
        assert text in str(caught.value)
    return str(caught.value)


def classes(listing: Listing) -> dict[str, str]:
    """The cultivar of each path."""
    return {photo.path: photo.cultivar for photo in listing.photos}
