"""Stores: one interface to a local folder, an S3 prefix, or any other file system of pyarrow."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from ufgvc.core.errors import UserError, disk_error, disk_errors, first_line
from ufgvc.core.s3 import IN_MEMORY, MarkerFreeS3, open_s3
from ufgvc.core.text import decode_text, is_utf8, parse_json

_TEMPORARY = ".ufgvc-tmp-"
_CHUNK = 4 << 20
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_RETRY_SECONDS = 20  # for Google Cloud Storage


@dataclass(frozen=True)
class Store:
    """A folder on local or remote storage. Names are relative paths with "/". A Store is cheap and picklable.

    uri: as the user writes it.  fs, path: the same folder for pyarrow and Ray.

    All methods raise UserError with the reason if the disk or the server refuses.
    """

    uri: str
    fs: pafs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    @property
    def local_path(self) -> Path:
        """The path of a local folder. UserError for other storage."""
        if not self.is_local:
            raise UserError("must be a local folder", where=self.uri, fix="give a path on this machine")
        return Path(self.path)

    def check_writable(self) -> None:
        """UserError if this local folder cannot be made or written to. Other storage is not checked: only a write shows
        it.
        """
        if not self.is_local:
            return
        nearest = Path(self.path)
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise UserError(
                "is a file, where a folder is needed", where=str(nearest), fix="give a folder, or remove the file"
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            if os.statvfs(nearest).f_flag & os.ST_RDONLY:
                raise UserError(
                    "the disk is read-only", where=str(nearest), fix="mount it for writing, or give another place"
                )
            raise UserError("may not be written", where=str(nearest), fix="change its rights, or give another place")

    def child(self, *names: str) -> Store:
        """The Store of a subfolder."""
        relative = _check_name("/".join(names))
        if not relative:
            return self
        return Store(f"{self.uri.rstrip('/')}/{relative}", self.fs, posixpath.join(self.path, relative))

    def full(self, name: str) -> str:
        """The path of `name` for `fs`. UserError if the name would leave the folder."""
        relative = _check_name(name)
        return posixpath.join(self.path, relative) if relative else self.path

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of that name."""
        with self._map_errors(name):
            return bool(self.fs.get_file_info(self.full(name)).type != pafs.FileType.NotFound)

    def is_file(self, name: str = "") -> bool:
        """Whether there is a file of that name; without a name, whether this Store itself is a file."""
        with self._map_errors(name):
            return bool(self.fs.get_file_info(self.full(name)).type == pafs.FileType.File)

    def size(self, name: str) -> int:
        """Size of a file in bytes. FileNotFoundError if it does not exist."""
        with self._map_errors(name):
            info = self.fs.get_file_info(self.full(name))
            if info.type != pafs.FileType.File:
                raise FileNotFoundError(f"{self.uri}/{name}")
        return int(info.size)

    def list(self, prefix: str = "", recursive: bool = True) -> list[str]:
        """Sorted names of the files below `prefix`; [] if there are none."""
        selector = pafs.FileSelector(self.full(prefix), recursive=recursive, allow_not_found=True)
        with self._map_errors(prefix):
            infos = self.fs.get_file_info(selector)
            paths = [
                info.path for info in infos if info.type == pafs.FileType.File and _TEMPORARY not in info.base_name
            ]
        return sorted(posixpath.relpath(path, self.path) for path in paths)

    def open_input(self, name: str) -> pa.NativeFile:
        """Opens a seekable file for reading."""
        with self._map_errors(name, reading=True):
            return self.fs.open_input_file(self.full(name))

    def read_bytes(self, name: str) -> bytes:
        """The content. FileNotFoundError if there is none; UnreadableFile if this file cannot be read, UserError if the
        storage fails.
        """
        handler = self.s3_handler()
        if handler is not None:
            return handler.read(self.full(name))
        with self._map_errors(name, reading=True), self.fs.open_input_file(self.full(name)) as file:
            return file.read()

    def read_text(self, name: str) -> str:
        """The content of a UTF-8 or UTF-16 file. UserError for other encodings."""
        return decode_text(self.read_bytes(name), f"{self.uri}/{name}")

    def read_json(self, name: str) -> Any:
        """The value in a JSON file. DamagedFile if it is not JSON."""
        return parse_json(self.read_bytes(name), f"{self.uri}/{name}")

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes the whole file or nothing: readers never see an incomplete file."""
        with self.writer(name) as file:
            file.write(data)

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file in UTF-8."""
        self.write_bytes(name, text.encode("utf-8"))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as indented JSON."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes] | pa.NativeFile]:
        """A file for writing. It appears under `name` when the block ends without an error, and not otherwise."""
        target = self.full(name)
        if not self.is_local:
            # An upload stream of pyarrow cannot be aborted: even when it is only dropped, it completes.
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as buffer:
                yield buffer
                buffer.seek(0)
                with self._map_errors(name):
                    self._upload_file(buffer, target)
            return
        with self._map_errors(name):
            try:
                os.makedirs(posixpath.dirname(target), exist_ok=True)
            except FileNotFoundError as error:
                raise UserError("no folder can be made here", where=error.filename, fix="give another place") from None
            temporary = posixpath.join(posixpath.dirname(target), f"{_TEMPORARY}{uuid.uuid4().hex[:8]}")
            try:
                with self.fs.open_output_stream(temporary) as file:
                    yield file
                os.replace(temporary, target)
            finally:
                with contextlib.suppress(OSError):  # the error that led here is the one to report
                    os.unlink(temporary)

    def delete(self, *names: str) -> None:
        """Deletes files. A missing file is not an error, because object stores do not report it."""
        for name in names:
            with self._map_errors(name), contextlib.suppress(FileNotFoundError):
                self.fs.delete_file(self.full(name))

    def delete_tree(self, name: str = "") -> None:
        """Deletes everything below `name`, if there is anything."""
        if self.exists(name) or not self.is_local:
            with self._map_errors(name):
                self.fs.delete_dir(self.full(name))

    def upload(self, folder: Path, name: str = "") -> None:
        """Copies the files of a local folder to `name`."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            relative = path.relative_to(folder).as_posix()
            with path.open("rb") as source, self.writer(posixpath.join(name, relative)) as file:
                shutil.copyfileobj(source, file, _CHUNK)

    def download(self, folder: Path, name: str = "") -> None:
        """Copies every file below `name` into a local folder."""
        for found in self.list(name):
            target = folder / _check_name(posixpath.relpath(found, name or "."))
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with self.open_input(found) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)

    def _upload_file(self, file: IO[bytes], target: str) -> None:
        handler = self.s3_handler()
        if handler is not None:
            handler.upload(file, target)
            return
        with self.fs.open_output_stream(target) as upload:
            shutil.copyfileobj(file, upload, _CHUNK)

    def s3_handler(self) -> MarkerFreeS3 | None:
        """The S3 file system itself; None for other storage."""
        handler = getattr(self.fs, "handler", None)
        return handler if isinstance(handler, MarkerFreeS3) else None

    @contextlib.contextmanager
    def _map_errors(self, name: str, reading: bool = False) -> Iterator[None]:
        """Turns errors of the disk or the server into UserErrors. A missing file stays a FileNotFoundError."""
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except FileNotFoundError:
            raise
        except UnicodeDecodeError as error:
            raise UserError(
                f"a name there is not UTF-8 text: {error.object!r}", where=where, fix="rename the file or folder"
            ) from None
        except OSError as error:
            if _TEMPORARY in str(error.filename):
                error.filename = None  # the temporary file means nothing to the user
            if error.errno is None and self.is_local and os.path.isdir(self.full(name)):  # pyarrow gives no number
                error.errno = errno.EISDIR
            refused = disk_error(error, where, reading)
            if refused is None and self.is_local:
                raise
            fix = "check the address and the rights"
            raise refused or UserError(f"storage failed: {first_line(error)}", where=where, fix=fix) from error


def open_store(uri: str | Path) -> Store:
    """The Store of a local folder, `s3://bucket/prefix` or another URI of pyarrow.fs. Nothing is created or read.

    UserError for an invalid URI.
    """
    text = str(uri)
    if "\0" in text or not text.strip():
        what = "contains a null character" if text.strip() else "is empty"
        raise UserError(what, where=repr(text), fix="give a folder or s3://bucket/prefix")
    if not is_utf8(text):
        shown = os.fsencode(text).decode("utf-8", "backslashreplace")
        raise UserError("its name is not UTF-8 text", where=shown, fix="rename the folder")
    if _URI.match(text) and "://" not in text:  # models:/name, s3:/bucket, C:/leaves
        raise UserError(
            "is not a folder or URI that can be opened", where=text, fix="use a folder or s3://bucket/prefix"
        )
    if text.startswith("s3://"):
        path = text.removeprefix("s3://").strip("/")
        if not path:
            raise UserError("names no bucket", where=text, fix="write s3://bucket/prefix")
        return Store(text.rstrip("/"), open_s3(), path)
    if "://" not in text:
        path = os.path.abspath(os.path.expanduser(text))
        return Store(path, pafs.LocalFileSystem(), path)
    if text.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in text:  # the default is 15 minutes
        address = f"{text}{'&' if '?' in text else '?'}retry_limit_seconds={_RETRY_SECONDS}"
    else:
        address = text
    try:
        fs, path = pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"is not a folder or URI that can be opened ({error})", where=text, fix="use a folder or s3://bucket/prefix"
        ) from None
    return Store(text.rstrip("/"), fs, path.rstrip("/"))


def join(uri: str, *names: str) -> str:
    """The URI of a file or folder below another."""
    return "/".join([str(uri).rstrip("/"), *names])


def _check_name(name: str) -> str:
    """The normalised relative name. UserError if it would leave its folder."""
    if "\0" in name:
        raise UserError(f"the name {name!r} contains a null character", fix="correct the name")
    clean = posixpath.normpath(name)
    if clean.startswith(("/", "../")) or clean == "..":
        raise UserError(f"the name {name!r} would leave its folder", fix="rename the file or class in the source")
    return "" if clean == "." else clean
