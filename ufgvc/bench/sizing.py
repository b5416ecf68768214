"""What this machine would need for more leaves than it was measured with: rates times rows, and which part is the slowest."""

from __future__ import annotations

from dataclasses import dataclass

from ufgvc.data.cache import decoded_size

SIZES = {"10 thousand": 10_000, "1 million": 1_000_000, "100 million": 100_000_000}
RESIZE = 512  # pixels of the decoded set, with both masks


@dataclass(frozen=True)
class Rates:
    """photographs or images a second of the whole machine; None: not measured in this run.

    photograph_bytes: mean of a file.  decode: through Ray Data on all cores.  train: a step of the last method timed; case: its name.
    predict: with its start taken off where it was measured.  device_memory: bytes free on the training device if it is a GPU.
    disk: bytes free where runs are kept.
    """

    photograph_bytes: float
    decode: float | None
    train: float | None
    case: str
    predict: float | None
    device_memory: int | None
    disk: int


def cache_place(rows: int, rates: Rates) -> str:
    """Where `--train.cache auto` would keep the decoded set of so many leaves (data/loader.py: choose_cache)."""
    need = decoded_size(rows, RESIZE, with_masks=True)
    if rates.device_memory is not None and need < rates.device_memory / 3:
        return "on the GPU"
    return "on disk" if need < rates.disk / 2 else "streamed"


def size_rows(rates: Rates) -> list[list[str | None]]:
    """One row a quantity: its name, and a cell for each of SIZES."""
    rows: list[list[str | None]] = [
        ["photographs"],
        ["decoded set, 512 px with masks"],
        ["kept"],
        ["decoding once"],
        ["an epoch"],
    ]
    rows += [["held back by"], ["predict once"]]
    for count in SIZES.values():
        place = cache_place(count, rates)
        cells: list[str | None] = [
            size_text(count * rates.photograph_bytes),
            size_text(decoded_size(count, RESIZE, with_masks=True)),
            place,
            time_text(count / rates.decode) if rates.decode else None,
            *epoch_cells(count, place, rates),
            time_text(count / rates.predict) if rates.predict else None,
        ]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return rows


def epoch_cells(count: int, place: str, rates: Rates) -> tuple[str | None, str | None]:
    """(time of an epoch, what holds it back): the step, or decoding where the set is streamed anew every epoch."""
    if not rates.train:
        return None, None
    if place == "streamed":
        if not rates.decode:
            return None, None
        slowest = min(rates.train, rates.decode)
        return time_text(count / slowest), "the step" if slowest == rates.train else "decoding"
    return time_text(count / rates.train), "the step"


def size_text(size: float) -> str:
    """1.9e9 -> "1.9 GB"."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e6:.3g} MB"


def time_text(seconds: float) -> str:
    """93 -> "1.6 min"."""
    for unit, length in (("days", 86400 * 2), ("h", 3600 * 2), ("min", 90)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.2g} s"
