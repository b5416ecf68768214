"""Which photograph a path in a box file, a table or an anno file means."""

from __future__ import annotations

import unicodedata

import pytest

from ufgvc.data.readers.matching import PathMatcher, split_of

SAME_NAMES = [
    f"{split}/{cultivar}/IMG_{k}.jpg" for split in ("train", "test") for cultivar in ("alpha", "beta") for k in (0, 1)
]


@pytest.mark.parametrize(
    "written",
    [
        "train/beta/IMG_1.jpg",
        "./train/beta/IMG_1.jpg",
        "../train/beta/IMG_1.jpg",
        "train\\beta\\IMG_1.jpg",
        "C:\\Users\\me\\leaves\\train\\beta\\IMG_1.jpg",
        "/home/me/leaves/train/beta/IMG_1.jpg",
        "leaves/train/beta/IMG_1.jpg",
        "file:///data/train/beta/IMG_1.jpg",
        "labels/train/beta/IMG_1",
        "train/beta/IMG_1",
        "train/beta/img_1.JPG",
    ],
)
def test_the_longest_common_tail_is_meant(written: str) -> None:
    assert PathMatcher(SAME_NAMES).find(written) == ["train/beta/IMG_1.jpg"]


def test_photographs_that_nothing_tells_apart_are_all_named() -> None:
    assert PathMatcher(SAME_NAMES).find("IMG_1.jpg") == [path for path in SAME_NAMES if path.endswith("IMG_1.jpg")]
    assert PathMatcher(SAME_NAMES).find("train/IMG_1.jpg") == ["train/alpha/IMG_1.jpg", "train/beta/IMG_1.jpg"]
    assert PathMatcher(SAME_NAMES[:1]).find("labels/train/IMG_0") == SAME_NAMES[:1], (
        "labels of a split need no cultivars' folders"
    )


def test_one_split_never_stands_for_the_other() -> None:
    assert PathMatcher(["train/a/1.jpg"]).find("test/a/1.jpg") == []
    assert PathMatcher(["images/train/1.jpg"]).find("labels/test/1") == []
    assert PathMatcher(["images/train/1.jpg"]).find("labels/1") == ["images/train/1.jpg"]


def test_a_missing_photograph_is_not_another_one() -> None:
    left = [path for path in SAME_NAMES if path != "test/alpha/IMG_1.jpg"]
    for matcher in (PathMatcher(left), PathMatcher(left, inside=True)):
        for written in ("test/alpha/IMG_1.jpg", "alpha/IMG_9.jpg", "x/test/alpha/IMG_1"):
            assert matcher.find(written) == []
    assert PathMatcher(["beta/1.jpg", "alpha/2.jpg"]).find("alpha/1.txt") == []
    assert PathMatcher(["train/a.jpg"]).find("annotator 7/a") == ["train/a.jpg"], (
        "a folder that is none of the source's says nothing"
    )
    assert PathMatcher(["train/a.jpg"], inside=True).find("annotator 7/a.jpg") == []


def test_the_ending_counts_where_it_is_given() -> None:
    matcher = PathMatcher(["a/x.jpg", "a/x.png"])
    assert matcher.find("a/x.png") == ["a/x.png"]
    assert matcher.find("a/x") == ["a/x.jpg", "a/x.png"]
    assert PathMatcher(["a/x.png"]).find("a/x.jpg") == ["a/x.png"], (
        "a copy saved in another format is the same photograph"
    )
    assert PathMatcher(["a/IMG.1.jpg"]).find("IMG.1") == ["a/IMG.1.jpg"], "a dot in a name is no ending"


@pytest.mark.parametrize(
    "written", ["0a1b2c3d-leaf.jpg", "images/0a1b2c3d-leaf", "leaf_jpg.rf.9f1c2e", "x/leaf%2Ejpg", "my%20leaf.jpg"]
)
def test_what_tools_add_to_names(written: str) -> None:
    assert PathMatcher(["train/leaf.jpg", "train/my leaf.jpg"]).find(written) == [
        f"train/{'my ' if 'my' in written else ''}leaf.jpg"
    ]


def test_composed_and_decomposed_names_are_one() -> None:
    decomposed, composed = (unicodedata.normalize(form, "Büzgülü/büz0.jpg") for form in ("NFD", "NFC"))
    assert decomposed != composed
    assert PathMatcher([decomposed]).find(composed) == [decomposed]
    assert PathMatcher([composed]).find(decomposed) == [composed]


@pytest.mark.parametrize("word", ["train", "Training", "training_set", "train-data", "trainset", " TRAIN "])
def test_words_for_train(word: str) -> None:
    assert split_of(word) == "train"


@pytest.mark.parametrize("word", ["trainer", "tests", "val", "", "Trainer's Pride"])
def test_words_for_no_split(word: str) -> None:
    assert split_of(word) is None
