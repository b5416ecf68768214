"""The page of the service: drop or take a photograph, see what the model says of it."""

from __future__ import annotations

from ufgvc import __version__
from ufgvc.reports.page import Page, Section
from ufgvc.reports.upload import Upload
from ufgvc.serving.settings import ServiceSettings

TEXT = "One leaf on a plain background, the whole leaf in the picture."
MAP = (
    "Next to the photograph, as the network sees it, lies the map of what spoke for the likeliest cultivar: bright "
    "regions raised its score."
)
NEAREST = (
    "Those whose embeddings are nearest, with the distance 1 - cos (0 to 2); a frame marks those of the likeliest "
    "cultivar."
)


def compose_page(settings: ServiceSettings, needs_token: bool) -> str:
    """The page as HTML. It names no model: each answer does, because another version may have taken over."""
    upload = Upload("Photographs to name", settings.max_bytes, needs_token)
    return Page(
        eyebrow="ufgvc",
        title="Which cultivar is this leaf?",
        headline="",
        explanation="",
        stats=[],
        sections=[Section("Your photograph", TEXT, [upload])],
        facts={
            "Map": MAP,
            "Training leaves": NEAREST,
            "Photographs": f"JPEG, PNG, HEIC, AVIF, WebP or TIFF, up to {settings.max_mb:g} MB; read in memory and "
            "not kept",
            "Programs": "POST /predict takes the same photographs; /openapi.json describes it",
        },
        facts_title="What this page shows and sends",
        footer=f"ufgvc {__version__}. This page needs no network but the service itself.",
    ).to_html()
