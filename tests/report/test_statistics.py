"""Student's t against closed forms and printed tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.report.comparison import statistics as subject


def test_mean_and_standard_deviation_by_hand():
    assert subject.mean([0.5, 0.6, 0.7]) == pytest.approx(0.6)
    assert subject.standard_deviation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7))
    assert subject.standard_deviation([1.0]) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (9, 2.26216),
        (10, 2.22814),
        (30, 2.04227),
        (1000, 1.96234),
    ],
)
def test_the_printed_table(freedom: int, quantile: float):
    assert subject.two_sided_p(quantile, freedom) == pytest.approx(0.05, rel=1e-4)
    assert subject.two_sided_p(-quantile, freedom) == subject.two_sided_p(quantile, freedom)
    assert subject.t_quantile(0.95, freedom) == pytest.approx(quantile, rel=1e-5)


@given(st.floats(0.001, 1e4))
def test_closed_forms(t: float):
    # the densities of 1, 2 and 3 degrees of freedom have elementary integrals
    angle = math.atan(t / math.sqrt(3))
    assert subject.two_sided_p(t, 1) == pytest.approx(
        1 - 2 / math.pi * math.atan(t), rel=1e-8, abs=1e-12
    )
    assert subject.two_sided_p(t, 2) == pytest.approx(
        1 - t / math.sqrt(t * t + 2), rel=1e-6, abs=1e-12
    )
    three = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert subject.two_sided_p(t, 3) == pytest.approx(three, rel=1e-6, abs=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.1, 50), st.floats(0.1, 50))
def test_incomplete_beta(x: float, a: float, b: float):
    value = subject.incomplete_beta(x, a, b)
    assert 0 <= value <= 1
    assert value + subject.incomplete_beta(1 - x, b, a) == pytest.approx(1, abs=1e-12)
    assert subject.incomplete_beta(x, a, 1) == pytest.approx(x**a, rel=1e-9)
    # I_x(a, b) = I_x(a + 1, b) + x^a (1 - x)^b / (a B(a, b)): DLMF 8.17.20
    step = math.exp(
        a * math.log(x)
        + b * math.log1p(-x)
        - math.lgamma(a + 1)
        - math.lgamma(b)
        + math.lgamma(a + b)
    )
    assert value == pytest.approx(subject.incomplete_beta(x, a + 1, b) + step, abs=1e-10)


def test_incomplete_beta_at_its_ends():
    assert (subject.incomplete_beta(0.0, 2, 3), subject.incomplete_beta(1.0, 2, 3)) == (0, 1)
    assert subject.two_sided_p(0, 5) == 1


def test_paired_test_by_hand():
    # differences 1, 2, 3 in the seeds that both have: mean 2, deviation 1, t = 2 sqrt(3),
    # p = 1 - t / sqrt(t^2 + 2)
    found = subject.paired_test({0: 1, 1: 2, 2: 4, 7: 100}, {2: 1, 1: 0, 0: 0, 5: -100})
    assert (found.seeds, found.difference, found.reason) == ((0, 1, 2), 2, "")
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9)
    assert found.interval == pytest.approx(
        (2 - 4.3026527 / math.sqrt(3), 2 + 4.3026527 / math.sqrt(3)), rel=1e-6
    )


def test_no_p_where_there_is_none():
    none, one, equal = (
        subject.paired_test({0: 0.5}, {1: 0.4}),
        subject.paired_test({0: 0.5, 1: 0.9}, {0: 0.4}),
        subject.paired_test({0: 0.3, 1: 0.5, 2: 0.4}, {0: 0.2, 1: 0.4, 2: 0.3}),
    )
    assert (none.difference, none.p, none.reason) == (None, None, "no shared seed")
    assert one.difference == pytest.approx(0.1) and (one.p, one.interval, one.reason) == (
        None,
        None,
        "only 1 shared seed",
    )
    assert equal.difference == pytest.approx(0.1) and equal.p is None
    assert equal.reason == "the same difference in all 3 shared seeds"
