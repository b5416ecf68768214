"""Files that grow: lines are appended where the storage can, and only what is new is read again."""

from __future__ import annotations

from ufgvc.core.errors import UserError, disk_errors
from ufgvc.core.s3_errors import code_of
from ufgvc.core.storage import Store


def append_text(store: Store, name: str, text: str) -> None:
    """Appends text to an existing file of a local folder; objects cannot be appended to."""
    path = store.local_path / name
    with disk_errors(path), path.open("ab") as file:
        file.write(text.encode())


def read_from(store: Store, name: str, start: int) -> bytes:
    """The bytes of a file from `start` on, b"" if it is shorter; one request. FileNotFoundError if there is none."""
    handler = store.s3_handler()
    if handler is None:
        with store.open_input(name) as file:
            if start > file.size():
                return b""
            file.seek(start)
            return bytes(file.read())
    try:
        return handler.read(store.full(name), start)
    except UserError as error:
        if error.__cause__ is not None and code_of(error.__cause__) in ("InvalidRange", "416"):
            return b""
        raise
