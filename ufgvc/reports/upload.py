"""A block of a page: photographs that are dropped, chosen or taken are sent to the service that shows the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Upload:
    """title: for screen readers.  max_bytes: of a photograph.  needs_token: whether the page asks for a token first."""

    title: str
    max_bytes: int
    needs_token: bool
