"""Initial weights that the same draws gave before in this process are copied: they take a tenth of the unit tests."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

FUNCTIONS = ("kaiming_uniform_", "kaiming_normal_", "normal_", "trunc_normal_")
SMALLEST, KEPT = 4_096, 80_000_000  # numbers: of a tensor, of all that are kept (320 MB)


class KnownDraws:
    """The results of functions of `torch.nn.init` by what decides them, torch's generator above all; the generator
    goes on as after the draw. The longest unused are forgotten.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()
        self._numbers = 0

    def copying(self, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`draw`, a function that fills its first argument in place."""

        @functools.wraps(draw)
        def fill(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
            plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_cpu and tensor.is_contiguous()
            if not plain or tensor.numel() < SMALLEST or kwargs.get("generator") is not None:
                return draw(tensor, *args, **kwargs)
            before = torch.get_rng_state().numpy().tobytes()
            key = (draw.__name__, tuple(tensor.shape), tensor.dtype, args, tuple(kwargs.items()), before)
            if key in self._kept:
                self._kept.move_to_end(key)
                values, after = self._kept[key]
                torch.set_rng_state(after)
                with torch.no_grad():
                    return tensor.copy_(values)
            draw(tensor, *args, **kwargs)
            self._keep(key, tensor.detach().clone())
            return tensor

        return fill

    def _keep(self, key: tuple[object, ...], values: Tensor) -> None:
        self._kept[key] = values, torch.get_rng_state()
        self._numbers += values.numel()
        while self._numbers > KEPT:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._numbers -= oldest.numel()


def copy_known_draws(patch: pytest.MonkeyPatch) -> None:
    known = KnownDraws()
    for name in FUNCTIONS:
        patch.setattr(nn.init, name, known.copying(getattr(nn.init, name)))
