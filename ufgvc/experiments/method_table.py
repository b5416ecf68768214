"""The rows of the benchmark: the methods of Tables II and III, our own methods, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.methods import names


@dataclass(frozen=True)
class MethodVariant:
    """A method with options: one row of the benchmark.

    key: its name in --methods and in files.  label: its name in tables.
    tables: those that show it, of "II", "III" and "controls".  mask_kind: kind of its masks, if not the benchmark's.
    lr_from: key of the variant whose tuned learning rate it uses (equal budget), so that a control differs from its
    method in one thing only.
    """

    key: str
    label: str
    method: str
    tables: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    mask_kind: str | None = None
    lr_from: str | None = None


def _row(key: str, label: str, method: str, tables: str, **more: Any) -> MethodVariant:
    return MethodVariant(key, label, method, frozenset(tables.split()), **more)


def _ablation(region: str, label: str) -> MethodVariant:
    options = {"regions": [region]}
    return _row(f"mask_guided:{region}", label, "mask_guided", "III controls", options=options, lr_from="mask_guided")


def _control(
    key: str, label: str, mask_kind: str | None = None, method: str = "mask_guided", **options: Any
) -> MethodVariant:
    return _row(f"{method}:{key}", label, method, "controls", options=options, mask_kind=mask_kind, lr_from=method)


PAPER_ROWS = (
    _row("alexnet", "AlexNet", "alexnet", "II"),
    _row("vgg16", "VGG-16", "vgg16", "II"),
    _row("resnet50", "ResNet-50", "resnet50", "II controls"),
    _row("inception_v3", "InceptionV3", "inception_v3", "II"),
    _row("mobilenet_v2", "MobileNetV2", "mobilenet_v2", "II"),
    _row("bcnn", "B-CNN", "bcnn", "II"),
    _row("improved_bcnn", "Improved B-CNN", "improved_bcnn", "II"),
    _row("nts_net", "NTS-NET", "nts_net", "II"),
    _row("mpn_cov", "fast-MPN-COV", "mpn_cov", "II"),
    _row("dcl", "DCL", "dcl", "II"),
    _row("maskcov", "MaskCOV", "maskcov", "II"),
    _row("mask_guided", "Proposed (mask_guided)", "mask_guided", "II III controls"),
)
ABLATIONS = (
    # The network of resnet50 with the recipe of mask_guided: the paper lacks it, and it is the base of its Table III.
    _row(
        "mask_guided:none", "ResNet-50, mask_guided's recipe", "mask_guided", "II III controls", options={"regions": []}
    ),
    _ablation("vein", "ResNet-50 + vein"),
    _ablation("contour", "ResNet-50 + contour"),
)
OURS = (
    _row("linear_probe", "Frozen backbone (linear_probe)", "linear_probe", "II controls"),
    _row("part_probe", "Ours (part_probe)", "part_probe", "II controls"),
    _row("leaf_traits", "Ours (leaf_traits)", "leaf_traits", "II controls"),
    _row("region_tokens", "Ours (region_tokens)", "region_tokens", "II controls"),
)
ORACLE = (
    _row(
        "mask_guided:exact",
        "mask_guided, exact masks (oracle)",
        "mask_guided",
        "II controls",
        mask_kind="exact",
        lr_from="mask_guided",
    ),
)
CONTROLS = (
    _control("luminance", "masks: luminance", mask_kind="luminance"),
    _control("structure", "masks: structure", mask_kind="structure"),
    _control("softmax", "activation: softmax (Eq. 4)", activation="softmax"),
    _control("softmax_peak", "activation: softmax by its peak", activation="softmax_peak"),
    _control("shared", "one map for both regions", control={"maps": "shared"}),
    _control("all", "attention sees all channels", control={"statistics": "all"}),
    _control("shuffled", "masks of other leaves", control={"guide": "shuffled"}),
    _control("centre", "a centre blob instead of masks", control={"guide": "centre"}),
    _control("no_fusion", "the loss without the fusion", fusion={"base": 1.0, "vein": 0.0, "contour": 0.0}),
    _control("no_loss", "the fusion without the loss", loss_weights={"vein": 0.0, "contour": 0.0}),
    _control("gain", "no masks, features times 0.65", regions=[], control={"gain": 0.65}),
    _control("vein", "linear_probe + vein", method="linear_probe", regions=["vein"]),
    _control("contour", "linear_probe + contour", method="linear_probe", regions=["contour"]),
    _control("regions", "linear_probe + vein + contour", method="linear_probe", regions=["vein", "contour"]),
    _control("none", "leaf_traits without traits: a cosine head", method="leaf_traits", traits=[]),
    _control("outline", "leaf_traits: outline alone", method="leaf_traits", traits=["outline"]),
    _control("veins", "leaf_traits: veins alone", method="leaf_traits", traits=["veins"]),
    _control("colour", "leaf_traits: colour alone", method="leaf_traits", traits=["colour"]),
    _control("no_trunk", "leaf_traits without the backbone", method="leaf_traits", control={"trunk": False}),
    _control("none", "region_tokens without regions", method="region_tokens", regions=[]),
    _control("no_loss", "region_tokens without masks", method="region_tokens", mask_weight=0.0),
    _control("shuffled", "region_tokens, masks of other leaves", method="region_tokens", control={"guide": "shuffled"}),
    _control("linear", "region_tokens with linear heads", method="region_tokens", head="linear"),
)
LISTED = {row.key: row for row in (*PAPER_ROWS, *ABLATIONS, *OURS, *ORACLE, *CONTROLS)}


def list_variants() -> dict[str, MethodVariant]:
    """All rows by key: those above, and every other registered method by its name."""
    return LISTED | {name: _row(name, name, name, "II") for name in names() if name not in LISTED}


def list_groups() -> dict[str, tuple[str, ...]]:
    """The keys of the rows of each group that --methods accepts."""
    variants = list_variants()
    paper = tuple(row.key for row in (*PAPER_ROWS, *ABLATIONS))
    oracle = tuple(row.key for row in ORACLE)
    others = (key for key, row in variants.items() if key not in (*paper, *oracle) and "II" in row.tables)
    return {
        "all": (*paper, *others),
        "paper": paper,
        "oracle": oracle,
        # Not the oracle: most data sets have no exact masks.
        "controls": tuple(key for key, row in variants.items() if "controls" in row.tables and key not in oracle),
    }


def select_variants(wanted: Sequence[str]) -> tuple[MethodVariant, ...]:
    """The rows of groups and keys, without duplicates, in the order of the tables. UserError for an unknown name.

    A row that uses the learning rate of another row adds that one.
    """
    variants, groups = list_variants(), list_groups()
    keys: set[str] = set()
    for name in wanted:
        if name not in groups and name not in variants:
            known = f"groups {', '.join(groups)}; rows {', '.join(variants)}"
            raise UserError(f"{name!r} is not a row of any table", where="--methods", fix=f"choose from: {known}")
        keys |= set(groups.get(name, (name,)))
    keys |= {lr_from for key in keys if (lr_from := variants[key].lr_from)}
    return tuple(row for key, row in variants.items() if key in keys)
