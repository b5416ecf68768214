"""A replica without Ray: it says what `predict` says, and follows the alias without losing what it has begun."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import PIL.Image
import pillow_heif
import pytest

from tests.golden.trainings import HERE
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.evaluation.explanation import explain
from ufgvc.evaluation.predictor import Predictor
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.serving.answers import Answer
from ufgvc.serving.classifier import Classifier, Unreadable
from ufgvc.serving.settings import ServiceSettings
from ufgvc.serving.source import ModelSource
from ufgvc.serving.uploads import Photograph

PHOTOGRAPHS = HERE / "photographs"
NAMES = ["leaf-1.png", "leaf-2.png", "unknown.png"]


@dataclasses.dataclass(frozen=True)
class Source(ModelSource):
    """An alias that a test moves: state holds the version, or what the registry answers instead."""

    state: dict[str, Any] = dataclasses.field(default_factory=lambda: {"version": "1"})

    @property
    def moves(self) -> bool:
        return True

    def version(self) -> str:
        if "error" in self.state:
            raise self.state["error"]
        return str(self.state["version"])

    def load(self, version: str) -> LoadedModel:
        if version == "broken":
            raise UserError("is damaged", where="version broken")
        model = load_model(self.uri)
        return dataclasses.replace(model, classes=tuple(f"{name} of {version}" for name in model.classes))


@pytest.fixture
def classifier() -> Iterator[Classifier]:
    settings = ServiceSettings(poll=0.01, max_megapixels=0.5)
    made = Classifier(Source(str(HERE / "model")), "cpu", threads=1, settings=settings)
    yield made
    made.stopped.set()
    made.follower.join(20)


def photographs(*names: str) -> list[Photograph]:
    return [Photograph(name, (PHOTOGRAPHS / name).read_bytes()) for name in names]


def answer(classifier: Classifier, *names: str, top: int = 5) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        images = await classifier.decode(photographs(*names))
        return classifier.answer(images, await classifier.score(images), top)

    return asyncio.run(ask())


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_says_what_predict_says(classifier: Classifier) -> None:
    model = classifier.served.model
    rows = Predictor(open_store(str(PHOTOGRAPHS)), model, 2, "cpu")({"path": NAMES}).to_pylist()
    served = answer(classifier, *NAMES, top=2)
    Answer.model_validate(served)
    assert [each["known"] for each in served["predictions"]] == [True, True, False]
    for prediction, row in zip(served["predictions"], rows, strict=True):
        row["names"] = [model.classes[i] for i in row.pop("classes")]
        wanted = explain(row, model)
        assert prediction.keys() == wanted.keys()
        assert prediction["cultivar"] == wanted["cultivar"]
        assert prediction["why_unknown"] == wanted["why_unknown"]
        assert len(prediction["candidates"]) == 2
        for one, other in zip(prediction["candidates"], wanted["candidates"], strict=True):
            assert one == {"cultivar": other["cultivar"], "probability": pytest.approx(other["probability"], abs=1e-5)}


def test_the_alias_moves_between_two_photographs(classifier: Classifier) -> None:
    source: Any = classifier.source
    before = asyncio.run(classifier.decode(photographs("leaf-1.png")))
    source.state["version"] = "2"
    wait_for(lambda: classifier.served.version == "2")
    after = asyncio.run(classifier.decode(photographs("leaf-1.png")))
    rows = asyncio.run(classifier.score([*after, *before, *after]))  # in one batch, each by its own version
    assert [row["names"][0][-1] for row in rows] == ["2", "1", "2"]
    assert classifier.answer(before, rows[1:2], 5)["model"]["version"] == "1"
    assert classifier.describe()["model"]["version"] == "2"


@pytest.mark.parametrize(
    "state",
    [{"version": "broken"}, {"error": UserError("MLflow failed")}, {"error": OSError("disk")}],
    ids=["a damaged version", "MLflow is away", "an error of the disk"],
)
def test_the_old_version_goes_on_until_the_problem_is_over(state: dict[str, Any], classifier: Classifier) -> None:
    source: Any = classifier.source
    source.state.update(state)
    wait_for(lambda: classifier.describe()["registry"] != "")
    assert answer(classifier, "leaf-1.png")["model"]["version"] == "1"
    classifier.check()
    source.state.pop("error", None)
    source.state["version"] = "3"
    wait_for(lambda: classifier.served.version == "3")
    wait_for(lambda: classifier.describe()["registry"] == "")


def test_a_replica_that_follows_no_more_is_replaced(classifier: Classifier) -> None:
    classifier.check()
    classifier.stopped.set()
    classifier.follower.join(20)
    with pytest.raises(RuntimeError, match="has ended"):
        classifier.check()


def test_the_first_file_that_cannot_be_read_is_named(classifier: Classifier) -> None:
    good = photographs("leaf-1.png")
    for content, is_photograph in ((good[0].content[:500], True), (b"text", False)):
        with pytest.raises(Unreadable, match=r"^bad\.png: ") as error:
            asyncio.run(classifier.decode([*good, Photograph("bad.png", content)]))
        assert error.value.is_photograph is is_photograph


@pytest.mark.parametrize("kind", ["PNG", "HEIC"])
def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(
    kind: str, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, buffer = PIL.Image.new("RGB", (1000, 600)), io.BytesIO()
    if kind == "PNG":
        image.save(buffer, "PNG")
    else:
        pillow_heif.from_pillow(image).save(buffer)
    monkeypatch.setattr("ufgvc.serving.classifier.decode_photograph", lambda content: pytest.fail("it was decoded"))
    with pytest.raises(Unreadable, match=r"bomb\.png: has 1 million pixels; send at most 0\.5 million"):
        asyncio.run(classifier.decode([Photograph("bomb.png", buffer.getvalue())]))
