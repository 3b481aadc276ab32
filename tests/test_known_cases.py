"""Known cases: all hold, and each fails when what it checks is broken."""

import math

import pytest
import torch

import check_known_cases
from curvature.quadratic import QuadraticModel
from known_cases import chebyshev, exact, peers, preconditioned, rows, stability, stochastic, trajectory, zipf
from known_cases.eigenvalue import largest_eigenvalue
from torch_optimizer import Algorithm, SGDClip, SignSGD, sgd_clip

average = sgd_clip.momentum_average


def check(monkeypatch, *cases):
    """Run `main` on these cases alone; its exit status and the rows by the name of what they measure."""
    found = []
    monkeypatch.setattr(check_known_cases, "EXACT", [lambda case=case: found.extend(case()) or found for case in cases])
    return check_known_cases.main([]), {row.case: row.passed for row in found}


def failed(verdicts):
    return [case for case, passed in verdicts.items() if not passed]


def test_every_exact_case_holds(capsys):
    assert check_known_cases.main([]) == 0
    table = capsys.readouterr().out
    assert "13/80" in table and "29/760" in table and "1.357143" in table and "3.25, 7.75, 3.25" in table
    assert " NO" not in table and table.splitlines()[-1].startswith("All ")


@pytest.mark.parametrize("name, column", [("edge", "edge_quadratic"), ("realized_edge", "edge_realized")])
@pytest.mark.parametrize("wrong", [lambda edge: -edge, lambda edge: 2 * edge], ids=["sign", "missing half"])
def test_a_wrong_edge_number_fails(monkeypatch, name, column, wrong):
    right = getattr(QuadraticModel, name)
    monkeypatch.setattr(QuadraticModel, name, lambda *args: wrong(right(*args)))
    status, verdicts = check(monkeypatch, exact.edge_rationals)
    assert status == 1 and len(failed(verdicts)) == 2 and all(column in case for case in failed(verdicts))


def test_an_undampened_momentum_fails_the_rationals(monkeypatch):
    monkeypatch.setattr(sgd_clip, "momentum_average", lambda g, b, mu, d, nesterov: average(g, b, mu, 0.0, nesterov))
    status, verdicts = check(monkeypatch, exact.edge_rationals)
    assert status == 1 and len(failed(verdicts)) == 4


def test_a_line_search_of_twice_the_distance_fails(monkeypatch):
    monkeypatch.setattr(QuadraticModel, "best_distance", property(lambda model: -2 * model.slope / model.sharpness))
    status, verdicts = check(monkeypatch, exact.line_search_on_four_modes)
    assert status == 1 and "gradient descent" in failed(verdicts)[0]


def test_a_missing_half_in_the_curvature_fails_every_row_of_the_line_search(monkeypatch):
    right = trajectory.directional_sharpness

    def halved(*args):
        return [QuadraticModel(m.loss, m.slope, m.sharpness / 2) for m in right(*args)]

    monkeypatch.setattr(trajectory, "directional_sharpness", halved)
    status, verdicts = check(monkeypatch, exact.line_search_on_four_modes)
    assert status == 1 and len(failed(verdicts)) == len(verdicts) == 4


def test_a_move_without_signs_fails_sign_descent_alone(monkeypatch):
    monkeypatch.setattr(SignSGD, "_shape_move", lambda self, p, descent, group: descent)
    status, verdicts = check(monkeypatch, exact.line_search_on_four_modes)
    assert status == 1 and ["sign descent" in case for case in failed(verdicts)] == [True]
    status, verdicts = check(monkeypatch, zipf.losses_of_rare_classes)
    assert status == 1 and failed(verdicts) and all("sign descent" in case for case in failed(verdicts))


def test_another_momentum_fails_its_stability_limit(monkeypatch):
    """Without dampening, the momentum of .9 and .9 has the limit of heavy ball, 3.8, in place of 38."""
    monkeypatch.setattr(sgd_clip, "momentum_average", lambda g, b, mu, d, nesterov: average(g, b, mu, 0.0, nesterov))
    status, verdicts = check(monkeypatch, stability.stability_limits)
    assert status == 1 and failed(verdicts) and all("dampening .9" in case for case in failed(verdicts))


def test_a_step_uphill_fails_gradient_descent_on_rare_classes(monkeypatch):
    monkeypatch.setattr(SGDClip, "_shape_move", lambda self, p, descent, group: -descent)
    status, verdicts = check(monkeypatch, zipf.losses_of_rare_classes)
    assert status == 1 and "gradient descent" in failed(verdicts)[0]


def test_a_number_that_does_not_exist_fails():
    assert not rows.near("nothing", math.nan, 1.0, "").passed
    assert not rows.below("nothing", math.nan, 1.0, "").passed
    assert not rows.below("the bound itself", 1.0, 1.0, "").passed
    assert not rows.above("the bound itself", 1.0, 1.0, "").passed


def test_one_wrong_number_of_several_fails_its_row():
    row = rows.near("two numbers", [1.0, 2.0], [1.0, 2.1], "")
    assert not row.passed and row.cells()["pass"] == "NO"


def test_a_skipped_case_is_told_and_does_not_fail(monkeypatch, capsys):
    cases = [lambda: [rows.skipped("a peer", "not installed", "its page"), rows.near("one", 1.0, 1.0, "by hand")]]
    monkeypatch.setattr(check_known_cases, "EXACT", cases)
    assert check_known_cases.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All 1 rows hold; 1 skipped."


