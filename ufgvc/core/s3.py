"""S3 behind a pyarrow filesystem that never writes directory markers.

Plain pyarrow puts an empty "folder/" object on every create and delete; some servers turn that marker into a file that hides the whole
folder. Here creating a folder does nothing and deleting goes object by object.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from ufgvc.core.errors import UserError

_DELETE_AT_ONCE = 1000  # the limit of one DeleteObjects request


def prepare_environment() -> None:
    """Older servers know no checksum trailers: both SDKs are told to send them only where S3 demands it, unless the user chose."""
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


def open_s3() -> pafs.PyFileSystem:
    """A picklable filesystem for the bucket store that AWS_ENDPOINT_URL (or AWS itself) names."""
    return pafs.PyFileSystem(MarkerFreeS3(*_connection()))


def _connection() -> tuple[str | None, str | None]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return endpoint, region or ("us-east-1" if endpoint else None)


class MarkerFreeS3(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow is not annotated
    def __init__(self, endpoint: str | None, region: str | None) -> None:
        prepare_environment()
        self.endpoint, self.region = endpoint, region
        options: dict[str, Any] = {"connect_timeout": 10, "request_timeout": 60, "retry_strategy": pafs.AwsStandardS3RetryStrategy()}
        if region:
            options["region"] = region
        if endpoint:
            scheme, _, address = endpoint.rstrip("/").partition("://")
            if not address or scheme not in ("http", "https"):
                raise UserError("is not an address", where="AWS_ENDPOINT_URL", fix="give it as http://host:port or https://host")
            options |= {"scheme": scheme, "endpoint_override": address}
        self._fs = pafs.S3FileSystem(**options)
        self._client_of_writes: Any = None
        self._buckets_seen: set[str] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return MarkerFreeS3, (self.endpoint, self.region)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarkerFreeS3) and (self.endpoint, self.region) == (other.endpoint, other.region)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def lacks_bucket(self, path: str) -> bool:
        """Whether the server says that the path's bucket is not there; False if it does not tell us. Asks once for each bucket it has."""
        bucket = path.partition("/")[0]
        if bucket in self._buckets_seen:
            return False
        try:
            lacking = self._fs.get_file_info(bucket).type == pafs.FileType.NotFound
        except OSError:  # who may read a prefix need not be allowed to look at the bucket
            lacking = False
        if not lacking:
            self._buckets_seen.add(bucket)
        return bool(lacking)

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return self._fs.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return self._fs.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        return self._fs.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Folders do not exist on an object store."""

    def delete_dir(self, path: str) -> None:
        selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
        self._delete([info.path for info in self._fs.get_file_info(selector) if info.type == pafs.FileType.File])

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise PermissionError("refusing to empty every bucket")

    def delete_file(self, path: str) -> None:
        self._delete([path])

    def _delete(self, paths: list[str]) -> None:
        keys_in: dict[str, list[str]] = {}
        for path in paths:
            bucket, _, key = path.partition("/")
            keys_in.setdefault(bucket, []).append(key)
        for bucket, keys in keys_in.items():
            for start in range(0, len(keys), _DELETE_AT_ONCE):
                objects = [{"Key": key} for key in keys[start : start + _DELETE_AT_ONCE]]
                with _in_the_words_of_pyarrow(bucket):
                    answer = self._client().delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
                for problem in answer.get("Errors", []):
                    raise _refusal(bucket, problem.get("Code"), problem.get("Message"))

    def upload(self, file: IO[bytes], path: str) -> None:
        """Uploads a file from its start, whole or not at all: a stream of pyarrow can only be completed, never given up."""
        bucket, _, key = path.partition("/")
        with _in_the_words_of_pyarrow(bucket):
            self._client().upload_fileobj(file, bucket, key)

    def _client(self) -> Any:
        if self._client_of_writes is None:
            import boto3
            from botocore.config import Config

            config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4})
            session = boto3.session.Session()
            self._client_of_writes = session.client("s3", endpoint_url=self.endpoint, region_name=self.region, config=config)
        return self._client_of_writes

    def move(self, src: str, dest: str) -> None:
        self._fs.copy_file(src, dest)
        self._delete([src])

    def copy_file(self, src: str, dest: str) -> None:
        self._fs.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._fs.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._fs.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        return self._fs.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        return self._fs.open_append_stream(path, metadata=metadata)


def _refusal(bucket: str, code: str | None, text: str | None) -> OSError:
    return OSError(f"In bucket '{bucket}': AWS Error {code or 'UNKNOWN'} during operation: {text or ''}")


@contextlib.contextmanager
def _in_the_words_of_pyarrow(bucket: str) -> Iterator[None]:
    """boto3's errors as pyarrow would raise them, so that whoever explains errors has one kind to read."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        problem = error.response.get("Error", {})
        raise _refusal(bucket, problem.get("Code"), problem.get("Message")) from error
    except (ConnectionError, HTTPClientError) as error:
        raise _refusal(bucket, "NETWORK_CONNECTION", str(error)) from error
    except NoCredentialsError as error:
        raise _refusal(bucket, "NO_CREDENTIALS", str(error)) from error
    except BotoCoreError as error:
        raise _refusal(bucket, type(error).__name__, str(error)) from error
