"""Timing pieces of work interleaved, and the numbers that follow."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RATIO = "x"  # the unit of a ratio
Seconds = Mapping[str, tuple[float, ...]]  # of each arm in each round


def in_words(value: float) -> str:
    """Four digits: 0.9812, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Target:
    """Where a median should lie."""

    low: float = 0.0
    high: float = math.inf

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"≥ {in_words(self.low)}"
        return (
            f"{in_words(self.low)} to {in_words(self.high)}"
            if self.low
            else f"≤ {in_words(self.high)}"
        )


@dataclass(frozen=True)
class Measurement:
    """One number of the bench."""

    name: str
    unit: str  # RATIO where both sides were timed interleaved; else the number is this machine's
    values: tuple[float, ...] = ()  # one a round
    target: Target | None = None
    note: str = ""  # what one has to know to read it
    fault: str | None = None  # why there are no values
    seconds: Seconds = field(default_factory=dict)  # what the values were computed from

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; the target in words."""
        found = {"median": self.median if self.values else None}
        return dataclasses.asdict(self) | found | {"target": self.target and str(self.target)}


@dataclass(frozen=True)
class Timings:
    """Seconds of each arm in each round, and the note of the numbers that follow from them."""

    seconds: Seconds
    note: str = ""

    def ratio(
        self, name: str, upper: str, lower: str, target: Target | None = None, factor: float = 1.0
    ) -> Measurement:
        """The seconds of `upper` over those of `lower` times `factor`, round by round."""
        pairs = zip(self.seconds[upper], self.seconds[lower], strict=True)
        values = tuple(factor * one / other for one, other in pairs)
        return Measurement(name, RATIO, values, target, self.note, seconds=self.seconds)

    def rate(
        self, name: str, unit: str, arm: str, amount: float, target: Target | None = None
    ) -> Measurement:
        """`amount` a second, round by round."""
        values = tuple(amount / one for one in self.seconds[arm])
        return Measurement(name, unit, values, target, self.note, seconds=self.seconds)


def interleaved(
    arms: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], None] = lambda: None,
    limit: float = math.inf,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each arm in each round, after one that allocates, compiles and picks kernels.

    What slows the machine down for a while slows all arms down, and every second round goes
    backwards, so that a steady drift favours none. An arm that returns a float has timed itself.
    `synchronize` waits until the device is done. After `limit` seconds no arm begins any more, and
    a round that is not complete does not count. Raises TimeoutError where none is.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    first = clock()
    for number in range(rounds + 1):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            synchronize()
            began = clock()
            if began - first > limit:
                break
            own = arms[name]()
            synchronize()
            found[name].append(own if isinstance(own, float) else clock() - began)
    complete = min(map(len, found.values()))
    if complete < 2:
        raise TimeoutError(f"skipped: no round within {limit / 60:g} min; see --minutes, --images")
    return {name: tuple(seconds[1:complete]) for name, seconds in found.items()}
