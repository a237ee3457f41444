"""What the page's charts have in common: sections, the looks of a group's marks, and its text.

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

from kdcache.report.comparison import Group, best_of

_DISTINCT_GROUPS = 7  # more groups than this, and only labels only and the best have own colours
_MOST_TICKS = 25
_LONGEST_TICK = 16  # characters

BLUE, ORANGE, GREY = "#2f86c9", "#d9772b", "#868c92"
GREEN, RED, PALE = "#3a9b74", "#c9504a", "#a9b4bd"
_OTHERS = (GREEN, "#9c6bc4", "#b58a12", "#c2557f", "#4f8f9f", RED)
SHADES = [[0, "rgba(47,134,201,0)"], [1, "rgba(47,134,201,1)"]]  # the paper's colour is 0


@dataclass(frozen=True)
class Chart:
    """A chart: title and caption as plain text; `wide` takes the page's whole width."""

    title: str
    caption: str
    figure: go.Figure
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page: title and remark as plain text, charts, and a template's `content`."""

    title: str
    remark: str
    charts: Sequence[Chart] = ()
    template: str | None = None
    content: Any = None

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class Look:
    """How a group is drawn: `name` is escaped, `named` says whether a legend lists it."""

    number: int
    name: str
    colour: str
    named: bool

    def trace(self) -> dict[str, Any]:
        """What all scatter traces of the group have in common."""
        shared = {"meta": self.number, "name": self.name, "legendgroup": str(self.number)}
        return shared | {"opacity": 1 if self.named else 0.45}

    def line(self, dash: str = "solid") -> dict[str, Any]:
        return {"color": self.colour, "dash": dash, "width": 2 if self.named else 1}


def looks(groups: Sequence[Group]) -> list[Look]:
    """Labels only is orange and the best distilled group blue.

    The others have a colour each, or where there are many are all grey and without a name.
    """
    best, few = (best_of(groups, False), best_of(groups, True)), len(groups) <= _DISTINCT_GROUPS
    others, found = iter(_OTHERS), []
    for number, group in enumerate(groups):
        named = few or group in best
        colour = next(others) if few and group not in best else GREY
        if group in best:
            colour = BLUE if group.distilled else ORANGE
        found.append(Look(number, escape(group.short_label), colour, named))
    return found


def escape(text: object) -> str:
    """Text as Plotly shows it unchanged: it reads tags and entities in what it is given."""
    return html.escape(" ".join(str(text).split()), quote=False)


def wrapped(text: str, width: int = 20) -> str:
    """Escaped, and on several lines."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, width)) or escape(text)


def named_axis(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """An axis on which place i is names[i]; every n-th of many is shown."""
    step = -(-len(names) // _MOST_TICKS)
    texts = [textwrap.shorten(name, _LONGEST_TICK, placeholder="…") for name in names]
    texts = [text if text != "…" else name[: _LONGEST_TICK - 1] + "…" for text, name in
             zip(texts, names, strict=True)]  # fmt: skip
    places = list(range(0, len(names), step))
    shown = {"tickvals": places, "ticktext": [escape(texts[place]) for place in places]}
    return shown | {"range": [-0.5, len(names) - 0.5], "showgrid": False} | more


def figure(traces: Sequence[Any], height: int, **layout: Any) -> go.Figure:
    """A figure with no look of its own."""
    return go.Figure(list(traces), {"height": height, "template": {}} | layout)
