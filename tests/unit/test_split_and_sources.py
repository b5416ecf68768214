"""Every training image occurs once an epoch for any number of ranks; held-out images are never trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufgvc.core.errors import UserError
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.crops import unpack
from ufgvc.data.splits import holdout_indices, kfold_indices
from ufgvc.data.stream import Chunk, num_batches, rank_chunks


def source(rows: int, batch: int, rank: int, world: int, positions: np.ndarray | None = None) -> CachedSource:
    data = DecodedSplit(np.arange(rows, dtype=np.uint8).reshape(rows, 1, 1, 1).repeat(3, 3), {}, {})
    labels = np.arange(rows, dtype=np.int64) % 3
    return CachedSource(
        data, labels, np.arange(rows) if positions is None else positions, batch, 7, rank, world, torch.device("cpu")
    )


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(8, 120), batch=st.integers(2, 40), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_every_image_once_and_two_for_every_rank(rows: int, batch: int, world: int, epoch: int) -> None:
    batch = max(batch, 4 * world)
    ranks = [list(source(rows, batch, rank, world).epoch(epoch)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {num_batches(rows, batch)}
    assert all(len(each.labels) > 1 for batches in ranks for each in batches)
    seen = np.concatenate([each.positions for batches in ranks for each in batches])
    assert sorted(seen) == list(range(rows))


def test_global_batches_do_not_depend_on_the_number_of_ranks() -> None:
    alone = [set(each.positions) for each in source(50, 8, 0, 1).epoch(2)]
    three = [list(source(50, 8, rank, 3).epoch(2)) for rank in range(3)]
    together = [set(np.concatenate([three[rank][step].positions for rank in range(3)])) for step in range(len(alone))]
    assert alone == together


def test_epochs_differ_and_repeat() -> None:
    first = np.concatenate([each.positions for each in source(50, 8, 0, 1).epoch(0)])
    again = np.concatenate([each.positions for each in source(50, 8, 0, 1).epoch(0)])
    second = np.concatenate([each.positions for each in source(50, 8, 0, 1).epoch(1)])
    assert (first == again).all()
    assert (first != second).any()


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), world=st.integers(1, 4), drop=st.integers(0, 3))
def test_stream_shares_are_exact(sizes: list[int], world: int, drop: int) -> None:
    ends = np.cumsum(sizes)
    tasks = [Chunk("a", None, 0, size, int(end - size)) for size, end in zip(sizes, ends, strict=True)]
    wanted = np.arange(ends[-1]) % 4 >= drop
    found: list[int] = []
    for rank in range(world):
        mine, count = rank_chunks(tasks, wanted, rank, world)
        rows = [row for task in mine for row in range(task.position, task.position + len(task)) if wanted[row]]
        assert len(rows) == count
        found += rows
    assert sorted(found) == list(np.flatnonzero(wanted))


def test_held_out_leaves_are_stratified_and_groups_stay_whole() -> None:
    labels = np.repeat(np.arange(5), 6)
    groups = [f"plant{index // 2}" for index in range(30)]
    learn, hold = holdout_indices(labels, groups, 0.34, seed=3)
    assert sorted([*learn, *hold]) == list(range(30))
    assert (np.bincount(labels[hold]) == 2).all()
    assert not {groups[i] for i in learn} & {groups[i] for i in hold}


def test_folds_cover_everything_once() -> None:
    labels = np.repeat(np.arange(4), 5)
    holds = [kfold_indices(labels, [None] * 20, 3, fold, 0)[1] for fold in range(3)]
    assert sorted(np.concatenate(holds)) == list(range(20))


def test_a_single_leaf_cannot_be_held_out() -> None:
    with pytest.raises(UserError, match="one training leaf"):
        holdout_indices(np.array([0, 0, 1]), [None] * 3, 0.5, 0)


def test_unpack_is_the_opposite_of_packbits() -> None:
    masks = np.random.default_rng(0).random((3, 21, 21)) > 0.5
    bits = torch.from_numpy(np.packbits(masks, axis=2))
    assert (unpack(bits, 21).numpy() == masks).all()
