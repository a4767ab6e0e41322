"""Rows as aligned text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A heading above the values of a key, numbers in a unit if `digits` are given."""

    heading: str
    key: str
    digits: int | None = None  # after the decimal point
    unit: float = 1.0

    def cell(self, row: Mapping[str, Any]) -> str:
        """Format the value of a row, '-' if it is None."""
        value = row[self.key]
        if value is None:
            return "-"
        return str(value) if self.digits is None else f"{value / self.unit:,.{self.digits}f}"


def format_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows below their headings, aligned to the right."""
    cells = [[column.heading for column in columns]]
    cells += [[column.cell(row) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)
    return "\n".join(lines)