def test_a_wrong_flag_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        check_known_cases.main(["--slower"])
    assert ended.value.code == 2 and "--slower" in capsys.readouterr().err


# ---- published training runs --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_case_holds(capsys):
    assert check_known_cases.main(["--slow"]) == 0
    assert " NO" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_missing_half_fails_the_edge_of_stability(monkeypatch):
    right = trajectory.directional_sharpness
    monkeypatch.setattr(
        trajectory,
        "directional_sharpness",
        lambda *args: [QuadraticModel(m.loss, m.slope, m.sharpness / 2) for m in right(*args)],
    )
    monkeypatch.setattr(chebyshev, "RATES", (0.25,))
    status, verdicts = check(monkeypatch, chebyshev.edge_of_stability)
    assert status == 1 and len(failed(verdicts)) == 3 and all("sharpness" in case for case in failed(verdicts))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 0.5])
def test_a_wrong_preconditioner_fails_its_edge(monkeypatch, factor):
    right = preconditioned.preconditioner
    monkeypatch.setattr(
        preconditioned, "preconditioner", lambda own: {name: factor * d for name, d in right(own).items()}
    )
    status, verdicts = check(monkeypatch, preconditioned.adaptive_edge_of_stability)
    assert status == 1 and all("lambda_max" in case for case in failed(verdicts)) and len(failed(verdicts)) == 2


@pytest.mark.slow
def test_a_dampened_momentum_fails_the_plateau(monkeypatch):
    """With dampening .9 the rate in effect is a tenth, and the plateau of 2/lr is far away."""
    *others, [(lr, row)] = stochastic.RUNS[1]
    monkeypatch.setattr(stochastic, "RUNS", [(*others, [(lr, row.with_options(dampening=0.9))])])
    status, verdicts = check(monkeypatch, stochastic.edge_of_stochastic_stability)
    assert status == 1 and "batch sharpness" in failed(verdicts)[0]


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian():
    """f = x'Hx / 2 with H = diag(10, 1, 1, 1); P = diag(5, 1, 1/3, 1) makes it diag(2, 1, 3, 1)."""
    curvatures = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    loss_fn = exact.diagonal_quadratic(curvatures)
    own = trajectory.Trajectory(Algorithm("sgd"), {"x": 1 / curvatures}, loss_fn, exact.ONE_EXAMPLE)
    diagonal = {"x": torch.tensor([5.0, 1.0, 1 / 3, 1.0], dtype=torch.float64)}
    assert largest_eigenvalue(own) == pytest.approx(10, rel=1e-9)
    assert largest_eigenvalue(own, diagonal) == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize(
    "row, beta1",
    [(Algorithm("adam", lr=0.1), 0.9), (Algorithm("rmsprop", lr=0.1, alpha=0.9), 0.0)],
    ids=["adam", "rmsprop"],
)
def test_the_preconditioner_is_what_divides_the_momentum(row, beta1):
    """The gradient is the same at every step, so that the momentum is (1 - beta1^t) times it."""
    gradient = torch.tensor([3.0, -0.5], dtype=torch.float64)
    start = {"x": torch.ones(2, dtype=torch.float64)}
    own = trajectory.Trajectory(row, start, lambda params, batch: (params["x"] * gradient).sum().view(1), {})
    for _ in range(3):
        before = own.params["x"].detach().clone()
        own.take_step()
    expected = 0.1 * (1 - beta1**3) * gradient / preconditioned.preconditioner(own)["x"]
    torch.testing.assert_close(before - own.params["x"].detach(), expected)


def by_torch(model, batch, vectors):
    """v'Hv as the packages give it, by torch.func.jvp of the gradient."""
    names, values = zip(*model.named_parameters(), strict=True)

    def mean(*tensors):
        logits = torch.func.functional_call(model, dict(zip(names, tensors, strict=True)), (batch["x"],))
        return torch.nn.functional.cross_entropy(logits, batch["y"].flatten())

    gradient = torch.func.grad(mean, argnums=tuple(range(len(values))))
    found = []
    for v in vectors.T:
        parts = [part.view_as(p) for part, p in zip(v.split([p.numel() for p in values]), values, strict=True)]
        _, product = torch.func.jvp(gradient, values, tuple(parts))
        found.append(sum((h * part).sum().item() for h, part in zip(product, parts, strict=True)))
    return found


@pytest.mark.parametrize("factor, status", [(1, 0), (1 + 1e-6, 1), (-1, 1)])
def test_another_package_must_agree_to_rounding(monkeypatch, factor, status):
    def peer(*args):
        return [factor * value for value in by_torch(*args)]

    monkeypatch.setattr(peers, "PEERS", [("a package", "torch", peer, torch.nn.LayerNorm)])
    assert check(monkeypatch, peers.other_packages)[0] == status


def test_a_package_that_is_missing_is_skipped(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", [("a package", "no_such_package", by_torch, torch.nn.LayerNorm)])
    (row,) = peers.other_packages()
    assert row.skipped and "no_such_package is not installed" in row.expected


def test_the_norm_written_out_is_the_same():
    x = torch.arange(12.0, dtype=torch.float64).view(3, 4) ** 2
    torch.testing.assert_close(peers.WrittenOutNorm(4).double()(x), torch.nn.LayerNorm(4).double()(x))
