"""Who may ask how often: the token, the rate of an address, and the requests that are answered at a time."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterator

from ufgvc.serving.refused import Refused

MAX_ADDRESSES = 10_000  # whose rates are remembered
BYTES_AT_A_TIME = 128_000_000  # of all requests in work; they pass through Ray's object store


def digest(token: str) -> bytes:
    """What the service keeps of the token: its SHA-256."""
    return hashlib.sha256(token.encode()).digest()


def check_token(authorization: str | None, wanted: bytes | None) -> None:
    """Refused (401) unless the header holds the token.  wanted: its digest; None: no token is needed."""
    if wanted is None:
        return
    kind, _, token = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Refused(401, "this service needs its token: send the header `Authorization: Bearer TOKEN`")
    if not hmac.compare_digest(digest(token.strip()), wanted):
        raise Refused(401, "this is not the token of this service")


class RateLimit:
    """At most `per_minute` requests a minute from each address; after a pause, as many at a time.

    clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self.addresses: dict[str, tuple[float, float]] = {}  # address -> requests left, and when that was so

    def take(self, address: str) -> None:
        """Counts a request. Refused (429) if the address has sent too many."""
        now = self.clock()
        left = self._left(address, now)
        if left < 1:
            wait = (1 - left) * 60 / self.per_minute
            message = f"more than {self.per_minute} requests a minute; try again in {math.ceil(wait)} s"
            raise Refused(429, message, retry_after=wait)
        self.addresses[address] = (left - 1, now)
        if len(self.addresses) > MAX_ADDRESSES:
            self._forget(now)

    def _left(self, address: str, now: float) -> float:
        left, since = self.addresses.get(address, (float(self.per_minute), now))
        return min(float(self.per_minute), left + (now - since) * self.per_minute / 60)

    def _forget(self, now: float) -> None:
        """Forgets addresses that may send at the full rate again, and then the oldest half if that were not enough."""
        self.addresses = {key: pair for key, pair in self.addresses.items() if self._left(key, now) < self.per_minute}
        if len(self.addresses) > MAX_ADDRESSES:
            self.addresses = dict(list(self.addresses.items())[MAX_ADDRESSES // 2 :])


class Places:
    """The requests in work: at most `limit` of them, with at most `max_bytes` together."""

    def __init__(self, limit: int, max_bytes: int = BYTES_AT_A_TIME) -> None:
        self.limit, self.max_bytes = limit, max_bytes
        self.taken, self.taken_bytes = 0, 0

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        """A place for a request of that many bytes, within the block. Refused (429) if there is none; never waits.

        A single request has a place whatever its size.
        """
        if self.taken >= self.limit or (self.taken and self.taken_bytes + size > self.max_bytes):
            raise Refused(429, f"the service is busy with {self.taken} requests; try again soon", retry_after=1)
        self.taken += 1
        self.taken_bytes += size
        try:
            yield
        finally:
            self.taken -= 1
            self.taken_bytes -= size
