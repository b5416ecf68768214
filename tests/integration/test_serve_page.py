"""The page of the service in Chromium: token, keyboard, refusals, names that look like markup. The model is a stub."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.browser import check_accessible, chromium, drop, open_in
from ufgvc.serving.gateway import Gateway, make_app
from ufgvc.serving.limits import digest
from ufgvc.serving.refused import Refused
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.uploads import Photograph

uvicorn = pytest.importorskip("uvicorn")
TOKEN = "a-long-random-word"
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
MARKUP = "<img src=x onerror=alert(1)>"


class Replicas:
    """They name every photograph MARKUP, unless it is broken."""

    async def classify(self, photographs: list[Photograph], pictures: bool, top: int) -> dict[str, Any]:
        if photographs[0].content == b"broken":
            raise Refused(422, f"{photographs[0].name}: is truncated")
        leaf = {"cultivar": MARKUP, "distance": 0.25, "image_id": "x", "thumbnail": DOT}
        known = photographs[0].content != b"unknown"
        prediction = {
            "path": photographs[0].name,
            "cultivar": MARKUP,
            "probability": 0.75,
            "known": known,
            "ood_score": 0.5,
            "why_unknown": None if known else "its score is too high",
            "candidates": [{"cultivar": MARKUP, "probability": 0.75}, {"cultivar": "B", "probability": 0.25}],
            "nearest": [leaf, leaf | {"cultivar": "C"}],
            "picture": DOT,
            "width": 192,
            "height": 100,
            "has_map": True,
        }
        return {"model": (await self.describe())["model"], "predictions": [prediction]}

    async def describe(self) -> dict[str, Any]:
        model = {"model": "m", "version": "7", "method": "probe", "cultivars": 3, "calibrated": False}
        return {"model": model | {"unknown": "(unknown)"}, "registry": ""}


@pytest.fixture(scope="module")
def url(free_port: Callable[[], int]) -> Iterator[str]:
    """A service that needs a token."""
    app = make_app(Gateway.of(Replicas(), ServiceSettings(max_mb=0.01), digest(TOKEN)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def give_token(page: Any, token: str = TOKEN) -> None:
    page.get_by_label("Token of this service").fill(token)
    page.keyboard.press("Enter")


def test_a_photograph_waits_for_the_token(browser: Any, url: str) -> None:
    with open_in(browser, url) as page:
        drop(page, "IMG_1.HEIC", b"leaf")
        page.get_by_text("waits for the token").wait_for()
        give_token(page, "wrong-token")
        page.get_by_text("this is not the token of this service").wait_for()
        assert page.locator("#upload-token").evaluate("(field) => document.activeElement === field")
        give_token(page)
        card = page.locator(".card:has(.model)")
        card.wait_for()
        assert not page.locator("#upload-access").is_visible()
        stored = "() => localStorage.length + sessionStorage.length + document.cookie.length"
        assert page.evaluate(stored) == 0
        assert page.locator("#upload-token").input_value() == ""
        assert TOKEN not in page.content()


def test_names_are_text_and_the_answer_is_whole(browser: Any, url: str) -> None:
    with open_in(browser, url) as page:
        give_token(page)
        for content in (b"leaf", b"unknown"):
            drop(page, f"{content.decode()} <b>.jpg", content)
            page.locator(f".card:has(.model):has-text('{content.decode()} <b>.jpg')").wait_for()
        unknown, known = page.locator(".card:has(.model)").all()  # the newest first
        assert known.locator("h3").inner_text().replace("\xa0", " ").split("\n") == [MARKUP, "75 %"]
        assert unknown.locator("h3").inner_text().startswith("(unknown)")
        assert "Unknown: its score is too high" in unknown.locator(".why").inner_text()
        assert known.locator(".candidates li").count() == 2
        assert known.locator(".nearest li.same").count() == 1
        assert known.locator(".nearest .distance").all_inner_texts() == ["0.250", "0.250"]
        assert (
            known.locator(".model").inner_text()
            == "probe, 3 cultivars, version 7; its probabilities are not calibrated"
        )


def test_what_is_refused_has_its_message(browser: Any, url: str) -> None:
    with open_in(browser, url) as page:
        give_token(page)
        drop(page, "large.jpg", bytes(20_000), "image/jpeg")
        page.get_by_role("article").filter(has_text="is larger than 0.01 MB").wait_for()
        drop(page, "cut.jpg", b"broken", "image/jpeg")
        page.get_by_role("article").filter(has_text="is truncated").wait_for()
        assert page.locator("#upload-status").inner_text() == "cut.jpg: is truncated"
        page.route("**/predict*", lambda route: route.abort())
        drop(page, "lost.jpg", b"leaf", "image/jpeg")
        page.get_by_role("article").filter(has_text="the service does not answer").wait_for()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_keyboard_names_and_width(browser: Any, url: str, dark: bool) -> None:
    with open_in(browser, url, {"width": 320, "height": 640}, dark) as page:
        give_token(page)
        page.locator("#upload-files").focus()
        outline = page.locator(".choice:has(#upload-files)").evaluate("(label) => getComputedStyle(label).outlineStyle")
        assert outline == "solid"
        note = "(event) => { event.preventDefault(); event.target.dataset.clicked = 1; }"
        page.locator("#upload-files").evaluate(f"(input) => input.addEventListener('click', {note})")
        page.keyboard.press("Enter")  # it would open the dialog of the system
        files = page.locator("#upload-files[data-clicked]")
        files.set_input_files({"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"leaf"})
        page.locator(".card:has(.model)").wait_for()
        assert page.locator("html").evaluate("(html) => html.scrollWidth") == 320
        assert page.locator("img:not([alt])").count() == 0
        assert page.get_by_label("Take a photograph").get_attribute("capture") == "environment"
        paper = page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
        assert (paper == "rgb(16, 21, 18)") is dark


def test_a_telephone_offers_its_camera_and_a_desktop_does_not(browser: Any, url: str) -> None:
    for is_mobile in (True, False):
        with open_in(browser, url, is_mobile=is_mobile, has_touch=is_mobile) as page:
            assert page.get_by_text("Choose photographs").is_visible()
            assert page.get_by_text("Take a photograph").is_visible() is is_mobile


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Any, url: str, dark: bool) -> None:
    with open_in(browser, url, dark=dark) as page:
        assert page.get_by_label("Token of this service").is_visible()
        check_accessible(page)
        give_token(page)
        for content in (b"leaf", b"unknown", b"broken"):
            drop(page, f"{content.decode()}.jpg", content, "image/jpeg")
            page.locator(f".card:not([aria-busy]):has-text('{content.decode()}.jpg')").wait_for()
        check_accessible(page)
