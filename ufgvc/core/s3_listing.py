"""Objects and folders in the answers of an S3 server to a listing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def list_objects(client: Any, options: dict[str, str], markers: bool = False) -> tuple[list[dict[str, Any]], set[str]]:
    """All objects below a prefix and their folders, as of `objects_in`."""
    pages = client.get_paginator("list_objects_v2").paginate(**options)
    return objects_in(pages, options["Prefix"], markers)


def objects_in(
    pages: Iterable[dict[str, Any]], prefix: str, markers: bool = False
) -> tuple[list[dict[str, Any]], set[str]]:
    """The objects in answers to ListObjectsV2, and the folders that their keys imply. Directory markers are folders, or
    files if `markers`.
    """
    files: list[dict[str, Any]] = []
    folders: set[str] = set()
    for page in pages:
        folders.update(each["Prefix"].rstrip("/") for each in page.get("CommonPrefixes", []))
        for each in page.get("Contents", []):
            if markers or not each["Key"].endswith("/"):
                files.append(each)
            folders.update(_parents(each["Key"], prefix))
    return files, folders


def _parents(key: str, prefix: str) -> Iterator[str]:
    """Every folder between a prefix and a key below it."""
    names = key[len(prefix) :].split("/")[:-1]
    for count in range(1, len(names) + 1):
        yield prefix + "/".join(names[:count])
