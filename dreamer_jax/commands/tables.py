"""Rows as aligned text for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A heading and the text of a cell below it."""

    heading: str
    cell: Callable[[Mapping[str, Any]], str]


def format_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows below their headings, aligned to the right."""
    cells = [[column.heading for column in columns]]
    cells += [[column.cell(row) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)
    return "\n".join(lines)
