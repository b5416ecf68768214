"""The connection to an S3 server: one boto3 client, with credentials, certificates, proxies and retries."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from ufgvc.core.errors import UserError
from ufgvc.core.s3_errors import BUSY, DENIED, EXPIRED, MISSING, code_of, s3_error

T = TypeVar("T")
_CONNECTIONS = 32  # of all threads of a process
_ATTEMPTS = 5  # of botocore for one request, after 500, 503 and lost connections
# Seconds before each further attempt, by the kind of error.
_WAITS = {"denied": (0.2, 0.5, 1.0), "busy": (0.5, 2.0), "cut off": (0.2, 1.0, 3.0)}
_DENIED_SECONDS = 6.0  # that one process waits in total for access rights, which servers may apply late
_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "HOME")


class IncompleteBody(Exception):
    """The body of a response ended early; botocore does not retry that."""


def prepare_environment() -> None:
    """Makes boto3 send checksum trailers only where S3 requires them, unless the user set it: older servers do not
    support them.
    """
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")


def ca_bundle() -> str | None:
    """The file of trusted certificates: AWS_CA_BUNDLE or the profile's ca_bundle, else SSL_CERT_FILE. UserError if it
    cannot be read.
    """
    import botocore.session

    path = botocore.session.get_session().get_config_variable("ca_bundle") or os.environ.get("SSL_CERT_FILE")
    if not path:
        return None
    try:
        kind = {"capath": path} if os.path.isdir(path) else {"cafile": path}
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(**kind)
    except OSError as error:
        fix = "correct AWS_CA_BUNDLE or SSL_CERT_FILE, whichever names it"
        raise UserError(
            f"holds no certificates that can be read ({error.strerror or error})", where=path, fix=fix
        ) from None
    return str(path)


class Connection:
    """A client that is made for the first request and shared by the threads of a process."""

    def __init__(self, endpoint: str | None, region: str | None) -> None:
        self._endpoint, self._region = endpoint, region
        self._client: Any = None
        self._keys: tuple[str, str | None] | None = None
        self._lock = threading.Lock()
        self._denied_seconds = _DENIED_SECONDS

    def call(self, act: Callable[[Any], T], where: str, reading: bool = False) -> T:
        """Returns `act(client)`, after several attempts if need be. FileNotFoundError, or UserError with the reason.

        where: the object or folder, as s3://bucket/key.  reading: `act` reads one object.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        tries = dict.fromkeys(_WAITS, 0)
        renewed = False
        while True:
            client = None
            try:
                client = self._get_client()
                found = act(client)
            except (BotoCoreError, ClientError, ResponseParserError, IncompleteBody) as error:
                cause = error.__cause__ if isinstance(error, IncompleteBody) and error.__cause__ else error
                code = code_of(cause)
                if code in EXPIRED and not renewed and self._renew(client):
                    renewed = True
                elif not self._wait("cut off" if isinstance(error, IncompleteBody) else code, tries):
                    if code in MISSING:
                        raise FileNotFoundError(f"{where} is not there") from error
                    raise s3_error(cause, where, reading) from error
            else:
                if tries["denied"]:  # the credentials work after all
                    self._denied_seconds = _DENIED_SECONDS
                return found

    def _wait(self, code: str, tries: dict[str, int]) -> bool:
        """Waits before another attempt; False if there is none."""
        kind = "denied" if code in DENIED else "busy" if code in BUSY else code
        if kind not in _WAITS or tries[kind] == len(_WAITS[kind]):
            return False
        pause = _WAITS[kind][tries[kind]]
        if kind == "denied":  # do not wait for each object of a bucket that may not be read
            if self._denied_seconds <= 0:
                return False
            self._denied_seconds -= pause
        time.sleep(pause)
        tries[kind] += 1
        return True

    def _get_client(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client, self._keys = self._make_client()
            return self._client

    def _renew(self, refused: Any) -> bool:
        """Loads the credentials again, because files and roles change while a job runs; False if they are the same."""
        with self._lock:
            if self._client is not refused:  # another thread has renewed it
                return True
            client, keys = self._make_client()
            if keys == self._keys:
                return False
            self._client, self._keys = client, keys
            return True

    def _make_client(self) -> tuple[Any, tuple[str, str | None] | None]:
        import boto3
        import botocore.session
        from botocore.config import Config

        retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = _ATTEMPTS
        config = Config(connect_timeout=10, read_timeout=60, max_pool_connections=_CONNECTIONS, retries=retries)
        botocore_session = botocore.session.get_session()
        botocore_session.register_component(
            "data_loader", _data_loader(botocore_session.get_config_variable("data_path"))
        )
        session = boto3.session.Session(botocore_session=botocore_session)
        verify = ca_bundle()
        try:
            client = session.client(
                "s3", endpoint_url=self._endpoint, region_name=self._region, config=config, verify=verify
            )
        except ValueError as error:  # botocore checks addresses itself
            raise UserError(
                f"is not a URL ({error})", where="AWS_ENDPOINT_URL", fix="give it as https://host:port"
            ) from None
        found = session.get_credentials()
        frozen = found.get_frozen_credentials() if found else None
        return client, (frozen.access_key, frozen.token) if frozen else None


@lru_cache(maxsize=1)
def _data_loader(path: str | None) -> Any:
    """botocore's descriptions of the services: parsed once a process, for every client would take 0.2 s to parse them.

    path: the user's AWS_DATA_PATH.
    """
    from botocore.loaders import create_loader

    return create_loader(path)


def connection(endpoint: str | None, region: str | None) -> Connection:
    """The connection for the current environment variables; the same one as long as they do not change."""
    return _connection(
        endpoint, region, os.getpid(), tuple(sorted(item for item in os.environ.items() if _is_relevant(item[0])))
    )


@lru_cache(maxsize=8)
def _connection(endpoint: str | None, region: str | None, *_: object) -> Connection:
    return Connection(endpoint, region)


def _is_relevant(name: str) -> bool:
    return name.startswith("AWS_") or name.upper() in _VARIABLES
