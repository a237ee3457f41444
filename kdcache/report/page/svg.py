"""SVG as text: the marks that charts are made of, ticks for their axes, room for their labels."""

import html
import math
from collections.abc import Iterable, Sequence

WIDTH = 340  # units, which are CSS pixels on a phone
CHARACTER = 5.6  # mean width in units of a character of the charts' text


def escape(text: object) -> str:
    """Safe between tags and in quoted attributes, and always encodable."""
    return html.escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` numbers in [low, high], with a step of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        power * times for times in (1, 2, 5, 10, 20) if (high - low) / (power * times) <= most - 1
    )
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def shorten(text: str, units: float) -> str:
    """The text, or its beginning and an ellipsis where it is wider than `units`."""
    room = max(1, int(units / CHARACTER))
    return text if len(text) <= room else text[: room - 1].rstrip(" ,") + "…"


def document(height: float, description: str, parts: Iterable[str]) -> str:
    """The whole picture; what `description` says is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(description)}">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def text(x: float, y: float, text: object, kind: str = "", turn: float = 0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{turned}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rect(
    x: float, y: float, width: float, height: float, kind: str, opacity: float | None = None
) -> str:
    shade = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect {place} class="{kind}"{shade}/>'


def points(shape: str, places: Sequence[tuple[float, float]], kind: str) -> str:
    """A polyline or polygon."""
    return f'<{shape} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>'


def padded(values: Sequence[float], fraction: float = 0.08) -> tuple[float, float]:
    """A range with some room around the values."""
    low, high = min(values), max(values)
    room = fraction * (high - low) or 1.0
    return low - room, high + room


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart until they lie `gap` from each other, in their order.

    They stay in [low, high] if there is room.
    """
    placed = [float(position) for position in positions]
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for before, after in zip([None, *order], order, strict=False):
        placed[after] = max(placed[after], low if before is None else placed[before] + gap)
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
