"""Debian's Chromium, driven by playwright; the tests that need it skip where it is missing."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

DROP = """([name, kind, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type: kind }));
    return transfer;
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page. In the end there may have been no error in its scripts, and no request to anywhere else."""
    page = browser.new_page(**options)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.extend([] if request.url.startswith((url, "data:")) else [request.url]))
    page.goto(url)
    yield page
    assert problems == []
    page.close()


def drop(page: Any, name: str, content: bytes, kind: str = "image/heic") -> None:
    """Drops a file on the page."""
    transfer = page.evaluate_handle(DROP, [name, kind, base64.b64encode(content).decode()])
    page.dispatch_event("#upload-drop", "drop", {"dataTransfer": transfer})
