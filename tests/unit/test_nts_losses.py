"""NTS-Net's losses by hand and in loops, and which parts of the net each of them teaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.unit.nts_references import CLASSES, tiny, tiny_images
from ufgvc.methods import Batch
from ufgvc.methods.nts_net import nts_losses, ranking_loss


def test_the_ranking_loss_by_hand():
    scores, grades = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.1, 0.5, 0.3]])
    assert ranking_loss(scores, grades).tolist() == [2.0]
    assert ranking_loss(scores, torch.tensor([[0.1, 0.3, 0.5]])).tolist() == [0.0], "in order, each by the margin of 1"
    assert ranking_loss(scores, torch.tensor([[0.3, 0.3, 0.3]])).tolist() == [0.0], "equal parts have no order"


def test_the_ranking_loss_in_loops():
    scores, grades = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    expected = [
        sum(max(0.0, 1 - float(s[i]) + float(s[j])) for i in range(6) for j in range(6) if grade[j] > grade[i])
        for s, grade in zip(scores, grades, strict=True)
    ]
    assert torch.allclose(ranking_loss(scores, grades), torch.tensor(expected, dtype=torch.float64))


def test_all_losses_from_the_outputs():
    generator = torch.Generator().manual_seed(7)
    logits, raw = torch.randn(2, CLASSES, generator=generator), torch.randn(2, CLASSES, generator=generator)
    parts, scores = torch.randn(2, 6, CLASSES, generator=generator), torch.randn(2, 6, generator=generator)
    labels = [3, 1]
    found = nts_losses(
        {"logits": logits, "raw_logits": raw, "part_logits": parts, "scores": scores},
        Batch(torch.zeros(2, 3, 1, 1), torch.tensor(labels)),
    )

    def entropy(values: Tensor, label: int) -> float:
        return math.log(sum(math.exp(value) for value in values.tolist())) - float(values[label])

    grades = [[entropy(part, label) for part in image] for image, label in zip(parts, labels, strict=True)]
    rank = 0.0
    for s, grade in zip(scores.tolist(), grades, strict=True):
        rank += sum(max(0.0, 1 - s[i] + s[j]) for i in range(6) for j in range(6) if grade[j] > grade[i])
    expected = {
        "classification": (sum(entropy(row, label) for row, label in zip(logits, labels, strict=True)), 2),
        "raw": (sum(entropy(row, label) for row, label in zip(raw, labels, strict=True)), 2),
        "parts": (sum(map(sum, grades)), 12),
        "rank": (rank, 2),
    }
    assert set(found) == set(expected)
    for name, (total, count) in expected.items():
        assert float(found[name][0]) == pytest.approx(total, rel=1e-5), name
        assert float(found[name][1]) == count, name
    assert tiny().loss_weights == dict.fromkeys(expected, 1.0)


def test_the_ranking_loss_teaches_the_navigator_only():
    method = tiny()
    batch = Batch(tiny_images(), torch.arange(3))
    parts = method.losses(method.net.train()(batch.images), batch)
    named = dict(method.net.named_parameters())
    grads = torch.autograd.grad(parts["rank"][0], list(named.values()), allow_unused=True, retain_graph=True)
    taught = {name for name, grad in zip(named, grads, strict=True) if grad is not None}
    assert taught == {name for name in named if name.startswith("navigator.")}
    assert all(grad.abs().sum() > 0 for grad in grads if grad is not None)
    others = sum(total for name, (total, _) in parts.items() if name != "rank")
    grads = torch.autograd.grad(others, list(named.values()), allow_unused=True)
    untaught = {name for name, grad in zip(named, grads, strict=True) if grad is None}
    assert untaught == taught
