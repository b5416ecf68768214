"""What the service answers to requests of every kind, without Ray and without a network."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ufgvc.serving.gateway import Gateway, make_app
from ufgvc.serving.limits import digest
from ufgvc.serving.refused import Refused
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.uploads import Photograph

TOKEN = "a-long-random-word"
SETTINGS = ServiceSettings(max_mb=0.01, max_files=2, rate=20)


class Replicas:
    """They answer with what they were given."""

    def __init__(self) -> None:
        self.given: list[Photograph] = []

    async def classify(self, photographs: list[Photograph], pictures: bool, top: int) -> dict[str, Any]:
        self.given = photographs
        if photographs[0].content == b"broken":
            raise Refused(422, "leaf.jpg: is truncated")
        return {"predictions": [each.name for each in photographs], "pictures": pictures, "top": top}

    async def describe(self) -> dict[str, Any]:
        return {"model": None, "registry": ""}


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
def client(replicas: Replicas) -> Iterator[TestClient]:
    with TestClient(make_app(Gateway.of(replicas, SETTINGS, None))) as client:
        yield client


def test_files_of_a_form_are_answered_in_their_order(client: TestClient, replicas: Replicas) -> None:
    files = [("files", ("a/b/süß.jpg", b"one", "image/jpeg")), ("more", ("..\\c.heic", b"two", "image/heic"))]
    answer = client.post("/predict?top=3&pictures=true", files=files)
    assert answer.json() == {"predictions": ["süß.jpg", "c.heic"], "pictures": True, "top": 3}
    assert [each.content for each in replicas.given] == [b"one", b"two"]


def test_base64_in_json_is_answered(client: TestClient, replicas: Replicas) -> None:
    text = base64.b64encode(b"one").decode()
    images = [{"name": "a.jpg", "image": text}, f"data:image/png;base64,{text}"]
    answer = client.post("/predict", json={"images": images})
    assert answer.json()["predictions"] == ["a.jpg", "photograph 2"]
    assert [each.content for each in replicas.given] == [b"one", b"one"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "not as text/plain"),
        ({"content": b"x"}, 415, "a body without a type"),
        ({"files": {"f": ("a.jpg", b"x" * 10_001)}}, 413, "larger than 0.01 MB"),
        ({"content": iter([b"x" * 6000, b"x" * 6000]), "headers": {"content-type": "application/json"}}, 413, "larger"),
        ({"files": [("f", ("a.jpg", b"x"))] * 3}, 422, "3 photographs; send at most 2"),
        ({"files": {"f": ("a.jpg", b"")}}, 422, "a.jpg: is empty"),
        ({"files": {"f": ("a.jpg", b"broken")}}, 422, "leaf.jpg: is truncated"),
        ({"data": {"x": "y"}, "files": {}}, 415, "x-www-form-urlencoded"),
        ({"content": b"--no", "headers": {"content-type": "multipart/form-data"}}, 422, "the form cannot be read"),
        ({"content": b"?", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422, "the form cannot be"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "not JSON"),
        ({"content": b"[" * 9000, "headers": {"content-type": "application/json"}}, 422, "not JSON"),
        ({"json": []}, 422, "no list `images`"),
        ({"json": {"images": []}}, 422, "holds no photograph"),
        ({"json": {"images": [3]}}, 422, "image 0 is not text"),
        ({"json": {"images": ["%%%"]}}, 422, "image 0 is not base64"),
        ({"params": {"top": "0"}, "files": {"f": ("a.jpg", b"x")}}, 422, "top: "),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_what_is_refused(request_: dict[str, Any], status: int, message: str, client: TestClient) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]


def test_a_large_photograph_never_reaches_the_disk(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with TestClient(make_app(Gateway.of(replicas, ServiceSettings(), None))) as client:
        assert client.post("/predict", files={"f": ("a.jpg", b"x" * 5_000_000)}).status_code == 200
    assert len(replicas.given[0].content) == 5_000_000


def test_the_token(replicas: Replicas) -> None:
    with TestClient(make_app(Gateway.of(replicas, SETTINGS, digest(TOKEN)))) as client:
        files = {"f": ("a.jpg", b"x")}
        for value in (None, TOKEN, "Basic eDp5", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x"):
            answer = client.post("/predict", files=files, headers={"Authorization": value} if value else {})
            assert answer.status_code == 401, value
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "token" in answer.json()["error"]
        assert replicas.given == []
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", files=files, headers=right).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200
        assert TOKEN not in client.get("/").text + client.get("/openapi.json").text


def test_the_rate(client: TestClient) -> None:
    statuses = [client.post("/predict", files={"f": ("a.jpg", b"x")}) for _ in range(25)]
    codes = [answer.status_code for answer in statuses]
    assert codes[:20] == [200] * 20
    assert 429 in codes[20:]
    refused = next(answer for answer in statuses if answer.status_code == 429)
    assert refused.json()["error"].startswith("more than 20 requests a minute; try again in ")
    assert 1 <= int(refused.headers["Retry-After"]) <= 3
    counted = client.get("/metrics").text
    assert f'ufgvc_requests_total{{status="200"}} {codes.count(200)}.0' in counted
    assert f'ufgvc_refused_total{{status="429"}} {codes.count(429)}.0' in counted
    assert f"ufgvc_latency_seconds_count {codes.count(200)}.0" in counted
    assert "ufgvc_requests_in_work 0.0" in counted


def test_the_description_and_unknown_paths(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    predict = described["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"200", "401", "413", "415", "422", "429", "503"} <= set(predict["responses"])
    assert client.get("/nothing").json() == {"error": "/nothing: Not Found"}
    assert client.get("/predict").status_code == 405
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    assert 'accept="image/*,.heic" capture' in page.text


def test_the_process_of_the_gateway_imports_no_torch() -> None:
    """It would cost a second and a gigabyte for nothing."""
    program = "import sys, ufgvc.serving.front; print(sorted({'torch', 'mlflow', 'torchvision'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
