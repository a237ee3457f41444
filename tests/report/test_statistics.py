"""The paired test, against closed forms of Student's t."""

import math
import sys

import pytest

from kdcache.report.comparison.statistics import margin, paired_test


def test_by_hand() -> None:
    # differences 1, 2, 3 in the seeds that both have: mean 2, deviation 1, t = 2 sqrt(3),
    # and with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    found = paired_test({0: 1, 1: 2, 2: 4, 7: 100}, {2: 1, 1: 0, 0: 0, 5: -100})
    assert (found.seeds, found.difference, found.reason) == ((0, 1, 2), 2, "")
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)
    # the 97.5 % quantile of t with 2 degrees of freedom, from a printed table
    reach = 4.3026527 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - reach, 2 + reach), rel=1e-6)


def test_no_p_where_there_is_none() -> None:
    none, one, equal = (
        paired_test({0: 0.5}, {1: 0.4}),
        paired_test({0: 0.5, 1: 0.9}, {0: 0.4}),
        paired_test({0: 0.3, 1: 0.5, 2: 0.4}, {0: 0.2, 1: 0.4, 2: 0.3}),
    )
    assert (none.difference, none.p, none.reason) == (None, None, "no shared seed")
    assert one.difference == pytest.approx(0.1) and (one.p, one.interval, one.reason) == (
        None,
        None,
        "only 1 shared seed",
    )
    assert equal.difference == pytest.approx(0.1) and equal.p is None
    assert equal.reason == "the same difference in all 3 shared seeds"


def test_without_scipy_the_difference_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    found = paired_test({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.5})
    assert found.difference == pytest.approx(0.15) and found.p is None
    assert "pip install 'kdcache[report]'" in found.reason


def test_the_margin_of_an_accuracy_by_hand() -> None:
    assert margin(0.5, 10_000) == pytest.approx(1.96 * 0.5 / 100)
