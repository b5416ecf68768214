"""Waiting for the GPUs of a cluster that grows: an autoscaler starts nodes only for what is asked of Ray."""

from __future__ import annotations

import logging

from ufgvc.core.errors import UserError

log = logging.getLogger(__name__)


def wait_for_gpus(gpus: int, seconds: float) -> None:
    """Returns once the cluster has that many GPUs. Inside of a Ray session. UserError if they do not come in time.

    The wish is a placement group, which ends with this process: it cannot keep nodes alive for a job that was killed. It is taken back at
    once, so the nodes must be allowed to idle until the work asks for them.
    """
    if not gpus:
        return
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    there = ray.cluster_resources().get("GPU", 0)
    if there >= gpus:
        return
    if seconds:
        log.info("the cluster has %g of %d GPUs; waiting up to %.0f s for the rest", there, gpus, seconds)
        wish = placement_group([{"GPU": 1}] * gpus)
        try:
            if wish.wait(seconds):
                return
        finally:
            remove_placement_group(wish)
        there = ray.cluster_resources().get("GPU", 0)
    raise UserError(
        f"the cluster has {there:g} of {gpus} GPUs" + (f" after {seconds:.0f} s" if seconds else ""),
        where="--ray.gpus",
        fix="ask for fewer, or join a cluster that has them or grows (`--ray.address`, `--ray.patience`)",
    )
