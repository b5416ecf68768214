"""The accuracies that the paper reports, for comparison with ours."""

from __future__ import annotations

from collections.abc import Mapping

from ufgvc.core.region_names import PAPER_REGIONS

# Top-1 accuracy in percent, Tables II and III of the paper: {data set: {(method, regions): accuracy}}.
PAPER: dict[str, dict[tuple[str, tuple[str, ...]], float]] = {
    "cotton80": {
        ("alexnet", ()): 22.92, ("vgg16", ()): 50.83, ("resnet50", ()): 52.50, ("inception_v3", ()): 37.50,
        ("mobilenet_v2", ()): 49.58, ("improved_bcnn", ()): 45.00, ("nts_net", ()): 51.67, ("mpn_cov", ()): 50.00,
        ("dcl", ()): 53.75, ("maskcov", ()): 58.75, ("mask_guided", ("vein", "contour")): 62.08,
        ("mask_guided", ("vein",)): 58.33, ("mask_guided", ("contour",)): 60.60,
    },
    "soylocal200": {
        ("alexnet", ()): 19.50, ("vgg16", ()): 39.33, ("resnet50", ()): 38.83, ("inception_v3", ()): 23.00,
        ("mobilenet_v2", ()): 34.67, ("improved_bcnn", ()): 33.33, ("nts_net", ()): 42.67, ("mpn_cov", ()): 38.17,
        ("dcl", ()): 45.33, ("maskcov", ()): 46.17, ("mask_guided", ("vein", "contour")): 49.67,
        ("mask_guided", ("vein",)): 46.16, ("mask_guided", ("contour",)): 47.83,
    },
}  # fmt: skip


def paper_accuracy(paper: str | None, method: str, options: Mapping[str, object]) -> float | None:
    """The accuracy in [0, 1] of a method on the data set `paper` in the paper's tables; None where it has none."""
    regions = options.get("regions", PAPER_REGIONS) if method == "mask_guided" else ()
    key = (method, tuple(regions) if isinstance(regions, list | tuple) else ())
    accuracy = PAPER.get(paper or "", {}).get(key)
    return None if accuracy is None else accuracy / 100
