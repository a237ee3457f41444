"""What the page's charts have in common: the looks of a group's marks, their text, their axes.

A trace whose `meta` is a group's number disappears when the page's filters leave that group out.
Background, text and grid get their colours in the browser (page.js), for light and dark; those of
the marks here can be told from both.
"""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from kdcache.report.comparison import Group, best_of, margin

_DISTINCT_GROUPS = 7  # more groups than this, and only labels only and the best have own colours
_MOST_TICKS = 25
_LONGEST_TICK = 16  # characters

BLUE, ORANGE, GREY, GREEN, RED, PALE = (
    "#2f86c9", "#d9772b", "#868c92", "#3a9b74", "#c9504a", "#a9b4bd"
)  # fmt: skip
_OTHERS = (GREEN, "#9c6bc4", "#b58a12", "#c2557f", "#4f8f9f", RED)
CELLS = {
    "colorscale": [[0, "rgba(47,134,201,0)"], [1, "rgba(47,134,201,1)"]],  # 0: the paper's colour
    "showscale": False,
    "xgap": 1,
    "ygap": 1,
}


@dataclass(frozen=True)
class Chart:
    """A chart: title and caption as plain text; `wide` takes the page's whole width."""

    title: str
    caption: str
    figure: go.Figure
    wide: bool = False


def chart(
    title: str,
    caption: str,
    traces: Sequence[Any],
    height: int,
    *,
    x: dict[str, Any],
    y: dict[str, Any],
    wide: bool = False,
    **layout: Any,
) -> Chart:
    """A chart of Plotly's traces and axes, with no look of its own."""
    layout |= {"height": height, "template": {}, "xaxis": x, "yaxis": y}
    return Chart(title, caption, go.Figure(list(traces), layout), wide)


@dataclass(frozen=True)
class Look:
    """How a group is drawn: `name` is escaped, `named` says whether a legend lists it."""

    number: int
    name: str
    colour: str
    named: bool

    @property
    def trace(self) -> dict[str, Any]:
        """What all traces of the group have in common."""
        shared = {"meta": self.number, "name": self.name, "legendgroup": str(self.number)}
        return shared | {"opacity": 1 if self.named else 0.45}

    def points(self, x: Any, y: Any, hover: str, *, symbol: str = "circle", **more: Any) -> Any:
        """Marks; `hover` is a template of Plotly's."""
        marker = {"color": self.colour, "size": 9, "symbol": symbol}
        shared = self.trace | {"showlegend": False, "marker": marker} | more
        return go.Scatter(
            x=x, y=y, mode="markers", hovertemplate=f"{hover}<extra></extra>", **shared
        )


def looks(groups: Sequence[Group]) -> list[Look]:
    """Labels only is orange and the best distilled group blue.

    The others have a colour each, or where there are many are all grey and without a name.
    """
    best, few = (best_of(groups, False), best_of(groups, True)), len(groups) <= _DISTINCT_GROUPS
    others, found = iter(_OTHERS), []
    for number, group in enumerate(groups):
        colour = next(others) if few and group not in best else GREY
        if group in best:
            colour = BLUE if group.distilled else ORANGE
        found.append(Look(number, escape(group.short_label), colour, few or group in best))
    return found


def noise(accuracy: float, images: int | None) -> dict[str, Any]:
    """The error bar, in percent, that the number of test images leaves."""
    return {"type": "constant", "value": 100 * margin(accuracy, images)} if images else {}


def escape(text: object) -> str:
    """Text as Plotly shows it unchanged: it reads tags and entities in what it is given."""
    return html.escape(" ".join(str(text).split()), quote=False)


def wrapped(text: str, width: int = 20) -> str:
    """Escaped, and on several lines."""
    return "<br>".join(map(escape, textwrap.wrap(text, width)))


def named_axis(names: Sequence[str], title: str, **more: Any) -> dict[str, Any]:
    """An axis on which place i is names[i]; every n-th of many is shown."""
    places = list(range(0, len(names), -(-len(names) // _MOST_TICKS)))
    texts = [names[at] for at in places]
    texts = [t if len(t) <= _LONGEST_TICK else f"{t[: _LONGEST_TICK - 1]}…" for t in texts]
    shown = {"tickvals": places, "ticktext": list(map(escape, texts)), "title": title}
    return shown | {"range": [-0.5, len(names) - 0.5], "showgrid": False} | more
