"""A UserError in a task of Ray Data travels as a table: raised there, Ray tells that the task failed and prints its traceback, but
not by what.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa

from ufgvc.core.errors import UserError

_COLUMN = "mistake"


def table_or_error(make: Callable[[], pa.Table]) -> pa.Table:
    """What `make` gives, or a table that holds the UserError it raised."""
    try:
        return make()
    except UserError as error:
        return pa.table({_COLUMN: [json.dumps([error.what, error.where, error.fix])]})


def raise_errors(table: pa.Table) -> pa.Table:
    """The same table; raises the UserError that it holds, if it does."""
    for entry in table[_COLUMN].drop_null().to_pylist() if _COLUMN in table.column_names else ():
        what, where, fix = json.loads(entry)
        raise UserError(what, where=where, fix=fix)
    return table
