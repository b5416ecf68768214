"""The rate of an address and the places for requests in work."""

from __future__ import annotations

import contextlib

import pytest

from ufgvc.serving import limits
from ufgvc.serving.limits import Places, RateLimit
from ufgvc.serving.refused import Refused


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def accepted(rate: RateLimit, address: str, requests: int) -> int:
    count = 0
    for _ in range(requests):
        with contextlib.suppress(Refused):
            rate.take(address)
            count += 1
    return count


def test_a_minute_allows_as_many_as_it_says_and_each_address_its_own() -> None:
    clock = Clock()
    rate = RateLimit(60, clock)
    assert accepted(rate, "a", 100) == 60
    assert accepted(rate, "b", 100) == 60
    clock.now = 10.0
    assert accepted(rate, "a", 100) == 10
    clock.now = 1000.0
    assert accepted(rate, "a", 100) == 60


def test_a_refusal_says_when_to_try_again() -> None:
    clock = Clock()
    rate = RateLimit(6, clock)
    assert accepted(rate, "a", 6) == 6
    with pytest.raises(Refused, match="more than 6 requests a minute; try again in 10 s") as refused:
        rate.take("a")
    assert refused.value.retry_after == pytest.approx(10)
    clock.now = 10.0
    rate.take("a")
    assert refused.value.status == 429


def test_the_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ADDRESSES", 10)
    clock = Clock()
    rate = RateLimit(60, clock)
    for number in range(50):
        rate.take(str(number))
    assert len(rate.addresses) <= 10
    clock.now = 60.0
    for number in range(11):
        rate.take(str(100 + number))
    assert set(rate.addresses) <= {str(100 + number) for number in range(11)}  # those of before may start anew


def test_places_are_given_back_also_after_an_error() -> None:
    places = Places(2, max_bytes=100)
    with places.take(10), places.take(10):
        with pytest.raises(Refused, match="busy with 2 requests"), places.take(10):
            pass
    with pytest.raises(KeyError), places.take(10):
        raise KeyError
    assert (places.taken, places.taken_bytes) == (0, 0)


def test_large_requests_take_turns_and_one_is_always_accepted() -> None:
    places = Places(10, max_bytes=100)
    with places.take(500):
        with pytest.raises(Refused) as refused, places.take(1):
            pass
        assert (refused.value.status, refused.value.retry_after) == (429, 1)
    with places.take(50), places.take(50):
        assert places.taken_bytes == 100
