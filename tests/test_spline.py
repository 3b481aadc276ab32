"""The spline goes through its points with the derivatives at 0, and its deviation says where it may be wrong."""

import numpy as np
import pytest

from curvature import spline as module
from curvature.spline import spline

TAYLOR = [3.0, -1.0, 0.25]
NODES = [(0.2, 2.7), (0.7, 2.0), (1.1, 2.6)]


def test_without_roughness_it_has_the_value_the_slope_and_the_points(monkeypatch):
    monkeypatch.setattr(module, "ROUGHNESS", np.array([0.0]))
    at_nodes, deviation = spline([s for s, _ in NODES], TAYLOR, NODES)
    assert at_nodes == pytest.approx([y for _, y in NODES], abs=1e-4) and deviation.max() < 1e-3
    h = 1e-4
    near, _ = spline([0.0, h], TAYLOR, NODES)
    assert near[0] == pytest.approx(3.0) and (near[1] - near[0]) / h == pytest.approx(-1.0, abs=1e-3)


def test_its_covariance_is_that_of_integrated_white_noise():
    """f = sum_i g(s - t_i) dW_i with g(r) = r^2 / 2, summed on a fine grid."""
    a, b = np.array([[0.3, 0.8]]), np.array([[0.5, 1.0, 0.1]])
    dt = 1e-4
    t = np.arange(0, 1, dt) + dt / 2
    response = [np.where(t < s[0][:, None], (s[0][:, None] - t) ** 2 / 2, 0.0) for s in (a, b)]
    known, free = module._covariance(a, b)[0]
    assert known == pytest.approx(response[0] @ response[1].T * dt, rel=1e-3)
    assert free - known == pytest.approx(np.outer(a[0] ** 2 / 2, b[0] ** 2 / 2))


def test_one_model_agrees_with_conditioning_by_hand(monkeypatch):
    """One node, u = s, a known curvature: the mean is the node's rest times k(s, 1) / k(1, 1), and so on."""
    for name, only in (("SCALES", [1e9]), ("FREE_CURVATURE", [0.0]), ("ROUGHNESS", [0.0])):
        monkeypatch.setattr(module, name, np.array(only))
    mean, deviation = spline([0.5, 1.0], [1.0, -2.0, 1.0], [(1.0, 0.7)])  # (s - 1)^2 has 0 there: a rest of .7
    k_half, k_across = 0.5**5 / 20, 0.5**5 / 20 + 0.5 * 0.5**4 / 8 + 0.25 * 0.5**3 / 12
    assert mean == pytest.approx([0.25 + 0.7 * k_across * 20, 0.7], rel=1e-6)
    noise = 0.7**2 * 20  # of the third derivative: one node, so its square over k(1, 1)
    assert deviation[0] == pytest.approx(np.sqrt(noise * 2 * (k_half - k_across**2 * 20)), rel=1e-5)


def test_it_is_sure_of_a_smooth_curve_and_unsure_of_a_rough_one():
    s = np.linspace(0.2, 2, 10)
    between = s[:-1] + 0.1
    smooth = np.cos(s)
    kinks = smooth + 0.02 * np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1])
    taylor = [1.0, 0.0, -0.5]
    mean, sure = spline(between, taylor, list(zip(s, smooth, strict=True)))
    assert np.abs(mean - np.cos(between)).max() < 1e-3 and sure.max() < 1e-3
    _, unsure = spline(between, taylor, list(zip(s, kinks, strict=True)))
    assert unsure.min() > 0.01


def test_a_steep_fall_is_smooth_on_its_own_scale():
    def f(s):
        return 1 / (1 + 50 * s)

    nodes = [(s, f(s)) for s in (0.05, 0.4, 1.0)]
    x = np.linspace(0.4, 1, 7)
    mean, _ = spline(x, [1.0, -50.0, 2500.0], nodes)
    assert np.abs(mean - f(x)).max() < 0.01


def test_a_curvature_at_0_that_tells_nothing_is_not_believed():
    """|s - .01| has none at 0, and bends by 2 at its kink."""

    def f(s):
        return abs(s - 0.01) - 0.005 * s

    nodes = [(s, f(s)) for s in (0.2, 0.4, 1.0)]
    x = np.linspace(0.3, 1, 8)
    mean, deviation = spline(x, [0.01, -1.005, 0.0], nodes)
    assert (np.abs(mean - f(x)) < 3 * deviation + 1e-3).all()


def test_numbers_of_any_size_give_the_same_curve():
    nodes = [(s, 1e200 * y) for s, y in NODES]
    large = spline([0.5], [1e200 * c for c in TAYLOR], nodes)
    assert large / 1e200 == pytest.approx(spline([0.5], TAYLOR, NODES))
    far = spline([0.5e9], [3.0, -1e-9, 0.25e-18], [(1e9 * s, y) for s, y in NODES])
    assert far == pytest.approx(spline([0.5], TAYLOR, NODES))
