"""S3 as a file system for pyarrow and Ray that never writes directory markers.

A marker is an empty object "folder/"; some servers turn it into a file that hides the whole folder. Here creating a
folder does nothing, and objects are deleted one by one. All requests use one boto3 client, so that credentials,
certificates, proxies and retries are the same for reading and writing.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from ufgvc.core.errors import UserError
from ufgvc.core.s3_client import IncompleteBody, connection, prepare_environment
from ufgvc.core.s3_errors import MISSING, code_of
from ufgvc.core.s3_listing import list_objects, objects_in

_DELETE_BATCH = 1000  # the limit of one DeleteObjects request
_LIST_BATCH = 1000  # and of one answer to ListObjectsV2
_READ_AHEAD = 8 << 20  # bytes that a stream reads in one request
IN_MEMORY = (
    16 << 20
)  # bytes of an object that are buffered in memory before its upload; larger ones go to a temporary file


def open_s3() -> pafs.PyFileSystem:
    """A picklable file system for the server of AWS_ENDPOINT_URL, or AWS."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return pafs.PyFileSystem(MarkerFreeS3(endpoint, region or ("us-east-1" if endpoint else None)))


class MarkerFreeS3(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow is not annotated
    """The file system; its paths are bucket/key. Methods raise FileNotFoundError, or UserError with the reason."""

    def __init__(self, endpoint: str | None, region: str | None) -> None:
        prepare_environment()
        if endpoint:
            scheme, _, address = endpoint.rstrip("/").partition("://")
            if not address or scheme not in ("http", "https"):
                fix = "give it as http://host:port or https://host"
                raise UserError("is not a URL", where="AWS_ENDPOINT_URL", fix=fix)
        self.endpoint, self.region = endpoint, region
        self._connection = connection(endpoint, region)

    def __reduce__(self) -> tuple[object, ...]:
        return MarkerFreeS3, (self.endpoint, self.region)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarkerFreeS3) and (self.endpoint, self.region) == (other.endpoint, other.region)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> pafs.FileInfo:
        bucket, key = _split(path)
        if not bucket:
            return pafs.FileInfo(path, pafs.FileType.Directory)
        if key:
            with contextlib.suppress(FileNotFoundError):
                found = self._connection.call(lambda client: _head(client, bucket, key), _uri(path), reading=True)
                return _file_info(path, found["ContentLength"], found["LastModified"])
        prefix = f"{key}/" if key else ""
        options = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
        page = self._connection.call(lambda client: client.list_objects_v2(**options), _uri(path))
        is_folder = not key or page.get("Contents")
        return pafs.FileInfo(path, pafs.FileType.Directory if is_folder else pafs.FileType.NotFound)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        bucket, key = _split(selector.base_dir)
        if not bucket:
            raise UserError("names no bucket", where="s3://", fix="write s3://bucket/prefix")
        prefix = f"{key}/" if key else ""
        options = {"Bucket": bucket, "Prefix": prefix} | ({} if selector.recursive else {"Delimiter": "/"})
        files, folders = self._connection.call(lambda client: list_objects(client, options), _uri(selector.base_dir))
        if not files and not folders and not selector.allow_not_found:
            raise FileNotFoundError(f"{_uri(selector.base_dir)} does not exist")
        found = [pafs.FileInfo(f"{bucket}/{each}", pafs.FileType.Directory) for each in sorted(folders)]
        return found + [_file_info(f"{bucket}/{each['Key']}", each["Size"], each["LastModified"]) for each in files]

    def walk(self, path: str) -> Iterator[pafs.FileInfo]:
        """Every file below a folder; a thousand are in memory at a time."""
        bucket, key = _split(path)
        options = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": _LIST_BATCH}
        more = True
        while more:
            page = self._connection.call(lambda client: client.list_objects_v2(**options), _uri(path))
            files, _ = objects_in([page], str(options["Prefix"]))
            yield from (_file_info(f"{bucket}/{each['Key']}", each["Size"], each["LastModified"]) for each in files)
            options["ContinuationToken"] = page.get("NextContinuationToken", "")
            more = bool(page.get("IsTruncated") and options["ContinuationToken"])

    def create_dir(self, path: str, recursive: bool) -> None:
        """Folders do not exist on an object store."""

    def delete_dir(self, path: str) -> None:
        bucket, key = _split(path)
        options = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
        files, _ = self._connection.call(lambda client: list_objects(client, options, markers=True), _uri(path))
        self._delete(bucket, [each["Key"] for each in files])

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise PermissionError("refusing to empty every bucket")

    def delete_file(self, path: str) -> None:
        bucket, key = _split(path)
        self._delete(bucket, [key])

    def _delete(self, bucket: str, keys: list[str]) -> None:
        from botocore.exceptions import ClientError

        def delete(client: Any) -> None:
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            for problem in answer.get("Errors", []):
                raise ClientError({"Error": problem, "ResponseMetadata": answer["ResponseMetadata"]}, "DeleteObjects")

        for start in range(0, len(keys), _DELETE_BATCH):
            objects = [{"Key": key} for key in keys[start : start + _DELETE_BATCH]]
            self._connection.call(delete, _uri(f"{bucket}/{keys[start]}"))

    def upload(self, file: IO[bytes], path: str) -> None:
        """Uploads a file from its beginning, completely or not at all."""
        bucket, key = _split(path)

        def send(client: Any) -> None:
            file.seek(0)
            client.upload_fileobj(_Unclosable(file), bucket, key)

        self._connection.call(send, _uri(path))

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of an object.  stop: None for its end."""
        from botocore.exceptions import BotoCoreError

        bucket, key = _split(path)
        ranges = {} if not start and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}

        def get(client: Any) -> bytes:
            body = client.get_object(Bucket=bucket, Key=key, **ranges)["Body"]
            try:
                return bytes(body.read())
            except BotoCoreError as error:
                raise IncompleteBody from error
            finally:
                body.close()

        return self._connection.call(get, _uri(path), reading=True)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        (from_bucket, from_key), (bucket, key) = _split(src), _split(dest)
        source = {"Bucket": from_bucket, "Key": from_key}
        self._connection.call(lambda client: client.copy(source, bucket, key), _uri(dest))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(io.BufferedReader(self._open(path), _READ_AHEAD), mode="r")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self._open(path), mode="r")

    def _open(self, path: str) -> _Object:
        info = self._info(path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(f"{_uri(path)} does not exist")
        return _Object(self, path, info.size)

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        return pa.PythonFile(_Upload(self, path), mode="w")

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        raise NotImplementedError("an object cannot be appended to")


class _Unclosable:
    """A file that boto3 cannot close: it would do so after an upload, and a retry needs it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.seek = file.read, file.seek
        if hasattr(file, "tell"):
            self.tell = file.tell

    def close(self) -> None:
        """Does nothing: the owner closes the file."""


