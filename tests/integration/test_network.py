"""Which interface a node's training workers talk over."""

from __future__ import annotations

import os

import pytest

from ufgvc.train.network import interface_of, talk_where_ray_talks


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("203.0.113.7") is None, "an address of documentation, which no machine has"


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    talk_where_ray_talks()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    talk_where_ray_talks()
    assert os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
