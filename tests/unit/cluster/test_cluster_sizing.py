"""The figures of cluster/README.md, computed again from the functions that they come from."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.unit.cluster.manifests import GROUPS, RAY_CLUSTER, README, asked, containers, number
from ufgvc.data.cache import decoded_size
from ufgvc.data.dataset import INDEX_COLUMNS, SCHEMAS
from ufgvc.data.ingest import IngestSettings
from ufgvc.data.stream import ROWS_PER_CHUNK, StreamedSource
from ufgvc.methods import build
from ufgvc.training.loader import choose_cache
from ufgvc.training.settings import TrainSettings

SIZES = (10_000, 1_000_000, 100_000_000)
SIDE = 512
LEAF = decoded_size(1, SIDE, with_masks=True)
# Measured: shared/reference/speed.md, "Data", section 3 (Ray JPEG D1, Ray row PIL) and section 4 (I).
JPEG, DECODED_A_SECOND, TRAINED_A_SECOND = 199_000, (56, 22), 0.68
INDEX, LISTED = 200, 381  # bytes a leaf: the design's bound; measured with tracemalloc


def row(name: str) -> list[str]:
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def digits(figure: str) -> float:
    """Half of the last digit that is printed: what rounding may have changed."""
    decimals = figure.partition(".")[2]
    return 0.5 * 10.0 ** -len(decimals)


ROWS = {
    "photographs in the bucket": lambda n: [n * JPEG / 1e9],
    "part files": lambda n: [math.ceil(n * JPEG / (IngestSettings().shard_mb << 20))],
    "index in each worker": lambda n: [n * INDEX / 1e9],
    "list of photographs": lambda n: [n * LISTED / 1e9],
    "decoded set": lambda n: [n * LEAF / 1e9],
    "stays on the GPU": lambda n: [3 * n * LEAF / 1e9],
    "else on disk": lambda n: [2 * n * LEAF / 1e9],
    "decoding once": lambda n: [n / rate / 3600 for rate in DECODED_A_SECOND],
    "one pass at 1 image/s": lambda n: [n / 3600],
    "one pass on CPUs": lambda n: [n / TRAINED_A_SECOND / 3600],
}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_is_what_the_formulas_give(name: str) -> None:
    for size, cell in zip(SIZES, row(name), strict=True):
        if cell == "no":  # more than any machine has
            assert ROWS[name](size)[0] > 100_000
            continue
        figures = re.findall(r"[\d,.]*\d", cell)
        assert len(figures) == len(ROWS[name](size))
        for figure, right in zip(figures, ROWS[name](size), strict=True):
            assert abs(float(figure.replace(",", "")) - right) <= digits(figure) * 1.001, (size, cell, right)


def test_every_row_of_the_table_is_checked() -> None:
    table = README[README.index("| | 10 thousand") :].split("\n\n")[0].splitlines()[2:]
    assert [name for line in table for name in ROWS if line.startswith(f"| {name}")] == list(ROWS)
    assert len(table) == len(ROWS)


def test_the_formula_of_the_decoded_set_is_the_programs() -> None:
    assert build("mask_guided", num_classes=2, init="none").recipe.resize == SIDE
    assert LEAF == SIDE * (3 * SIDE + 2 * math.ceil(SIDE / 8)) == 851_968
    assert f"leaves x {LEAF:,} bytes" in README


def test_a_leafs_place_in_the_index_is_within_the_bound() -> None:
    rows = 10_000
    values = {
        "image_id": [f"cultivar-{i % 1000:04d}_{i:09d}_train" for i in range(rows)],
        "cultivar": [f"cultivar-{i % 1000:04d}" for i in range(rows)],
        "split": ["train"] * rows,
        "group": [None] * rows,
        "sha256": ["0" * 64] * rows,
    }
    columns = [pa.array(values.get(name, [1] * rows), SCHEMAS["images"].field(name).type) for name in INDEX_COLUMNS]
    table = pa.table(columns, names=INDEX_COLUMNS).append_column("shard", pa.array(["train-00000"] * rows))
    table = table.append_column("row", pa.array(range(rows), pa.int32()))
    each = table.nbytes / rows
    assert f"({each:.0f} in Arrow" in README
    assert each + 4 * 8 < INDEX  # labels, positions, keys and the epoch's order, 8 bytes each


def test_the_rules_of_the_cache_are_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    need = decoded_size(SIZES[0], SIDE, with_masks=True)

    def choice(device: torch.device, memory: float, disk: float) -> str:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (memory, memory))
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": disk}))
        return choose_cache("auto", SIZES[0], SIDE, True, device, tmp_path)

    assert choice(gpu, 3.01 * need, 0) == "device"
    assert choice(gpu, 2.99 * need, 2.01 * need) == "host"
    assert choice(cpu, 0, 1.99 * need) == "none"


def test_checkpoints() -> None:
    method = build("mask_guided", num_classes=80, init="none")
    weights = sum(tensor.nbytes for tensor in method.net.state_dict().values())
    momentum = sum(tensor.nbytes for tensor in method.net.parameters())
    whole = weights + momentum
    kept, seconds = TrainSettings().keep_checkpoints + 1, TrainSettings().checkpoint_seconds
    assert (
        f"weights {weights / 1e6:.1f} MB, momentum {momentum / 1e6:.1f} MB, {whole / 1e6:.0f} MB a checkpoint" in README
    )
    assert kept == 3
    assert f"up to three kept, {kept * whole / 1e6:.0f} MB" in README
    assert f"{whole / 1e6 / seconds:.1f} MB/s" in README
    assert f"on top: {(whole + weights) / 1e6:.0f} MB" in README


def test_the_object_store_holds_what_is_decoded_at_once() -> None:
    block = decoded_size(ROWS_PER_CHUNK, SIDE, with_masks=True)
    cpus = asked(containers()["cpu"], "cpu")
    at_once = cpus * 2 * 2 * block
    assert f"{cpus:.0f} x 2 x 2 x {block / 1e6:.1f} MB = {at_once / 1e9:.1f} GB" in README
    assert f"{2 * at_once / 1e9:.1f} GB or more" in README
    for group in GROUPS.values():
        store = int(group["rayStartParams"]["object-store-memory"])
        assert f"The manifests give {store / 1e9:.1f} GB" in README
        memory = number(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        assert 2 * at_once < store < memory / 2  # shared memory counts as the pod's
    assert f"{decoded_size(StreamedSource.buffer, SIDE, with_masks=True) / 1e9:.2f} GB" in README


def test_the_standing_cost_is_what_the_manifests_ask_for() -> None:
    autoscaler = RAY_CLUSTER["autoscalerOptions"]["resources"]["requests"]
    found = containers()
    always = [found[name] for name in ("head", "ufgvc-mlflow", "ufgvc-postgres")] + [found["cpu"]] * GROUPS["cpu"][
        "minReplicas"
    ]
    cpus = sum(asked(container, "cpu") for container in always) + number(autoscaler["cpu"])
    memory = sum(asked(container, "memory") for container in always) + number(autoscaler["memory"])
    assert f"{cpus:g} CPUs and {memory / 2**30:g} GiB" in README
    gpu = found["gpu"]
    claim = GROUPS["gpu"]["template"]["spec"]["volumes"][0]["ephemeral"]["volumeClaimTemplate"]["spec"]
    disk = number(claim["resources"]["requests"]["storage"]) / 2**30
    one = f"{asked(gpu, 'cpu'):g} CPUs, {asked(gpu, 'memory') / 2**30:g} GiB, {asked(gpu, 'nvidia.com/gpu'):g} GPU"
    machine = f"{one}, {disk:g} GiB of disk"
    assert machine in README
    assert f"{GROUPS['gpu']['idleTimeoutSeconds'] / 60:g} minutes after it" in README