class _Object(io.RawIOBase):
    """An object as a file; each read is one range request."""

    def __init__(self, fs: MarkerFreeS3, path: str, size: int) -> None:
        self._fs, self._path, self._size, self._position = fs, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        data = self._fs.read(self._path, self._position, stop)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Upload:
    """A file that is uploaded when it is closed, and not when it is only dropped (as a class of `io` would be)."""

    def __init__(self, fs: MarkerFreeS3, path: str) -> None:
        self._fs, self._path = fs, path
        self._buffer = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115

    def write(self, data: Any) -> int:
        return self._buffer.write(data)

    def tell(self) -> int:
        return self._buffer.tell()

    def flush(self) -> None:
        """Does nothing: the upload happens on close."""

    @property
    def closed(self) -> bool:
        return self._buffer.closed

    def close(self) -> None:
        if not self.closed:
            with self._buffer:
                self._fs.upload(self._buffer, self._path)


def _head(client: Any, bucket: str, key: str) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    try:
        return dict(client.head_object(Bucket=bucket, Key=key))
    except ClientError as error:
        if code_of(error) in MISSING:
            raise
    # The answer to HEAD has no body with the reason, so ask again with GET.
    client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
    return dict(client.head_object(Bucket=bucket, Key=key))  # GET worked, so the error was temporary


def _file_info(path: str, size: int, modified: Any) -> pafs.FileInfo:
    return pafs.FileInfo(path, pafs.FileType.File, mtime=modified, size=size)


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _uri(path: str) -> str:
    return f"s3://{path}"
