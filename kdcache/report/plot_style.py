"""How PNG pictures look: colours, fonts, text that is cut to its room, and saving.

Everything is drawn on `Figure` objects of its own, so that no window and no other plot is touched.
Colours are Okabe and Ito's, darkened where they carry text, and never the only thing that tells two
things apart.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from kdcache.runtime import write_atomically

DPI = 150
INK, GREY, RULE = "#24292F", "#6A737D", "#E4E7EB"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#C25200", "#007F5C", "#9C5184"
FONT = "DejaVu Sans"  # comes with matplotlib, and has the marks ✓ and ✗
_LONGEST_TEXT = 200  # characters, more than any label has room for

# for matplotlib.rc_context; Any, because the key type in newer type stubs does not exist in 3.8
STYLE: Any = {
    "font.family": FONT,
    "font.size": 9,
    "text.color": INK,
    "text.usetex": False,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#B4BCC4",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "grid.linestyle": "-",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
}


@lru_cache(maxsize=4096)
def fit_text(text: str, inches: float, size: float, *, keep_end: bool = False) -> str:
    """The text on one line, cut where it is wider than `inches` at a font size of `size` points.

    An ellipsis stands for what was cut: the end, or with `keep_end` the beginning.
    """
    text = " ".join(text.split())[:_LONGEST_TEXT]
    font = FontProperties(family=FONT, size=size)

    def width(candidate: str) -> float:
        """In inches, with 3 % for hinting."""
        points, _, _ = text_to_path.get_text_width_height_descent(candidate, font, ismath=False)
        return 1.03 / 72 * points

    def part(length: int) -> str:
        return text[len(text) - length :] if keep_end else text[:length]

    def width_of_part(length: int) -> float:
        return width(part(length) + "…")

    if width(text) <= inches:
        return text
    fitting = part(bisect_right(range(1, len(text)), inches, key=width_of_part))
    return "…" + fitting.lstrip(" ,") if keep_end else fitting.rstrip(" ,") + "…"


def spans_decades(values: Iterable[float]) -> bool:
    """Whether a linear axis would flatten these values: the largest is far above the usual one.

    Without those that are not positive or not finite, for which a logarithmic axis has no place.
    """
    positive = [value for value in values if 0 < value < math.inf]
    return bool(positive and max(positive) > 10 * median(positive))


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure. Raises DataError where there is no room or no right to."""
    write_atomically(
        path,
        lambda file: figure.savefig(
            file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.12
        ),
    )
