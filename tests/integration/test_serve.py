"""`ufgvc serve` on loopback with real Ray Serve and MLflow: answers, limits, broken files, a promotion under load."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.integration.browser import chromium, drop, open_in
from tests.integration.served_models import CLASSES, photograph
from tests.integration.service import (
    Registered,
    Service,
    damaged,
    heic,
    register_models,
    serving,
)
from ufgvc.serving.answers import Prediction
from ufgvc.serving.classifier import score_rows

QUEUE = 6


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return register_models(tmp_path_factory.mktemp("registered"))


@pytest.fixture(scope="module")
def service(
    registered: Registered, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(registered, free_port(), log, "--poll", "0.5", "--rate", "1000000", "--queue", str(QUEUE)) as service:
        yield service


def test_it_answers_as_the_model_does(service: Service) -> None:
    model = service.registered.model()
    content = photograph(3, "PNG")
    (row,) = score_rows(model, [model.read(content)])
    status, answer = service.predict(content)
    assert status == 200, answer
    assert answer["model"]["version"] == "1"
    assert answer["model"]["cultivars"] == len(CLASSES)
    (prediction,) = answer["predictions"]
    assert prediction["cultivar"] == row["names"][0] == CLASSES[3]
    assert prediction["probability"] == pytest.approx(row["probabilities"][0], abs=1e-4)
    assert [each["cultivar"] for each in prediction["candidates"]] == row["names"][:5]
    assert prediction["nearest"][0]["image_id"] == "leaf-3"
    assert prediction["nearest"][0]["distance"] < 0.001
    assert set(prediction) == set(Prediction.model_fields) - {"picture", "width", "height", "has_map"}


def test_pictures_come_where_they_are_asked_for(service: Service) -> None:
    status, answer = service.predict(heic(2), "?pictures=true&top=2", "leaf.heic")
    assert status == 200, answer
    prediction = Prediction.model_validate(answer["predictions"][0])
    assert (prediction.cultivar, prediction.path, len(prediction.candidates)) == (CLASSES[2], "leaf.heic", 2)
    assert prediction.has_map
    assert (prediction.width, prediction.height) == (192, 144)
    pictures = [prediction.picture, *(leaf.thumbnail for leaf in prediction.nearest)]
    assert len(pictures) == 6
    assert all(picture is not None and picture.startswith("data:image/jpeg;base64,") for picture in pictures)


def test_a_hundred_broken_files_and_then_a_whole_one(service: Service) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda seed: service.predict(damaged(seed)), range(100)))
    statuses = collections.Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 415, 422}, statuses  # a few changed bytes may leave a picture
    assert statuses[415] >= 30
    assert statuses[422] >= 20
    assert all(answer["error"].startswith("leaf.jpg: ") for status, answer in answers if status != 200)
    assert service.predict(photograph(1))[0] == 200


def test_a_video_and_a_huge_file_are_refused(service: Service) -> None:
    video = b"\x00\x00\x00\x18ftypmp42" + bytes(1000)
    status, answer = service.predict(video, name="leaf.mp4")
    assert (status, list(answer)) == (415, ["error"])
    status, answer = service.predict(bytes(60_000_000))
    assert status == 413
    assert answer["error"].startswith("the request is larger than 20 MB")


def test_a_flood_is_answered_with_429(service: Service) -> None:
    content = photograph(0)
    with ThreadPoolExecutor(40) as pool:
        statuses = collections.Counter(pool.map(lambda _: service.predict(content)[0], range(200)))
    assert set(statuses) == {200, 429}
    assert statuses[200] >= QUEUE
    assert service.predict(content)[0] == 200
    counted = service.get("/metrics")[1]
    assert float(counted.split('ufgvc_refused_total{status="429"} ')[1].split()[0]) >= statuses[429]
    assert "ufgvc_requests_in_work 0.0" in counted


def test_a_promoted_champion_takes_over_without_a_lost_request(service: Service) -> None:
    seen: list[tuple[int, str, str]] = []
    done = threading.Event()

    def ask(seed: int) -> None:
        content = photograph(seed)
        while not done.is_set():
            status, answer = service.predict(content)
            prediction = answer["predictions"][0] if status == 200 else {"cultivar": str(answer)}
            version = answer["model"]["version"] if status == 200 else ""
            seen.append((status, version, prediction["cultivar"].removeprefix("second ")))
            assert status != 200 or (version == "2") == prediction["cultivar"].startswith("second")

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, seed) for seed in range(4)]
        try:
            _wait_for(lambda: len(seen) >= 8)
            service.registered.promote("2")
            _wait_for(lambda: service.version() == "2")
            enough = len(seen) + 8
            _wait_for(lambda: len(seen) >= enough)
        finally:
            done.set()
        for each in asking:
            each.result()
    lost = [each for each in seen if each[0] != 200]
    assert lost == []
    assert {version for _, version, _ in seen} == {"1", "2"}
    assert {name for _, _, name in seen} == set(CLASSES[:4])
    assert seen[0][1] == "1"
    assert seen[-1][1] == "2"


@pytest.mark.slow
def test_a_killed_process_of_the_model_is_replaced(service: Service) -> None:
    tree = psutil.Process(service.process.pid).children(recursive=True)
    (replica,) = [each for each in tree if "ServeReplica:ufgvc:classifier" in " ".join(each.cmdline())]
    replica.kill()
    seen: list[tuple[int, Any]] = []

    def answers_again() -> bool:
        seen.append(service.predict(photograph(1)))
        return len(seen) > 1 and seen[-1][0] == 200 and not replica.is_running()

    _wait_for(answers_again, within=300)
    assert {status for status, _ in seen} <= {200, 503}
    assert all("try again soon" in answer["error"] for status, answer in seen if status == 503)


def _wait_for(reached: Callable[[], bool], within: float = 120) -> None:
    deadline = time.monotonic() + within
    while not reached():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def test_the_page_names_a_dropped_heic_photograph(service: Service) -> None:
    with chromium() as browser:
        with open_in(browser, f"{service.url}/", {"width": 375, "height": 700}, dark=True) as page:
            drop(page, "IMG_1.HEIC", heic(2))
            card = page.locator(".card:has(.model)")
            card.wait_for(timeout=60_000)
            assert card.locator("h3").inner_text().startswith(("cultivar 2", "second cultivar 2"))
            assert card.locator(".candidates li").count() == 5
            assert card.locator(".nearest .same img").count() == 1
            assert page.locator("#upload-status").inner_text().startswith("IMG_1.HEIC: ")
            picture = card.locator("img.leaf")
            assert "IMG_1.HEIC, and the map of what spoke for" in (picture.get_attribute("alt") or "")
            assert picture.evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [384, 144]
            pictures = card.locator("img[alt]")
            pictures.evaluate_all("(images) => images.forEach((image) => { image.loading = 'eager'; })")
            sizes = [
                pictures.nth(i).evaluate("(image) => image.decode().then(() => image.naturalWidth)") for i in range(6)
            ]
            assert (pictures.count(), min(sizes) > 0) == (6, True)
            assert page.locator("html").evaluate("(html) => html.scrollWidth") == 375
