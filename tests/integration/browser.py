"""A real Chromium for the tests of pages."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
DROP = """([name, kind, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: kind }));
    return transfer;
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium: `apt-get install chromium`")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(address: str, size: dict[str, int] = WIDE, dark: bool = False) -> Iterator[Any]:
    """A page in a browser of its own. Fails if a script of the page fails; skips where there is no Chromium."""
    with chromium() as browser, open_in(browser, address, size, dark) as page:
        yield page


@contextmanager
def open_in(
    browser: Any, address: str, size: dict[str, int] = WIDE, dark: bool = False, **options: Any
) -> Iterator[Any]:
    """A page in a browser that is open.  Fails if a script of the page fails, or if it asks anything elsewhere."""
    problems: list[str] = []
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light", **options)
    page.on("pageerror", lambda error: problems.append(str(error)))
    own = (address, "data:", "blob:") if address.startswith("http") else ("file:", "data:", "blob:")
    page.on("request", lambda request: problems.extend([] if request.url.startswith(own) else [request.url]))
    page.goto(address)
    yield page
    page.close()
    assert problems == [], "errors of the page's script, or requests to elsewhere"


def check_accessible(page: Any) -> None:
    """AssertionError with what axe-core finds wrong: contrast, names of controls, alternative texts and so on."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def fits(page: Any) -> bool:
    """Whether the page does not scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def drop(page: Any, name: str, content: bytes, kind: str = "image/heic") -> None:
    """Drops a file on the page."""
    transfer = page.evaluate_handle(DROP, [name, kind, base64.b64encode(content).decode()])
    page.dispatch_event("#upload-drop", "drop", {"dataTransfer": transfer})
