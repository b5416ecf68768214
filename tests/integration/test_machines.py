"""The machines that other tests lose: they reach one another, a lost one is gone at once, and nothing is left of any."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.machines import Loopback, Namespaces, answers, namespaces_work, opened, runs, wait_for


@pytest.mark.parametrize("kind", [Namespaces, Loopback])
def test_they_reach_one_another_and_can_be_lost(kind: type, tmp_path: Path, free_port: Callable[[], int]) -> None:
    if kind is Namespaces and not namespaces_work():
        pytest.skip("network namespaces are not allowed here")
    port = free_port()
    before = {name for _, name in socket.if_nameindex()}
    with opened(kind(tmp_path)) as place:
        one, two = place.add("one"), place.add("two")
        served = [sys.executable, "-m", "http.server", str(port), "--bind"]
        place.run(place.hub, [*served, place.hub.address], os.environ, tmp_path / "hub.log")
        wait_for(lambda: answers(place.hub.address, port), "the hub's server")
        asking = f"import socket; socket.create_connection(('{place.hub.address}', {port}), 9); print('reached', flush=True); input()"
        waiting = place.run(
            one, ["bash", "-c", f'sleep 600 | {sys.executable} -c "{asking}"'], os.environ, tmp_path / "one.log"
        )
        staying = place.run(two, ["sleep", "600"], os.environ, tmp_path / "two.log")
        wait_for(lambda: "reached" in (tmp_path / "one.log").read_text(), "an answer from the hub")
        on_one = one.processes("sleep 600")
        assert on_one

        started = time.monotonic()
        place.lose(one)
        assert time.monotonic() - started < 30
        assert waiting.poll() not in (None, 0)
        assert not any(map(runs, on_one))
        assert staying.poll() is None
    assert staying.poll() is not None
    # Seen once to take longer than a minute beside other tests; why is not known.
    wait_for(lambda: {name for _, name in socket.if_nameindex()} <= before, "the end of the cables", within=240)
