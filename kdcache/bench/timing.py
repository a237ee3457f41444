"""A measurement: how it is timed, and how it is shown."""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcache.errors import KdcacheError
from kdcache.report import BLUE, DPI, GREY, INK, ORANGE, RULE

RATIO = "x"  # the unit of a ratio


Seconds = Mapping[str, tuple[float, ...]]  # of each arm in each round


@dataclass(frozen=True)
class Target:
    """Where a median should lie; None is no bound."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None:
            return f"≤ {_number(self.high)}"
        return (
            f"≥ {_number(self.low)}"
            if self.high is None
            else f"{_number(self.low)} to {_number(self.high)}"
        )


@dataclass(frozen=True)
class Measurement:
    """One number of the bench.

    Args:
        unit: RATIO where both sides were measured on this machine in turns; anything else is this machine's own.
        values: one a round; none where it could not be measured.
        note: what one has to know to read it.
        fault: why it could not be measured.
        seconds: what `values` were computed from.
    """

    name: str
    unit: str
    values: tuple[float, ...] = ()
    target: Target | None = None
    note: str = ""
    fault: str | None = None
    seconds: Seconds = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self) | {"median": self.median}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Measurement":
        """The inverse of as_dict, also after JSON has made lists of the tuples."""
        known = {key: value for key, value in entry.items() if key != "median"}
        known["values"] = tuple(entry["values"])
        known["target"] = entry["target"] and Target(**entry["target"])
        known["seconds"] = {arm: tuple(seconds) for arm, seconds in entry["seconds"].items()}
        return cls(**known)


def failed(name: str, unit: str, error: BaseException) -> Measurement:
    """The row of what could not be measured, with the reason in one line."""
    lines = str(error).strip().splitlines()
    return Measurement(name, unit, fault=lines[0] if lines else type(error).__name__)


def interleaved(
    arms: Mapping[str, Callable[[], float | None]],
    rounds: int,
    *,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each arm in each round.

    The arms take turns, so that what slows the machine down for a while slows all of them, and every second round goes
    backwards, so that a steady drift favours none.

    Args:
        arms: what to run, under its name. One that returns seconds has timed itself, to leave out what is not meant.
        warm_up: whether a round that is not timed goes before, which allocates, compiles and picks kernels.
        clock: seconds since some moment.
        synchronize: waits until the device has done all that it was given.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            synchronize()
            began = clock()
            own = arms[name]()
            synchronize()
            seconds = clock() - began if own is None else own
            if number > 0:
                found[name].append(seconds)
    return {name: tuple(seconds) for name, seconds in found.items()}


def ratios(seconds: Seconds, upper: str, lower: str, factor: float = 1.0) -> tuple[float, ...]:
    """`upper` over `lower` times `factor`, round by round."""
    return tuple(
        factor * one / other for one, other in zip(seconds[upper], seconds[lower], strict=True)
    )


def rates(seconds: Seconds, arm: str, amount: float) -> tuple[float, ...]:
    """`amount` a second, round by round."""
    return tuple(amount / one for one in seconds[arm])


_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from kdcache import baseline
from kdcache.console import say
say(json.dumps(getattr(baseline, sys.argv[2])(*json.loads(sys.argv[3]))))
"""


def in_child(function: str, *arguments: object) -> dict[str, float]:
    """What a function of kdcache.baseline returns in a fresh process, and `spawned`, the time.time() of its start.

    Raises RuntimeError with the last line that it wrote where it failed.
    """
    words = [
        sys.executable,
        "-c",
        _CHILD,
        json.dumps(sys.path),
        function,
        json.dumps(arguments, default=str),
    ]
    spawned = time.time()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(
            f"a child process failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
        )
    return json.loads(done.stdout.splitlines()[-1]) | {"spawned": spawned}


def table_rows(measurements: Sequence[Measurement]) -> list[dict[str, str | None]]:
    """The rows for `format_table`: what, median, min..max, unit, target, whether it holds."""
    rows = []
    for one in measurements:
        found: dict[str, str | None] = {"median": None, "min..max": None, "holds": None}
        if one.fault is not None:
            found["median"] = "failed"
        if one.values:
            found["median"] = _number(one.median)
            found["min..max"] = f"{_number(min(one.values))}..{_number(max(one.values))}"
            found["holds"] = one.target and ("yes" if one.target.holds(one.median) else "no")
        target = one.target and str(one.target)
        keys = "what", "median", "min..max", "unit", "target", "holds"
        row = {"what": one.name, "unit": one.unit or None, "target": target} | found
        rows.append({key: row[key] for key in keys})
    return rows


def remarks(measurements: Sequence[Measurement]) -> list[str]:
    """A line for each that failed or has a note; measurements with the same one share it."""
    lines: dict[str, list[str]] = {}
    for one in measurements:
        text = f"failed: {one.fault}" if one.fault is not None else one.note
        if text:
            lines.setdefault(text, []).append(one.name)
    return [f"{'; '.join(names)}: {text}" for text, names in lines.items()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratio_chart(measurements: Sequence[Measurement], path: Path) -> None:
    """Draw the ratios that have a target: a bar for the median, a thin line from min to max, and where the target lies.

    Raises KdcacheError where `path` cannot be written.
    """
    shown = [
        one for one in measurements if one.unit == RATIO and one.target is not None and one.values
    ]
    style = {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.color": INK,
        "xtick.color": GREY,
        "axes.edgecolor": RULE,
    }
    style["axes.labelcolor"] = GREY
    with matplotlib.rc_context(style):
        figure = Figure(
            figsize=(8.5, 1.2 + 0.5 * max(1, len(shown))), layout="constrained", facecolor="white"
        )
        axes = figure.subplots()
        for position, one in enumerate(shown):
            _bar(axes, position, one)
        axes.set(
            ylim=(max(1, len(shown)) - 0.4, -0.6),
            xlabel="ratio; orange: where the target allows the median to be",
        )
        axes.set_xlim(0, 1.25 * max([1.0, *(max(one.values) for one in shown)]))
        axes.set_yticks(range(len(shown)), [one.name for one in shown])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.grid(axis="x", color=RULE, zorder=0)
        try:
            figure.savefig(path, format="png", dpi=DPI)
        except OSError as error:
            raise KdcacheError(
                f"room and the right to write {path}", f"{error.strerror}", "give another --picture"
            ) from error


def _bar(axes: Axes, position: int, one: Measurement) -> None:
    """One measurement's bar: the value beside it says in text what the colours say."""
    target, median = one.target, one.median
    axes.barh(position, median, height=0.46, color=BLUE if target.holds(median) else GREY, zorder=2)
    axes.plot(
        [min(one.values), max(one.values)], [position, position], color=INK, linewidth=1.2, zorder=3
    )
    bounds = [bound for bound in (target.low, target.high) if bound is not None]
    for bound in bounds:
        axes.plot(
            [bound, bound],
            [position - 0.34, position + 0.34],
            color=ORANGE,
            linewidth=1.6,
            zorder=4,
        )
    if len(bounds) == 1:  # which way the target lies; two lines say it without
        axes.annotate(
            "", (bounds[0], position - 0.34), (-12 if target.low is None else 12, 0), textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": ORANGE, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}, zorder=4,
        )  # fmt: skip
    end = max(*one.values, target.high or 0, target.low or 0)
    verdict = "holds" if target.holds(median) else "missed"
    axes.annotate(
        f"{_number(median)}  ({target}: {verdict})",
        (end, position),
        (6, 0),
        textcoords="offset points",
        va="center",
    )
