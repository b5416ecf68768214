"""The one decoder of text files that people and tools write."""

from __future__ import annotations

import codecs

from ufgvc.core.errors import UserError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(data: bytes, where: str) -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one, as Windows' editors save it.

    where: the file, for the message.  UserError for any other encoding: guessing would change names without notice.
    """
    try:
        return data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"is not UTF-8 text (line {line})", where=where, fix="save it as UTF-8") from None
