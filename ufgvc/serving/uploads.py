"""The photographs of a request, read into memory only: never into a temporary file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ufgvc.serving.refused import Refused

READ_SECONDS = 120.0  # for the body of a request
DRAIN_SECONDS, DRAIN_BYTES = 20.0, 1_000_000_000  # of a refused request: else the sender gets a broken connection
FORM, JSON = "multipart/form-data", "application/json"
MAX_NAME = 255


@dataclass(frozen=True)
class Photograph:
    """A photograph as it came.  name: of its file, without folders; only for the answer."""

    name: str
    content: bytes


class _InMemory(MultiPartParser):
    """Starlette's parser writes files of more than a megabyte to the disk."""

    spool_max_size = 1 << 62


class Body:
    """The body of a request.  limit: bytes."""

    def __init__(self, request: Request, limit: int) -> None:
        self.request, self.limit = request, limit
        self.is_read = False

    def announced(self) -> int:
        """Its size in bytes, as its header says; the limit if it does not say. Refused (413) if it is larger."""
        text = self.request.headers.get("content-length", "")
        size = int(text) if text.isdecimal() else self.limit
        if size > self.limit:
            raise self._too_large()
        return size

    async def read(self) -> bytes:
        """The whole body. Refused: 413 if it is too large, 408 if it does not arrive."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(READ_SECONDS):
                while not self.is_read:
                    part = await self._next()
                    size += len(part)
                    if size > self.limit:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {READ_SECONDS:.0f} s") from None
        return b"".join(parts)

    async def drain(self) -> None:
        """Reads what is left without keeping it."""
        size = 0
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.is_read and size < DRAIN_BYTES:
                    size += len(await self._next())
        except TimeoutError:
            return

    async def _next(self) -> bytes:
        message = await self.request.receive()
        if message["type"] == "http.disconnect":
            self.is_read = True
            raise Refused(400, "the connection was closed before the request was complete")
        self.is_read = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    def _too_large(self) -> Refused:
        return Refused(413, f"the request is larger than {self.limit / 1e6:g} MB; send fewer or smaller photographs")


def check_content_type(request: Request) -> str:
    """FORM or JSON. Refused (415) for any other type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (FORM, JSON):
        raise Refused(415, f"send photographs as {FORM} or {JSON}, not as {kind or 'a body without a type'}")
    return kind


async def parse(kind: str, headers: Headers, body: bytes, max_files: int) -> list[Photograph]:
    """The photographs of a body, at least one. Refused (422) if it is malformed or holds none or too many.

    kind: FORM, with files of any field names, or JSON: {"images": [base64, or {"name", "image": base64}]}.
    """
    photographs = await (_parse_form(headers, body) if kind == FORM else asyncio.to_thread(_parse_json, body))
    if not photographs:
        raise Refused(422, "the request holds no photograph")
    if len(photographs) > max_files:
        raise Refused(422, f"the request holds {len(photographs)} photographs; send at most {max_files}")
    if empty := next((each for each in photographs if not each.content), None):
        raise Refused(422, f"{empty.name}: is empty")
    return photographs


async def _parse_form(headers: Headers, body: bytes) -> list[Photograph]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemory(headers, stream()).parse()
    except MultiPartException as error:
        raise Refused(422, f"the form cannot be read: {error.message}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Photograph(_plain_name(file.filename, i), await file.read()) for i, file in enumerate(files)]
    finally:
        await form.close()


def _parse_json(body: bytes) -> list[Photograph]:
    example = 'send {"images": ["<base64>"]} or {"images": [{"name": "leaf.jpg", "image": "<base64>"}]}'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(422, f"the body is not JSON; {example}") from None
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise Refused(422, f"the body has no list `images`; {example}")
    return [_decode_base64(image, i, example) for i, image in enumerate(images)]


def _decode_base64(image: Any, i: int, example: str) -> Photograph:
    name = None
    if isinstance(image, dict):
        name, image = image.get("name"), image.get("image")
    if not isinstance(image, str) or not isinstance(name, str | None):
        raise Refused(422, f"image {i} is not text; {example}")
    text = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return Photograph(_plain_name(name, i), base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Refused(422, f"image {i} is not base64; {example}") from None


def _plain_name(name: str | None, i: int) -> str:
    plain = PurePosixPath((name or "").replace("\\", "/")).name
    return "".join(letter for letter in plain if letter.isprintable())[:MAX_NAME] or f"photograph {i + 1}"
