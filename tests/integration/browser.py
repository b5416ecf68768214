"""A real Chromium for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def open_page(address: str, size: dict[str, int] = WIDE, dark: bool = False) -> Iterator[Any]:
    """A page of playwright in Debian's Chromium. Fails if a script of the page fails; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium: `apt-get install chromium`")
    errors: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
    assert errors == [], "errors of the page's script"


def check_accessible(page: Any) -> None:
    """AssertionError with what axe-core finds wrong: contrast, names of controls, alternative texts and so on."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def fits(page: Any) -> bool:
    """Whether the page does not scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
