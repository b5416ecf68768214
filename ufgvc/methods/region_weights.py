"""Weights of the regions in the mask-guided classifier: in the fused map (Eq. 5 and 6) and in the loss (Eq. 8).

Vein and contour have fields of their own, with the published values. Regions with other names are in the field
`regions`, so that a region may be called like another weight (base).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ufgvc.core.config import Settings, added
from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS, RegionName

Variant = Literal["paper", "released_code"]
ByRegion = dict[RegionName, Annotated[float, Field(ge=0)]]


class Fusion(Settings):
    """Weights of the fused map F' = base F + vein A_vein F + contour A_contour F (Eq. 5); None: the variant's value.

    They are rescaled to sum to 1 over the base and the regions in use (Eq. 6).
    """

    base: float | None = Field(None, ge=0, description="weight of the plain features (paper: 0.3)")
    vein: float | None = Field(None, ge=0, description="weight of the features times the vein attention (paper: 0.5)")
    contour: float | None = Field(
        None, ge=0, description="weight of the features times the contour attention (paper: 0.2)"
    )
    regions: ByRegion = added({}, "weights of regions with other names; default: equal shares of what the base leaves")


class LossWeights(Settings):
    """Weights of the losses (Eq. 8); None: the variant's value."""

    classification: float | None = Field(None, ge=0, description="weight of the cross-entropy (paper: 1)")
    vein: float | None = Field(None, ge=0, description="weight of the vein attention's squared error (paper: 0.1)")
    contour: float | None = Field(
        None, ge=0, description="weight of the contour attention's squared error (paper: 0.1)"
    )
    regions: ByRegion = added({}, "weights of the squared errors of regions with other names (default: 0.1 each)")


@dataclass(frozen=True)
class Weights:
    """base: of the plain features.  fusion: {region: its weight in the fused map}.  classification: of the
    cross-entropy.  losses: {region: weight of its loss}.
    """

    base: float
    fusion: dict[str, float]
    classification: float
    losses: dict[str, float]

    @property
    def settings(self) -> tuple[Fusion, LossWeights]:
        """The settings that give these weights."""
        return (
            Fusion.model_validate({"base": self.base, **_to_fields(self.fusion)}),
            LossWeights.model_validate({"classification": self.classification, **_to_fields(self.losses)}),
        )


def published_weights(variant: Variant, regions: Sequence[str]) -> Weights:
    """The weights of the paper's text or of its released code.

    With a region that is not the paper's, all regions share equally what the base leaves, because nothing says which
    matters more; the losses have the weights of the variant.
    """
    single = len(regions) == 1
    if variant == "paper":
        base, published, loss = 0.3, {"vein": 0.5, "contour": 0.2}, 0.1
    elif single:
        base, published, loss = 0.65, {"vein": 0.35, "contour": 0.35}, 0.2
    else:
        base, published, loss = 0.2, {"vein": 0.7, "contour": 0.1}, 0.1
    equal = dict.fromkeys(regions, (1 - base) / max(1, len(regions)))
    fusion = {region: published[region] for region in regions} if set(regions) <= set(PAPER_REGIONS) else equal
    return Weights(base, fusion, 1.0, dict.fromkeys(regions, loss))


def choose_weights(variant: Variant, regions: Sequence[str], fusion: Fusion, losses: LossWeights) -> Weights:
    """The weights for the regions in use: those that are given, else the variant's; base and fusion sum to 1.

    UserError if all fusion weights are 0.
    """
    default = published_weights(variant, regions)
    base = default.base if fusion.base is None else fusion.base
    by_region = default.fusion | _by_region(fusion, regions)
    total = sum((base, *by_region.values()))
    if total <= 0:
        raise UserError("the fusion weights in use are all 0", where="fusion", fix="set one of them above 0")
    return Weights(
        base / total,
        {region: weight / total for region, weight in by_region.items()},
        default.classification if losses.classification is None else losses.classification,
        default.losses | _by_region(losses, regions),
    )


def _by_region(given: Fusion | LossWeights, regions: Sequence[str]) -> dict[str, float]:
    """The weights that are given for the regions in use."""
    named = {region: getattr(given, region) for region in PAPER_REGIONS} | given.regions
    return {region: named[region] for region in regions if named.get(region) is not None}


def _to_fields(by_region: Mapping[str, float]) -> dict[str, Any]:
    """{region: weight} as the fields of `Fusion` and `LossWeights`."""
    paper = {region: weight for region, weight in by_region.items() if region in PAPER_REGIONS}
    return paper | {"regions": {region: weight for region, weight in by_region.items() if region not in paper}}
