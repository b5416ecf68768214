"""The clock that adds up the CPU time of all processes."""

from __future__ import annotations

import subprocess
import sys

from ufgvc.bench.processes import TreeClock

SPIN = "import time\nwhile time.process_time() < {seconds}: pass\ntime.sleep(0.3)"


def test_processes_that_have_ended_count() -> None:
    with TreeClock() as clock:
        before = clock()
        processes = [subprocess.Popen([sys.executable, "-c", SPIN.format(seconds=0.4)]) for _ in range(2)]
        for process in processes:
            assert process.wait() == 0
        assert 0.75 < clock() - before < 2
        assert clock() >= before
