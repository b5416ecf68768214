"""`python node.py start ...`: `ray start` for a worker node on loopback, which Ray refuses.

Ray replaces 127.0.0.1 by the machine's address, and then listens on every interface. Where it believes that clusters
are not supported (as on macOS) it does not; it then starts a head, but no further node. So only that check is passed
here, and the rest of the process, and the processes that it starts, stay on loopback.
"""

from __future__ import annotations

import os
import sys

LOOPBACK = "127.0.0.1"
NO_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": Ray's own address is 127.0.0.1


def main() -> None:
    """Starts a Ray node in this process group."""
    os.environ[NO_CLUSTERS] = "1"  # read when Ray is imported
    from ray._private import services
    from ray.scripts.scripts import main as ray

    os.environ[NO_CLUSTERS] = "0"
    services.get_node_ip_address = lambda address=None: LOOPBACK
    sys.argv[0] = "ray"
    ray()


if __name__ == "__main__":
    main()
