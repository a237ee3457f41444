"""Charts as SVG text for a web page: small enough for a phone, readable aloud.

Every chart is `WIDTH` units wide, which is a phone's width in CSS pixels, so that its text has its
nominal size there. Marks carry classes, which the page's style sheet colours: `baseline` is
labels only, `best` the best distilled group, and `other` the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.report.page.svg import (
    CHARACTER,
    WIDTH,
    circle,
    document,
    line,
    padded,
    points,
    rect,
    shorten,
    spread,
    text,
    ticks,
)

_CELL_TEXTS = 20  # more columns than this, and cells have no room for a number


@dataclass(frozen=True)
class Line:
    """A curve with a band: y in percent by x; `low` and `high` may equal `y`."""

    name: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    labelled: bool = True


def dots(
    rows: Sequence[tuple[str, str, Sequence[float]]], lines: Sequence[tuple[str, float]]
) -> str:
    """A row a group: its seeds as dots, their mean as a tick, and the mean as a number.

    Args:
        rows: label, kind and values in percent, at least one each.
        lines: name and percent of what runs down through all rows.
    """
    left, right, step, top = 132.0, 296.0, 22.0, 14.0 + 13 * len(lines)
    low, high = padded(
        [value for _, _, values in rows for value in values] + [value for _, value in lines]
    )
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = []
    for tick in ticks(low, high, 5):
        parts += [
            line(x(tick), top, x(tick), bottom, "grid"),
            text(x(tick), bottom + 14, f"{tick:g}", "tick middle"),
        ]
    for number, (name, value) in enumerate(lines):
        height = top - 5 - 13 * number
        anchor = "end" if x(value) > (left + right) / 2 else ""
        parts += [
            line(x(value), height + 2, x(value), bottom, "rule"),
            text(x(value), height - 1, name, f"note {anchor}"),
        ]
    for number, (label, kind, values) in enumerate(rows):
        y, centre = top + step * (number + 0.5), sum(values) / len(values)
        parts.append(text(0, y + 4, shorten(label, left - 4), f"label {kind}"))
        parts.append(line(x(min(values)), y, x(max(values)), y, f"range {kind}"))
        parts += [circle(x(value), y, 3, f"dot {kind}") for value in values]
        parts += [
            line(x(centre), y - 7, x(centre), y + 7, f"mean {kind}"),
            text(WIDTH, y + 4, f"{centre:.2f}", f"end {kind}"),
        ]
    spoken = "; ".join(f"{label} {sum(values) / len(values):.2f} %" for label, _, values in rows)
    return document(bottom + 20, f"Test accuracy by group: {spoken}", parts)


def curves(series: Sequence[Line], description: str, x_name: str) -> str:
    """Lines; the labelled ones with their bands, and names at the right end."""
    left, right, top, bottom = 28.0, 218.0, 12.0, 196.0
    low, high = padded([value for one in series for value in (*one.low, *one.high)], 0.03)
    first, last = min(min(one.x) for one in series), max(max(one.x) for one in series)

    def x(value: float) -> float:
        return left + (right - left) * ((value - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    parts = []
    for tick in ticks(low, high, 6):
        parts += [
            line(left, y(tick), right, y(tick), "grid"),
            text(left - 5, y(tick) + 4, f"{tick:g}", "tick end"),
        ]
    for tick in ticks(first, last, 6):
        if tick == int(tick):
            parts.append(text(x(tick), bottom + 15, f"{tick:g}", "tick middle"))
    parts.append(text(right + 8, bottom + 15, x_name, "tick"))
    for one in sorted(series, key=lambda one: ("other", "baseline", "best").index(one.kind)):
        where = [x(at) for at in one.x]
        if one.labelled and list(one.low) != list(one.high):
            upper = list(zip(where, map(y, one.high), strict=True))
            lower = list(zip(where, map(y, one.low), strict=True))
            parts.append(points("polygon", upper + lower[::-1], f"band {one.kind}"))
        parts.append(
            points("polyline", list(zip(where, map(y, one.y), strict=True)), f"curve {one.kind}")
        )
        if len(one.x) == 1:
            parts.append(circle(where[0], y(one.y[0]), 3, f"dot {one.kind}"))
    named = [one for one in series if one.labelled]
    heights = spread([y(one.y[-1]) for one in named], 13, top, bottom)
    for one, height in zip(named, heights, strict=True):
        name = shorten(one.name, WIDTH - right - 36)
        parts += [
            text(right + 6, height + 4, f"{one.y[-1]:.1f}", one.kind),
            text(right + 34, height + 4, name, one.kind),
        ]
    return document(bottom + 22, description, parts)


def matrix(
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    axes: tuple[str, str],
    description: str,
) -> str:
    """Shaded cells.

    Args:
        values: float `(R, C)` in 0..1, the shade; NaN is left blank.
        texts: what the cells say, where they have room.
        rows, columns: the names of both; every n-th of many is shown.
        axes: what rows and columns are.
    """
    longest = max((len(name) for name in rows), default=0)
    left = min(94.0, 22 + CHARACTER * min(longest, 13))
    cell = min((WIDTH - left - 2) / len(columns), 46.0)
    height = min(cell, 30.0) if len(columns) <= 6 else cell
    top = 16.0
    bottom = top + height * len(rows)
    every = -(-len(columns) // _CELL_TEXTS)
    parts = [text(left, 10, f"{axes[0]} ↓  {axes[1]} →", "note")]
    for row, name in enumerate(rows):
        if row % every == 0:
            parts.append(
                text(left - 5, top + height * (row + 0.5) + 4, shorten(name, left - 8), "tick end")
            )
    slanted = max((len(name) for name in columns), default=0) * CHARACTER > cell - 2
    for column, name in enumerate(columns):
        if column % every == 0:
            x, y = left + cell * (column + 0.5), bottom + (10 if slanted else 14)
            parts.append(
                text(
                    x + 3 * slanted,
                    y,
                    shorten(name, 72),
                    f"tick {'end' if slanted else 'middle'}",
                    -50 * slanted,
                )
            )
    for row, column in np.argwhere(
        ~np.isnan(values) & ((values > 0) | (len(columns) <= _CELL_TEXTS))
    ):
        x, y, shade = left + cell * column, top + height * row, float(values[row, column])
        parts.append(rect(x + 0.5, y + 0.5, cell - 1, height - 1, "cell", max(0.05, shade)))
        if len(columns) <= _CELL_TEXTS and (said := texts[row][column]):
            depth = "light" if shade < 0.56 else "middling" if shade < 0.66 else "deep"
            small = " small" if cell < 30 else ""
            parts.append(text(x + cell / 2, y + height / 2 + 3.5, said, f"middle {depth}{small}"))
    reach = (
        min(max((len(name) for name in columns), default=0), 13) * CHARACTER * 0.8 + 14
        if slanted
        else 20
    )
    return document(bottom + reach, description, parts)


def diagram(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, kind: str, description: str
) -> str:
    """A reliability diagram: accuracy over confidence in bins of equal width.

    Beneath it, the fraction of the images that is in each bin.
    """
    left, top, side, strip = 34.0, 22.0, 250.0, 44.0
    bottom, bins = top + side, len(counts)
    parts = []
    for tick in (0, 25, 50, 75, 100):
        at = side * tick / 100
        parts.append(line(left, bottom - at, left + side, bottom - at, "grid"))
        parts.append(text(left - 5, bottom - at + 4, tick, "tick end"))
        parts.append(text(left + at, bottom + strip + 24, tick, "tick middle"))
    for number in np.flatnonzero(counts):
        x, width = left + side * number / bins, side / bins
        parts.append(
            rect(
                x + 0.5,
                bottom - side * accuracy[number],
                width - 1,
                side * accuracy[number],
                f"bar {kind}",
            )
        )
        fraction = strip * counts[number] / counts.max()
        parts.append(rect(x + 0.5, bottom + strip + 8 - fraction, width - 1, fraction, "faint"))
        at = left + side * confidence[number]
        parts.append(
            line(
                at, bottom - side * confidence[number], at, bottom - side * accuracy[number], "gap"
            )
        )
    parts.append(line(left, bottom, left + side, top, "rule"))
    parts += [
        text(left + side / 2, bottom + strip + 40, "confidence %", "note middle"),
        text(left, top - 8, "accuracy %", "note"),
    ]
    parts.append(text(left + side + 6, bottom + strip + 8, "images", "tick"))
    return document(bottom + strip + 46, description, parts)


def stacked(
    bars: Sequence[tuple[str, str, Sequence[tuple[str, float]]]],
    kinds: Sequence[str],
    description: str,
) -> str:
    """Bars with a name, a note and named fractions that sum to 1.

    Each part says its percentage where it has room.
    """
    parts = []
    for number, (name, note, fractions) in enumerate(bars):
        x, y = 0.0, 18.0 + 54 * number
        parts.append(text(0, y - 6, shorten(name, WIDTH - CHARACTER * len(note) - 8), "label"))
        parts.append(text(WIDTH, y - 6, note, "note end"))
        for (_, fraction), kind in zip(fractions, kinds, strict=True):
            parts.append(rect(x, y, WIDTH * fraction - 1, 24, kind))
            if WIDTH * fraction > 24:
                parts.append(text(x + 5, y + 16, f"{100 * fraction:.0f}", f"on-{kind}"))
            x += WIDTH * fraction
    return document(18 + 54 * len(bars) - 20, description, parts)


def scatter(
    marks: Sequence[tuple[str, str, float, float]], x_name: str, name_all: bool, description: str
) -> str:
    """Points (name, kind, x > 0 on a logarithmic scale, y in percent); all or some are named."""
    left, right, top, bottom = 28.0, 230.0, 12.0, 190.0
    low, high = padded([mark[3] for mark in marks])
    first, last = padded([math.log10(mark[2]) for mark in marks], 0.1)
    if last - first < 0.8:  # of a decade, so that some round numbers are in it
        first, last = (first + last) / 2 - 0.4, (first + last) / 2 + 0.4
    at = [left + (right - left) * (math.log10(x) - first) / (last - first) for _, _, x, _ in marks]
    heights = [bottom - (bottom - top) * (y - low) / (high - low) for *_, y in marks]
    parts = []
    for tick in ticks(low, high, 6):
        y = bottom - (bottom - top) * (tick - low) / (high - low)
        parts += [line(left, y, right, y, "grid"), text(left - 5, y + 4, f"{tick:g}", "tick end")]
    for power in range(math.floor(first), math.ceil(last)):
        for times in (1, 2, 5):
            if first <= (place := power + math.log10(times)) <= last:
                value = times * 10.0**power
                x = left + (right - left) * (place - first) / (last - first)
                shown = (
                    f"{value / 1e6:g} M"
                    if value >= 1e6
                    else f"{value / 1e3:g} k"
                    if value >= 1e4
                    else f"{value:g}"
                )
                parts += [
                    line(x, bottom, x, bottom + 4, "rule"),
                    text(x, bottom + 16, shown, "tick middle"),
                ]
    parts.append(text(right + 8, bottom + 16, x_name, "tick"))
    parts += [
        circle(x, y, 4, f"dot {kind}")
        for (_, kind, *_), x, y in zip(marks, at, heights, strict=True)
    ]
    named = [number for number, (_, kind, *_) in enumerate(marks) if name_all or kind != "other"]
    for number, y in zip(
        named, spread([heights[number] for number in named], 12, top, bottom), strict=True
    ):
        name, kind, x = marks[number][0], marks[number][1], at[number] + 8
        parts.append(text(x, y + 4, shorten(name, WIDTH - x), kind))
    return document(bottom + 22, description, parts)
