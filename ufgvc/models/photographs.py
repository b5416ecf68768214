"""The photographs that a model is given: paths, URIs, or the content of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store

Photograph = str | os.PathLike[str] | bytes


def as_list(photographs: Photograph | Sequence[Photograph]) -> list[Photograph]:
    """A single photograph, or several, as a list."""
    return [photographs] if isinstance(photographs, str | bytes | os.PathLike) else list(photographs)


def paths_of(photographs: Sequence[Photograph]) -> list[str] | None:
    """The paths and URIs as text; None if there is content among them."""
    if any(isinstance(each, bytes) for each in photographs):
        return None
    return [os.fspath(each) for each in photographs if not isinstance(each, bytes)]


def read_content(photograph: Photograph) -> bytes:
    """The content of the image file. UserError if there is no file at the path or URI."""
    if isinstance(photograph, bytes):
        return photograph
    where = os.fspath(photograph)
    try:
        return open_store(where).read_bytes("")
    except FileNotFoundError:
        raise UserError("there is no such photograph", where=where, fix="check the path") from None
