"""The paired t-test over seeds that two recipes share, and how far a test accuracy can be trusted.

Two students of one seed begin with the same weights and see the same batches, so their scores rise
and fall together; the test looks at the differences alone (Student 1908, "The probable error of a
mean").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

_LEVEL = 0.95
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class PairedTest:
    """How much one recipe differs from another.

    Attributes:
        seeds: the shared seeds, ascending.
        difference: mean of (one - other) over the shared seeds; None where there are none.
        p: two-sided probability of a mean difference at least as large if the recipes were equally
            good; None where there are fewer than two shared seeds, where all differences are
            equal, or without SciPy.
        interval: the 95 % confidence interval of the difference; None where p is.
        reason: why there is no p; empty where there is one.
    """

    seeds: tuple[int, ...]
    difference: float | None
    p: float | None
    interval: tuple[float, float] | None
    reason: str = ""


def paired_test(one: Mapping[int, float], other: Mapping[int, float]) -> PairedTest:
    """Compare the scores of two recipes, each by seed."""
    seeds = tuple(sorted(one.keys() & other.keys()))
    if not seeds:
        return PairedTest(seeds, None, None, None, "no shared seed")
    differences = [one[seed] - other[seed] for seed in seeds]
    centre = fmean(differences)
    reason = ""
    if len(seeds) < 2:
        reason = "only 1 shared seed"
    elif stdev(differences) <= 1e-12 * max(1.0, abs(centre)):  # equal but for rounding
        reason = f"the same difference in all {len(seeds)} shared seeds"
    else:
        try:
            from scipy import stats  # of the extra `report`, and slow to import
        except ImportError:
            reason = "p needs SciPy: pip install 'kdcache[report]'"
        else:
            ours, theirs = ([by_seed[seed] for seed in seeds] for by_seed in (one, other))
            test: Any = stats.ttest_rel(ours, theirs)
            low, high = test.confidence_interval(_LEVEL)
            return PairedTest(seeds, centre, float(test.pvalue), (float(low), float(high)))
    return PairedTest(seeds, centre, None, None, reason)


def margin(accuracy: float, images: int) -> float:
    """Half the width of the usual 95 % interval of an accuracy (0 to 1) on so many images."""
    return _NORMAL_95 * math.sqrt(accuracy * (1 - accuracy) / images)
