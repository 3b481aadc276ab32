"""Intervals over seeds and Kendall's tau, against numbers worked by hand and against scipy's."""

import math

import pytest
from scipy import stats

from runs.intervals import beta_cdf, kendall_tau, mean_interval, share_interval, student_t


def test_students_t_is_that_of_the_tables():
    assert [round(student_t(n), 3) for n in (1, 2, 4, 9, 30)] == [12.706, 4.303, 2.776, 2.262, 2.042]


def test_the_interval_of_a_mean_is_t_times_its_standard_error():
    low, high = mean_interval([1.0, 2.0, 3.0])  # mean 2, standard deviation 1
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)


def test_one_seed_gives_no_interval():
    assert mean_interval([1.0]) is None and share_interval([1.0]) is None and share_interval([]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_where_all_seeds_agree_the_share_is_bounded_by_their_number(n):
    """With all of n trials a success, Clopper & Pearson's lower end is the p of p^n = 0.025."""
    assert share_interval([1.0] * n) == pytest.approx((0.025 ** (1 / n), 1.0), abs=1e-12)
    assert share_interval([0.0] * n) == pytest.approx((0.0, 1 - 0.025 ** (1 / n)), abs=1e-12)


def test_a_share_that_holds_in_one_seed_of_two_has_the_worked_interval():
    """The lower end is the p at which two failures in two trials have probability 0.975: 1 - sqrt(0.975)."""
    low = 1 - math.sqrt(0.975)
    assert share_interval([1.0, 0.0]) == pytest.approx((low, 1 - low), abs=1e-12)
    assert share_interval([0.5, 0.5]) == pytest.approx((low, 1 - low), abs=1e-12)  # as if they held or failed together


def test_the_interval_of_a_share_is_that_of_the_beta_distribution():
    shares = [1.0, 0.75, 0.5, 0.9]
    held = sum(shares)
    expected = stats.beta.ppf(0.025, held, 5 - held), stats.beta.ppf(0.975, held + 1, 4 - held)
    assert share_interval(shares) == pytest.approx(expected, rel=1e-9)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"a share is a number in \[0, 1\], got \[1.0, 1.5\]"):
        share_interval([1.0, 1.5])


@pytest.mark.parametrize("a, b", [(0.5, 0.5), (0.5, 15), (2.5, 1.5), (40, 3)])
def test_the_beta_distribution_is_scipys(a, b):
    places = [0, 0.01, 0.3, 0.5, 0.7, 0.99, 1]
    assert [beta_cdf(x, a, b) for x in places] == pytest.approx(stats.beta.cdf(places, a, b), abs=1e-12)


def test_tau_of_four_things_with_one_pair_exchanged_is_two_thirds():
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx((5 - 1) / 6)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1


def test_tau_leaves_equal_values_out_of_the_side_that_has_them():
    x, y = [1, 2, 2, 3], [1, 2, 3, 4]  # five pairs agree, one is equal in x
    assert kendall_tau(x, y) == pytest.approx(5 / math.sqrt(5 * 6))
    x, y = [3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]
    assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_tau_does_not_exist_without_an_order():
    assert kendall_tau([1, 1], [1, 2]) is None and kendall_tau([1], [1]) is None
