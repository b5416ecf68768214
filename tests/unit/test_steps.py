"""Training and evaluation steps: counts, learning rates, frozen stages, precision."""

from __future__ import annotations

import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, Stage, build
from ufgvc.training.optim import lr_at, lr_factor, make_optimizer, set_lr, stage_at, train_mode
from ufgvc.training.steps import choose_precision, eval_step, train_step

REGIONS = ("vein", "contour")
STAGE = Stage(epochs=1, lr=0.05, head_lr_factor=10.0, momentum=0.9)


def small() -> Method:
    torch.manual_seed(0)
    return build("mask_guided", 4, backbone="shufflenet_v2_x0_5")


def seven_leaves() -> Batch:
    """Seven images of which three have a vein mask and five a contour mask."""
    generator = torch.Generator().manual_seed(5)
    masks = {region: (torch.rand(7, 1, 64, 64, generator=generator) > 0.6).float() for region in REGIONS}
    has = {
        "vein": torch.tensor([True, False, True, True, False, False, False]),
        "contour": torch.tensor([True, True, False, True, True, True, False]),
    }
    return Batch(torch.rand(7, 3, 64, 64, generator=generator), torch.arange(7) % 4, masks, has)


def test_correct_counts_the_largest_logit():
    method = small()
    batch = seven_leaves()
    logits = eval_step(method, method.net.eval(), batch.images)
    labels = logits.argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    done = train_step(
        method, method.net, Batch(batch.images, labels, batch.masks, batch.has_mask), make_optimizer(method, STAGE)
    )
    assert (int(done.correct), done.count) == (4, 7)
    assert not any(tensor.requires_grad for pair in done.losses.values() for tensor in pair)


def test_a_step_moves_head_and_backbone_at_their_own_rates():
    method = small()
    optimizer = make_optimizer(method, STAGE)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {"backbone": 0.05, "head": 0.5}
    set_lr(optimizer, 0.1)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"backbone": 0.005, "head": 0.05}
    )
    before = {name: parameter.detach().clone() for name, parameter in method.net.named_parameters()}
    train_step(method, method.net.train(), seven_leaves(), optimizer)
    for name, parameter in method.net.named_parameters():
        rate = 0.05 if method.is_head(name) else 0.005
        assert torch.allclose(parameter, before[name] - rate * parameter.grad, atol=1e-6), name


def test_a_frozen_backbone_stays_bit_for_bit_with_its_statistics():
    method = small()
    stage = Stage(epochs=1, lr=0.1, frozen=("backbone",))
    optimizer = make_optimizer(method, stage)
    before = {name: tensor.clone() for name, tensor in method.net.state_dict().items()}
    train_mode(method, method.net, stage)
    train_step(method, method.net, seven_leaves(), optimizer)
    after = method.net.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert [group["name"] for group in optimizer.param_groups] == ["head"]
    thawed = make_optimizer(method, STAGE)
    assert sum(len(group["params"]) for group in thawed.param_groups) == len(list(method.net.parameters()))
    with pytest.raises(UserError, match="no module 'trunk'"):
        make_optimizer(method, Stage(epochs=1, lr=0.1, frozen=("trunk",)))


def test_schedules():
    step = Stage(epochs=10, lr=1.0, step_epochs=4, gamma=0.1)
    assert [lr_factor(step, epoch) for epoch in (0, 3, 4, 7, 8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    milestones = Stage(epochs=10, lr=1.0, schedule="milestones", milestones=(2, 5), gamma=0.5)
    assert [lr_factor(milestones, epoch) for epoch in (1, 2, 4, 5)] == pytest.approx([1, 0.5, 0.5, 0.25])
    cosine = Stage(epochs=12, lr=1.0, schedule="cosine", warmup_epochs=2)
    assert [lr_factor(cosine, epoch) for epoch in (0, 1, 2, 7, 12)] == pytest.approx([1 / 3, 2 / 3, 1, 0.5, 0])
    assert lr_factor(Stage(epochs=3, lr=1.0, schedule="constant"), 2) == 1
    stages = (Stage(epochs=2, lr=1.0, schedule="constant"), step)
    assert [stage_at(stages, epoch) for epoch in (0, 1, 2, 11, 12)] == [0, 0, 1, 1, 1]
    assert [lr_at(stages, epoch) for epoch in (1, 2, 6)] == pytest.approx([1, 1, 0.1])


def test_bf16_only_where_it_is_computed(monkeypatch: pytest.MonkeyPatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("auto", cpu) == "fp32"
    with pytest.raises(UserError, match="does not support bf16"):
        choose_precision("bf16", cpu)
    for able, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, able=able: able)
        assert choose_precision("auto", gpu) == chosen
        assert choose_precision("fp32", gpu) == "fp32"


def test_losses_and_attention_stay_float32_under_autocast():
    method = small()
    batch = seven_leaves()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method.net(batch.images)
    assert outputs["features"].dtype == torch.bfloat16
    assert outputs["attention"]["vein"].dtype == torch.float32
    for total, count in method.losses(outputs, batch).values():
        assert total.dtype == count.dtype == torch.float32
