"""The addresses that `ufgvc serve` prints: those that a person can open."""

from __future__ import annotations

import ipaddress

import pytest

from ufgvc.serving import preflight
from ufgvc.serving.preflight import page_urls


def test_one_address_is_printed_as_it_is() -> None:
    assert page_urls("127.0.0.1", 8000) == ["http://127.0.0.1:8000/"]
    assert page_urls("::1", 8000) == ["http://[::1]:8000/"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_are_this_machine_and_its_network(host: str) -> None:
    first, *others = page_urls(host, 8000)
    assert first == "http://localhost:8000/"
    for url in others:  # a machine without a network has none
        address = ipaddress.ip_address(url.removeprefix("http://").removesuffix(":8000/").strip("[]"))
        assert (address.is_unspecified, address.is_loopback) == (False, False)


def test_a_machine_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_address_towards", lambda other: None)
    assert page_urls("0.0.0.0", 80) == ["http://localhost:80/"]


def test_a_machine_on_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_address_towards", lambda other: "2001:db8::7" if ":" in other else "192.168.1.7")
    assert page_urls("0.0.0.0", 8000)[1] == "http://192.168.1.7:8000/"
    assert page_urls("::", 8000)[1] == "http://[2001:db8::7]:8000/"
