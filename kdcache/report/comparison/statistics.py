"""Student's t test over seeds that two recipes share, without SciPy.

Two students of one seed begin with the same weights and see the same batches, so their scores rise
and fall together; the test looks at the differences alone (Student 1908, "The probable error of a
mean").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TINY = 1e-300  # stands for a denominator of zero
_TERMS = 400  # far more than converging takes: about the root of the larger parameter
_LEVEL = 0.95


@dataclass(frozen=True)
class PairedTest:
    """How much one recipe differs from another.

    Attributes:
        seeds: the shared seeds, ascending.
        difference: mean of (one - other) over the shared seeds; None where there are none.
        p: two-sided probability of a mean difference at least as large if the recipes were equally
            good; None where there are fewer than two shared seeds, or where all differences are
            equal.
        interval: the 95 % confidence interval of the difference; None where p is.
        reason: why there is no p; empty where there is one.
    """

    seeds: tuple[int, ...]
    difference: float | None
    p: float | None
    interval: tuple[float, float] | None
    reason: str = ""


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of the population that the values are a sample of (divided by n - 1); None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def paired_test(one: Mapping[int, float], other: Mapping[int, float]) -> PairedTest:
    """Compare the scores of two recipes, each by seed."""
    seeds = tuple(sorted(one.keys() & other.keys()))
    if not seeds:
        return PairedTest(seeds, None, None, None, "no shared seed")
    differences = [one[seed] - other[seed] for seed in seeds]
    centre = mean(differences)
    spread = standard_deviation(differences)
    if spread is None:
        return PairedTest(seeds, centre, None, None, "only 1 shared seed")
    if spread <= 1e-12 * max(
        1.0, abs(centre)
    ):  # equal but for rounding: t would be a quotient of noise
        return PairedTest(
            seeds, centre, None, None, f"the same difference in all {len(seeds)} shared seeds"
        )
    freedom, error = len(seeds) - 1, spread / math.sqrt(len(seeds))
    reach = t_quantile(_LEVEL, freedom) * error
    return PairedTest(
        seeds, centre, two_sided_p(centre / error, freedom), (centre - reach, centre + reach)
    )


def two_sided_p(t: float, freedom: float) -> float:
    """Probability that Student's t with `freedom` degrees of freedom lies further from 0 than `t`.

    I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t²): Abramowitz and Stegun 1964, 26.7.1
    and 26.5.27.
    """
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(level: float, freedom: float) -> float:
    """The t that Student's t stays within, on both sides, with probability `level`.

    0 < level < 1; by bisection.
    """
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 1 - level:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - level else (low, middle)
    return high


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 <= x <= 1 and a, b > 0."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other tail converges sooner
        return 1 - incomplete_beta(1 - x, b, a)
    scale = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(scale) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d1 / (1 + d2 / (1 + ...)) of Abramowitz and Stegun 1964, 26.5.8.

    Evaluated from the front as Lentz 1976 does, in Thompson and Barnett's (1986) form.
    """
    value, upper, lower = 1.0, 1.0, 0.0
    for term in range(1, _TERMS):
        half = term // 2
        if term % 2:
            factor = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / (1 + factor * lower or _TINY)
        upper = 1 + factor / upper or _TINY
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return value
