"""Tables as plain text and as CSV; how accuracies, their differences and p values are written."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Plain text for a terminal: a header, a rule and a line a row.

    Args:
        rows: text is kept as it is, also where it is a number; None and what is missing become "-".
        columns: keys to show, in order; by default all, in the order of their first appearance. A
            column is aligned to the right if all it holds are numbers.
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
    if not isinstance(value, str):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        float(value.replace(",", "").rstrip(" %"))
    except ValueError:
        return False
    return True


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows with full precision; lists are joined by '; ', what is missing is empty."""
    # the last row has the most columns: the teachers come first, of whom less is known
    columns = list(dict.fromkeys(key for row in reversed(rows) for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {}
        for key, value in row.items():
            cells[key] = "; ".join(map(str, value)) if isinstance(value, list) else value
        writer.writerow(cells)
    return file.getvalue().rstrip("\n")


def percent(accuracy: float | None, deviation: float | None = None) -> str | None:
    """'80.43 ± 0.93', in percent; without the second part where there is no deviation."""
    if accuracy is None:
        return None
    spread = f" ± {100 * deviation:.2f}" if deviation is not None else ""
    return f"{100 * accuracy:.2f}{spread}"


def cell_percent(value: float) -> str:
    """A percentage in a cell of a confusion matrix: nothing for 0 and NaN, '<1' below 1."""
    if not value > 0:
        return ""
    return "<1" if value < 1 else f"{value:.0f}"


def points(difference: float | None) -> str | None:
    """'+5.25' percentage points."""
    return None if difference is None else f"{100 * difference:+.2f}"


def p_text(p: float | None) -> str | None:
    """With two to four decimals, the more the smaller it is."""
    if p is None:
        return None
    if p < 0.0001:
        return "< 0.0001"
    decimals = 4 if p < 0.001 else 3 if p < 0.1 else 2
    return f"{p:.{decimals}f}"
