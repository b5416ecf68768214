"""Decodes text and JSON files."""

from __future__ import annotations

import codecs
import json
from typing import Any

from ufgvc.core.errors import DamagedFile, UserError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(data: bytes, where: str) -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one, as editors on Windows save it.

    where: the file, for the message.  UserError for any other encoding, because a guess could change names without
    notice.
    """
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"is not UTF-8 text (line {line})", where=where, fix="save it as UTF-8") from None


def parse_json(data: bytes, where: str) -> Any:
    """The value in a JSON file written by this program. DamagedFile if it is not JSON: the file is incomplete or was
    edited.
    """
    try:
        return json.loads(decode_text(data, where))
    except json.JSONDecodeError as error:
        fix = "restore it, or run the command that wrote it again"
        raise DamagedFile(f"is damaged: it is not JSON ({error})", where=where, fix=fix) from None


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8. Python keeps other bytes as surrogates, which most formats cannot store."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """ "1 leaf", "2,000 leaves".  plural_noun: where that is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def format_duration(seconds: float) -> str:
    """ "50 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
