"""The key of settings and of many rows, which names folders that exist: it must not change."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from ufgvc.core.config import BATCH, Settings, short_key


class Inner(Settings):
    rate: float = Field(0.1, gt=0)


class Outer(Settings):
    inner: Inner = Inner()
    name: str = "x"


class Text(str):
    pass


class Number(enum.IntEnum):
    ONE = 1


def key_of_values(value: Any) -> str:
    """`short_key` by its definition: each value by itself."""

    def encode(value: Any) -> str:
        if isinstance(value, list | Iterator):
            return "[" + ",".join(encode(each) for each in value) + "]"
        value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)

    return hashlib.sha256(encode(value).encode()).hexdigest()[:12]


ODD_NAMES = [
    *(
        "",
        "a",
        '"',
        "\\",
        "]",
        "[,]",
        " , ",
        "caf\xe9.jpg",
        "cafe\u0301.jpg",
        "\u2028",
        "\ud83c\udf42",
        "\U0001f342",
        "\udce9",
    ),
    *("\0", "\n\r\t", "\x7f", "/", "a/../b", "%2F", "null", "1e5", "\u8449/\u8449.jpg", "x" * 300),
]
ODD_VALUES = [0, -1, 2**70, True, False, None, 0.1, -0.0, 1e300, float("nan"), float("-inf"), Number.ONE, Path("a/b")]


@pytest.mark.parametrize("count", [0, 1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
@pytest.mark.parametrize(
    "row",
    [
        lambda k: ODD_NAMES[k % len(ODD_NAMES)],
        lambda k: [f"{ODD_NAMES[k % len(ODD_NAMES)]}{k}", k, ODD_VALUES[k % len(ODD_VALUES)]],
        lambda k: ODD_VALUES[k % len(ODD_VALUES)],
        lambda k: (ODD_NAMES[k % len(ODD_NAMES)], [k, Outer()], {"b": [k], "a": (k,)}),
        lambda k: [[], [[k]], [Outer(name=str(k))], {"z": Outer(), "a": k}],
        lambda k: Outer(name=str(k)) if k % 7 == 0 else [k],
        lambda k: iter([k, "x", iter([])]) if k % 5 == 0 else [k, Text("t")],
    ],
)
def test_the_key_of_many_values_is_that_of_each(count: int, row: Callable[[int], Any]) -> None:
    wanted = key_of_values([row(k) for k in range(count)])
    assert short_key([row(k) for k in range(count)]) == wanted
    assert short_key(row(k) for k in range(count)) == wanted
    nested = [None, (row(k) for k in range(count)), [[row(k) for k in range(count)]]]
    assert short_key(nested) == key_of_values(
        [None, *[[row(k) for k in range(count)]], [[row(k) for k in range(count)]]]
    )


def test_keys_that_were_given_stay() -> None:
    rows = [[f"caf\xe9 {k}/leaf \U0001f342.jpg", k, None] for k in range(3000)]
    assert short_key(rows) == short_key(iter(rows)) == "8e0a53e857e0"
    assert short_key({"a": Outer(), "b": [1, {"c": (2.5, None)}]}) == "64bcce4b5752"
