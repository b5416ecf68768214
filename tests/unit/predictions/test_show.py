"""`predict --show` opens the page, and refuses where there will be none."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.command_line import settings_of
from ufgvc.commands.predict import check_show, run
from ufgvc.core.errors import UserError
from ufgvc.tracking.context import Context

PLACES = ("--source", "new", "--model", "model")


def test_show_opens_the_page_that_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "with blank" / "predictions.html"
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(
        "ufgvc.evaluation.predict.predict", lambda *_: SimpleNamespace(page=str(page), summary=lambda: "8 photographs")
    )
    for flags, wanted in (((), []), (("--show",), [page.as_uri()])):
        run(settings_of("predict", *PLACES, "--out", str(tmp_path), *flags), Context())
        assert opened == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--out", "out", "--page", "0"), "there is no page to open"),
        (("--out", "s3://bucket/out"), "a browser cannot open a page in a bucket"),
    ],
)
def test_there_must_be_a_page_that_a_browser_can_open(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        check_show(settings_of("predict", *PLACES, "--show", *flags))
    assert raised.value.where == "--show"
