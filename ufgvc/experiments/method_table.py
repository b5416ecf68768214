"""The rows of the benchmark: the methods of Tables II and III, our own methods, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
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


def _control(
    key: str, label: str, mask_kind: str | None = None, method: str = "mask_guided", **options: Any
) -> MethodVariant:
    return _row(f"{method}:{key}", label, method, "controls", options=options, mask_kind=mask_kind, lr_from=method)


def _key_of(region: str) -> str:
    """The part of the key of a row with this region alone, marked where a control has that key: mask_guided:+centre."""
    return f"+{region}" if region in _TAKEN else region


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
OUR_CONTROLS = (
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
# What follows the colon in the keys of other rows of mask_guided and linear_probe.
_TAKEN = frozenset(
    [
        "none",
        "exact",
        "luminance",
        "structure",
        "softmax",
        "softmax_peak",
        "shared",
        "all",
        "shuffled",
        "centre",
        "no_fusion",
        "no_loss",
        "gain",
        "regions",
    ]
)


def list_ablations(regions: Sequence[str]) -> tuple[MethodVariant, ...]:
    """The proposed method without regions, and with each of them alone.  regions: of the data set."""
    # The network of resnet50 with the recipe of mask_guided: the paper lacks it, and it is the base of its Table III.
    plain = _row(
        "mask_guided:none", "ResNet-50, mask_guided's recipe", "mask_guided", "II III controls", options={"regions": []}
    )
    return plain, *(
        _row(
            f"mask_guided:{_key_of(region)}",
            f"ResNet-50 + {region}",
            "mask_guided",
            "III controls",
            options={"regions": [region]},
            lr_from="mask_guided",
        )
        for region in (regions if len(regions) > 1 else ())  # with one only, this is the method itself
    )


def list_controls(regions: Sequence[str]) -> tuple[MethodVariant, ...]:
    """Variants of our methods that lack what is to be shown.  regions: of the data set."""
    several = len(regions) > 1
    own = [region for region in regions if region not in PAPER_REGIONS]
    zero: dict[str, Any] = {region: 0.0 for region in regions if region in PAPER_REGIONS}
    zero |= {"regions": dict.fromkeys(own, 0.0)} if own else {}
    structure = () if own else (_control("structure", "masks: structure", mask_kind="structure"),)
    alone = [
        _control(_key_of(region), f"linear_probe + {region}", method="linear_probe", regions=[region])
        for region in (regions if several else ())
    ]
    both = "both" if len(regions) == 2 else "all"
    label = " + ".join(("linear_probe", *regions))
    return (
        _control("luminance", "masks: luminance", mask_kind="luminance"),
        *structure,
        _control("softmax", "activation: softmax (Eq. 4)", activation="softmax"),
        _control("softmax_peak", "activation: softmax by its peak", activation="softmax_peak"),
        _control("shared", f"one map for {both} regions", control={"maps": "shared"}),
        _control("all", "attention sees all channels", control={"statistics": "all"}),
        _control("shuffled", "masks of other leaves", control={"guide": "shuffled"}),
        _control("centre", "a centre blob instead of masks", control={"guide": "centre"}),
        _control("no_fusion", "the loss without the fusion", fusion={"base": 1.0, **zero}),
        _control("no_loss", "the fusion without the loss", loss_weights=zero),
        _control("gain", "no masks, features times 0.65", regions=[], control={"gain": 0.65}),
        *alone,
        _control("regions", label, method="linear_probe", regions=list(regions)),
        *OUR_CONTROLS,
    )


def list_variants(regions: Sequence[str] = PAPER_REGIONS) -> dict[str, MethodVariant]:
    """All rows by key, those above and every other registered method by its name.  regions: of the data set."""
    rows = (*PAPER_ROWS, *list_ablations(regions), *OURS, *ORACLE, *list_controls(regions))
    listed = {row.key: row for row in rows}
    return listed | {name: _row(name, name, name, "II") for name in names() if name not in listed}


def list_groups(regions: Sequence[str] = PAPER_REGIONS) -> dict[str, tuple[str, ...]]:
    """The keys of the rows of each group that --methods accepts.  regions: of the data set."""
    variants = list_variants(regions)
    paper = tuple(row.key for row in (*PAPER_ROWS, *list_ablations(regions)))
    oracle = tuple(row.key for row in ORACLE)
    others = (key for key, row in variants.items() if key not in (*paper, *oracle) and "II" in row.tables)
    return {
        "all": (*paper, *others),
        "paper": paper,
        "oracle": oracle,
        # Not the oracle: most data sets have no exact masks.
        "controls": tuple(key for key, row in variants.items() if "controls" in row.tables and key not in oracle),
    }


def select_variants(wanted: Sequence[str], regions: Sequence[str] = PAPER_REGIONS) -> tuple[MethodVariant, ...]:
    """The rows of groups and keys, without duplicates, in the order of the tables. UserError for an unknown name.

    A row that uses the learning rate of another row adds that one.  regions: of the data set.
    """
    variants, groups = list_variants(regions), list_groups(regions)
    keys: set[str] = set()
    for name in wanted:
        if name not in groups and name not in variants:
            known = f"groups {', '.join(groups)}; rows {', '.join(variants)}"
            raise UserError(f"{name!r} is not a row of any table", where="--methods", fix=f"choose from: {known}")
        keys |= set(groups.get(name, (name,)))
    keys |= {lr_from for key in keys if (lr_from := variants[key].lr_from)}
    return tuple(row for key, row in variants.items() if key in keys)
