"""One task for each item, in Ray Data or in threads of this process; a UserError of a task comes back as itself."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ufgvc.core.errors import user_error_in

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """work(item) for each item, in their order. At most `threads` results are computed ahead of the one in use."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def map_in_tasks(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """work(item) for each item in Ray tasks, in their order, a CPU slot each. Inside of a Ray session.

    Twice as many tasks as there are slots wait or run at a time, so that the items may be any number.
    """
    import ray

    task: Any = ray.remote(_call).options(num_cpus=1)
    held = ray.put(work)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(task.remote(held, item))
            if len(waiting) > 2 * free_slots(0, 1):
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


def one_task_each(items: Sequence[dict[str, Any]]) -> Any:
    """A Ray Dataset with a block, and so a task, for each item, in their order. Inside of a Ray session."""
    import ray.data

    configure_ray_data()
    return ray.data.from_items(list(items), override_num_blocks=len(items))


def free_slots(reserved: float, streams: int) -> int:
    """Tasks that each of `streams` datasets can run at a time, a CPU slot each, at least 1. Inside of a Ray session.

    reserved: CPU slots of the cluster that others hold.
    """
    import ray

    return max(1, int((ray.cluster_resources().get("CPU", 0) - reserved) / streams))


def run_tasks(results: Iterable[Result]) -> Iterator[Result]:
    """Yields the results of a Ray Dataset (its `iter_rows` or `iter_batches`); a UserError of a task or actor is raised
    as itself.
    """
    from ray.exceptions import RayError

    try:
        yield from results
    except RayError as error:
        found = user_error_in(error)
        if found is None:
            raise
        raise found from None


def configure_ray_data() -> None:
    """Sets what all our datasets share: ordered blocks, original exceptions, no progress bars.

    Ray copies this context when a dataset is built, so call it before. Without `raise_original_map_exception` Ray Data
    raises a UserCodeException, which has lost its cause on the way to the driver. Its own log line for each error would
    come before ours.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
