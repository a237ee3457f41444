"""TODO report.tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Plain text for a terminal: a header, a rule and a line a row.

    Args:
        rows: text is kept as it is, also where it is a number; None and what is missing become "-".
        columns: keys to show, in order; by default all, in the order of their first appearance. A column is aligned
            to the right if all it holds are numbers.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    table = []
    for column in columns:
        values = [row.get(column) for row in rows]
        cells = [column, *map(_cell, values)]
        width = max(map(len, cells))
        numbers = all(_is_number(value) for value in values if value is not None)
        lines = [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]
        table.append([lines[0], "-" * width, *lines[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*table, strict=True))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _is_number(value: object) -> bool:
    try:
        float(value.replace(",", "").rstrip(" %") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows with full precision; lists are joined by '; ', what is missing is empty."""
    columns = list(dict.fromkeys(key for row in reversed(rows) for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: "; ".join(map(str, value)) if isinstance(value, list) else value
                for key, value in row.items()
            }
        )
    return file.getvalue().rstrip("\n")
