"""Who takes part in the benchmark: the rows of Tables II and III, the rows that the paper leaves open, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.methods import names


@dataclass(frozen=True)
class MethodVariant:
    """One row.  key: its name in --methods and in files.  label: what tables call it.  tables: of "II", "III" and "controls".

    mask: another kind of masks than the benchmark's.  rate_of: the contestant whose chosen learning rate it takes (equal budget), so
    that a control differs from what it controls in one thing only.
    """

    key: str
    label: str
    method: str
    tables: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: str | None = None
    rate_of: str | None = None


def _row(key: str, label: str, method: str, tables: str, **more: Any) -> MethodVariant:
    return MethodVariant(key, label, method, frozenset(tables.split()), **more)


def _ablation(region: str, label: str) -> MethodVariant:
    options = {"regions": [region]}
    return _row(f"mask_guided:{region}", label, "mask_guided", "III controls", options=options, rate_of="mask_guided")


def _control(key: str, label: str, mask: str | None = None, of: str = "mask_guided", **options: Any) -> MethodVariant:
    return _row(f"{of}:{key}", label, of, "controls", options=options, mask=mask, rate_of=of)


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
    # The net of resnet50 under the recipe of mask_guided: the comparison that the paper leaves open, and the base of its Table III.
    _row(
        "mask_guided:none", "ResNet-50, mask_guided's recipe", "mask_guided", "II III controls", options={"regions": []}
    ),
    _ablation("vein", "ResNet-50 + vein"),
    _ablation("contour", "ResNet-50 + contour"),
)
OURS = (
    _row("leaf_traits", "Ours (leaf_traits)", "leaf_traits", "II controls"),
    _row("region_tokens", "Ours (region_tokens)", "region_tokens", "II controls"),
)
ORACLE = (
    _row(
        "mask_guided:exact",
        "mask_guided, exact masks (oracle)",
        "mask_guided",
        "II controls",
        mask="exact",
        rate_of="mask_guided",
    ),
)
CONTROLS = (
    _control("luminance", "masks: luminance", mask="luminance"),
    _control("structure", "masks: structure", mask="structure"),
    _control("softmax", "activation: softmax (Eq. 4)", activation="softmax"),
    _control("softmax_peak", "activation: softmax by its peak", activation="softmax_peak"),
    _control("shared", "one map for both regions", control={"maps": "shared"}),
    _control("all", "attention sees all channels", control={"statistics": "all"}),
    _control("shuffled", "masks of other leaves", control={"guide": "shuffled"}),
    _control("centre", "a centre blob instead of masks", control={"guide": "centre"}),
    _control("no_fusion", "the loss without the fusion", fusion={"base": 1.0, "vein": 0.0, "contour": 0.0}),
    _control("no_loss", "the fusion without the loss", loss_weights={"vein": 0.0, "contour": 0.0}),
    _control("gain", "no masks, features times 0.65", regions=[], control={"gain": 0.65}),
    _control("none", "leaf_traits without traits: a cosine head", of="leaf_traits", traits=[]),
    _control("outline", "leaf_traits: outline alone", of="leaf_traits", traits=["outline"]),
    _control("veins", "leaf_traits: veins alone", of="leaf_traits", traits=["veins"]),
    _control("colour", "leaf_traits: colour alone", of="leaf_traits", traits=["colour"]),
    _control("no_trunk", "leaf_traits: prediction without the network", of="leaf_traits", control={"trunk": False}),
    _control("none", "region_tokens without regions", of="region_tokens", regions=[]),
    _control("no_loss", "region_tokens without masks", of="region_tokens", mask_weight=0.0),
    _control("shuffled", "region_tokens with masks of other leaves", of="region_tokens", control={"guide": "shuffled"}),
    _control("linear", "region_tokens with linear heads", of="region_tokens", head="linear"),
)
LISTED = {each.key: each for each in (*PAPER_ROWS, *ABLATIONS, *OURS, *ORACLE, *CONTROLS)}


def everyone() -> dict[str, MethodVariant]:
    """All rows by key: those above, and every other registered method by its name."""
    return LISTED | {name: _row(name, name, name, "II") for name in names() if name not in LISTED}


def groups() -> dict[str, tuple[str, ...]]:
    """Keys of the rows that one word stands for."""
    rows = everyone()
    own = [each.key for each in (*PAPER_ROWS, *ABLATIONS)]
    return {
        "all": (
            *own,
            *(
                key
                for key in rows
                if key not in own and "II" in rows[key].tables and key not in {o.key for o in ORACLE}
            ),
        ),
        "paper": tuple(own),
        "oracle": tuple(each.key for each in ORACLE),
        # Not the oracle: most data sets have no exact masks.
        "controls": tuple(key for key, row in rows.items() if "controls" in row.tables and row not in ORACLE),
    }


def chosen(wanted: Sequence[str]) -> tuple[MethodVariant, ...]:
    """The contestants of groups and keys, each once, in the order of the tables. UserError for an unknown name.

    Whoever takes the learning rate of another brings that one along.
    """
    rows, several = everyone(), groups()
    keys: set[str] = set()
    for name in wanted:
        if name not in several and name not in rows:
            known = f"groups {', '.join(several)}; rows {', '.join(rows)}"
            raise UserError(f"{name!r} takes part in no table", where="--methods", fix=f"choose from: {known}")
        keys |= set(several.get(name, (name,)))
    keys |= {rate_of for key in keys if (rate_of := rows[key].rate_of)}
    return tuple(row for key, row in rows.items() if key in keys)
