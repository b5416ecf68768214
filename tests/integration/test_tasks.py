"""Ray's tasks: errors of tasks and actors, the order of results, and what the head keeps of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ufgvc.core.errors import UserError
from ufgvc.runtime.tasks import map_in_tasks, one_task_each, run_tasks


class Actor:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        raise UserError("cannot be read", where="a.jpg", fix="save it again")


def task(row: dict[str, Any]) -> dict[str, Any]:
    raise UserError("cannot be read", where="a.jpg", fix="save it again")


def broken(row: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("a defect of the program")


@pytest.mark.parametrize("kind", ["task", "actor"])
def test_a_user_error_comes_back_as_itself_and_prints_nothing(
    kind: str, ray_local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray.data import ActorPoolStrategy

    items = one_task_each([{"number": number} for number in range(3)])
    data = items.map(task) if kind == "task" else items.map_batches(Actor, compute=ActorPoolStrategy(size=1))
    capfd.readouterr()
    with pytest.raises(UserError) as caught:
        list(run_tasks(data.iter_rows()))
    error = caught.value
    assert type(error) is UserError
    assert (error.what, error.where, error.fix) == ("cannot be read", "a.jpg", "save it again")
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out


def test_any_other_error_keeps_its_traceback(ray_local: None) -> None:
    with pytest.raises(Exception, match="a defect of the program") as caught:
        list(run_tasks(one_task_each([{"number": 1}]).map(broken).iter_rows()))
    assert "in broken" in str(caught.value)


def test_results_keep_the_order_of_the_items(ray_local: None) -> None:
    rows = one_task_each([{"number": number} for number in range(5)]).map(lambda row: {"twice": 2 * row["number"]})
    assert [row["twice"] for row in run_tasks(rows.iter_rows())] == [0, 2, 4, 6, 8]


def test_the_head_of_a_local_session_keeps_no_events_of_tasks(ray_local: None) -> None:
    """The head of the tests is that of a local session."""
    import ray

    assert list(map_in_tasks(abs, [-1, 2, -3])) == [1, 2, 3]
    time.sleep(1.5)  # by default they are sent every second
    assert ray.timeline() == []
