"""The bench's table and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kdcache.bench.timing import RATIO, Measurement, in_words
from kdcache.report import BLUE, DPI, GREY, INK, ORANGE
from kdcache.runtime import write_atomically

_WIDTHS = {"what": 43, "median": 7, "min..max": 16, "unit": 8, "target": 16, "holds": 5}


def table_line(row: Mapping[str, str | None]) -> str:
    """A row of the table as text, or for its columns' names the head; each can be printed alone."""
    cells = [(row[name] or "-").ljust(width) for name, width in _WIDTHS.items()]
    return "  ".join(cells).rstrip()


def table_head() -> str:
    """The columns' names above a rule."""
    rule = {name: "-" * width for name, width in _WIDTHS.items()}
    return f"{table_line(dict(zip(_WIDTHS, _WIDTHS, strict=True)))}\n{table_line(rule)}"


def table_rows(measurements: Sequence[Measurement]) -> list[dict[str, str | None]]:
    """The rows for `table_line`."""
    rows = []
    for one in measurements:
        row = {"what": one.name, "median": "failed", "min..max": None, "unit": one.unit or None}
        row |= {"target": one.target and str(one.target), "holds": None}
        if one.values:
            row["median"] = in_words(one.median)
            row["min..max"] = f"{in_words(min(one.values))}..{in_words(max(one.values))}"
            row["holds"] = one.target and ("yes" if one.target.holds(one.median) else "no")
        rows.append(row)
    return rows


def remarks(measurements: Sequence[Measurement]) -> list[str]:
    """A line for each that failed or has a note; measurements with the same one share it."""
    lines: dict[str, list[str]] = {}
    for one in measurements:
        text = one.note if one.fault is None else f"failed: {one.fault}"
        if text:
            lines.setdefault(text, []).append(one.name)
    return [f"{'; '.join(names)}: {text}" for text, names in lines.items()]


def ratio_chart(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw the ratios that have a target: a bar for the median, a thin line from min to max.

    Raises DataError where `path` cannot be written.
    """
    ratios = [one for one in measurements if one.unit == RATIO and one.values]
    shown = [(one, one.target) for one in ratios if one.target is not None]
    figure = Figure(figsize=(8.5, 1.2 + 0.5 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    right = 1.4 * max([1.0, *(max(one.values) for one, _ in shown)])
    for row, (one, target) in enumerate(shown):
        color, verdict = (BLUE, "holds") if target.holds(one.median) else (GREY, "missed")
        band = min(target.high, right) - target.low
        axes.barh(row, band, left=target.low, height=0.76, color=ORANGE, alpha=0.25)
        axes.barh(row, one.median, height=0.4, color=color)
        axes.plot([min(one.values), max(one.values)], [row, row], color=INK, linewidth=1.2)
        words = f"  {in_words(one.median)} ({target}: {verdict})"
        axes.text(max(one.values), row, words, va="center", color=INK)
    axes.set(xlim=(0, right), xlabel="ratio; orange: where the target allows the median to be")
    axes.set_yticks(range(len(shown)), [one.name for one, _ in shown])
    axes.invert_yaxis()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))
