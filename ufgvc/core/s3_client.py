"""The connection to an S3 server: one boto3 client for reading and writing, its credentials, certificates, proxy and retries."""

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
_CONNECTIONS = 32  # at once, from all threads of a process
_ATTEMPTS = 5  # of one request, by botocore: 500, 503 and lost connections
_WAITS = {"denied": (0.2, 0.5, 1.0), "busy": (0.5, 2.0), "cut off": (0.2, 1.0, 3.0)}
_DENIED_WAIT = 6.0  # seconds that one process waits in all for rights that may be on their way
_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "HOME")


class CutOff(Exception):
    """The body of an answer ended early; botocore does not try again there."""


def prepare_environment() -> None:
    """Older servers know no checksum trailers: boto3 is told to send them only where S3 demands it, unless the user chose."""
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")


def certificates() -> str | None:
    """The file of authorities to trust: AWS_CA_BUNDLE or the profile's ca_bundle, else SSL_CERT_FILE. UserError if it cannot be read."""
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
    """A client that is made at the first request and shared by the threads of a process."""

    def __init__(self, endpoint: str | None, region: str | None) -> None:
        self._endpoint, self._region = endpoint, region
        self._client: Any = None
        self._keys: tuple[str, str | None] | None = None
        self._lock = threading.Lock()
        self._patience = _DENIED_WAIT

    def call(self, act: Callable[[Any], T], where: str, reading: bool = False) -> T:
        """What `act` makes of the client; it may run several times. FileNotFoundError, or UserError with the reason in words.

        where: the object or folder, as s3://bucket/key.  reading: one object is read.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        tries = dict.fromkeys(_WAITS, 0)
        renewed = False
        while True:
            client = None
            try:
                client = self._opened()
                found = act(client)
            except (BotoCoreError, ClientError, ResponseParserError, CutOff) as error:
                cause = error.__cause__ if isinstance(error, CutOff) and error.__cause__ else error
                code = code_of(cause)
                if code in EXPIRED and not renewed and self._renewed(client):
                    renewed = True
                elif not self._waited("cut off" if isinstance(error, CutOff) else code, tries):
                    if code in MISSING:
                        raise FileNotFoundError(f"{where} is not there") from error
                    raise s3_error(cause, where, reading) from error
            else:
                if tries["denied"]:  # here they do pass
                    self._patience = _DENIED_WAIT
                return found

    def _waited(self, code: str, tries: dict[str, int]) -> bool:
        """Waits before another try; False if there is to be none."""
        kind = "denied" if code in DENIED else "busy" if code in BUSY else code
        if kind not in _WAITS or tries[kind] == len(_WAITS[kind]):
            return False
        pause = _WAITS[kind][tries[kind]]
        if kind == "denied":  # a bucket full of objects that may not be read is not waited for object by object
            if self._patience <= 0:
                return False
            self._patience -= pause
        time.sleep(pause)
        tries[kind] += 1
        return True

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client, self._keys = self._made()
            return self._client

    def _renewed(self, refused: Any) -> bool:
        """Reads the credentials anew, for files and roles change while a job runs; False if they are still the same ones."""
        with self._lock:
            if self._client is not refused:  # another thread did it
                return True
            client, keys = self._made()
            if keys == self._keys:
                return False
            self._client, self._keys = client, keys
            return True

    def _made(self) -> tuple[Any, tuple[str, str | None] | None]:
        import boto3
        from botocore.config import Config

        retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = _ATTEMPTS
        config = Config(connect_timeout=10, read_timeout=60, max_pool_connections=_CONNECTIONS, retries=retries)
        session = boto3.session.Session()
        trusted = certificates()
        try:
            client = session.client(
                "s3", endpoint_url=self._endpoint, region_name=self._region, config=config, verify=trusted
            )
        except ValueError as error:  # botocore checks addresses itself
            raise UserError(
                f"is not an address ({error})", where="AWS_ENDPOINT_URL", fix="give it as https://host:port"
            ) from None
        found = session.get_credentials()
        frozen = found.get_frozen_credentials() if found else None
        return client, (frozen.access_key, frozen.token) if frozen else None


def connection(endpoint: str | None, region: str | None) -> Connection:
    """The connection that the environment describes; the same one for the same environment."""
    return _connection(
        endpoint, region, os.getpid(), tuple(sorted(item for item in os.environ.items() if _matters(item[0])))
    )


@lru_cache(maxsize=8)
def _connection(endpoint: str | None, region: str | None, *_: object) -> Connection:
    return Connection(endpoint, region)


def _matters(name: str) -> bool:
    return name.startswith("AWS_") or name.upper() in _SETTINGS
