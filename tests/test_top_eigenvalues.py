"""Largest eigenvalues against dense matrices, preconditioners against real steps, thresholds against simulations."""

import copy
import math

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from curvature.borrowing import measuring, twice_differentiable
from curvature.gradient_graph import GradientGraph
from curvature.objective import functional_loss, objective_at, trainable_parameters
from landscape.cross_checks import full_hessian
from landscape.top_eigenvalues import (
    Stability,
    preconditioner_inverse,
    stability_threshold,
    top_eigenvalue,
    top_eigenvalues,
)
from runs.checkpoints import load_tensors
from runs.tables import read_table
from tasks import TASKS, Entry
from tasks.protocols import TOY
from tests.helpers import tiny_run
from torch_optimizer import Algorithm, Lion, SGDClip, SignSGD
from torch_optimizer.adafactor import Adafactor
from torch_optimizer.adam_clip import AdamClip

EXACT = dict(tolerance=1e-9, max_iterations=300)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_dense(hessian, inverse=None):
    """The largest eigenvalue of P^-1 H, which is not symmetric, by another route than the symmetric form."""
    matrix = hessian if inverse is None else inverse[:, None] * hessian
    return torch.linalg.eigvals(matrix).real.max().item()


def top(graph, inverse=None):
    return top_eigenvalue(graph, inverse, generator=torch.Generator().manual_seed(0), **EXACT)


# ---- eigenvalues ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_graphs", [True, False])
def test_top_eigenvalue_of_a_quadratic_of_two_coupled_tensors(keep_graphs):
    root = random(7, 7)
    hessian = root @ root.T - 2 * torch.eye(7, dtype=torch.float64)

    def loss_fn(params, batch):
        x = torch.cat([params["a"].flatten(), params["b"]])
        return (0.5 * x @ hessian @ x).expand(len(batch["rows"]))

    params = dict(a=random(2, 2, seed=1), b=random(3, seed=2))
    batches = [dict(rows=torch.zeros(2)), dict(rows=torch.zeros(1))]
    graph = GradientGraph(loss_fn, params, batches, ["a", "b"], keep_graphs)
    flat = torch.tensor([4.0, 1.0, 0.5, 2.0, 0.0, 3.0, 1.0], dtype=torch.float64)  # the fifth element never moves
    plain, scaled = top(graph), top(graph, dict(a=flat[:4].view(2, 2), b=flat[4:]))
    assert plain.eigenvalue == pytest.approx(of_dense(hessian), rel=1e-8)
    assert scaled.eigenvalue == pytest.approx(of_dense(hessian, flat), rel=1e-8)
    assert plain.converged and scaled.converged
    assert plain.products <= 7 and scaled.products <= 7


def test_top_eigenvalues_of_a_transformer_are_those_of_its_full_hessian():
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=7, d_model=4, d_kv=2, d_ff=6, num_layers=1, num_heads=2, decoder_start_token_id=0)
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn_like(p)
    tokens = torch.randint(2, 7, (4, 5))

    def losses(forward, batch):
        logits = forward(input_ids=batch["x"], decoder_input_ids=batch["x"]).logits
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["x"], reduction="none").mean(dim=1)

    batches = [dict(x=tokens[:3]), dict(x=tokens[3:])]
    loss_fn, params = functional_loss(model, losses), trainable_parameters(model)
    optimizer = AdamClip(model.parameters(), betas=(0.9, 0.99), eps=1e-3)
    with measuring(model), twice_differentiable():
        graph = GradientGraph(loss_fn, params, batches, list(params), keep_graphs=True)
        for name, p in model.named_parameters():
            p.grad = graph.gradients[name]
        inverse = preconditioner_inverse(optimizer, dict(model.named_parameters()))
        plain, scaled = top(graph), top(graph, inverse)
        hessian = full_hessian(loss_fn, params, batches)
    assert plain.eigenvalue == pytest.approx(of_dense(hessian), rel=1e-6)
    flat = torch.cat([inverse[name].flatten() for name in params])
    assert scaled.eigenvalue == pytest.approx(of_dense(hessian, flat), rel=1e-6)
    assert scaled.eigenvalue > 2 * plain.eigenvalue


@pytest.mark.parametrize("bad", [{}, dict(x=torch.ones(3)), dict(x=torch.tensor([1.0, -1.0])),
                                 dict(x=torch.tensor([1.0, math.nan]))])  # fmt: skip
def test_a_preconditioner_that_is_none_is_refused(bad):
    graph = GradientGraph(lambda p, batch: (p["x"] ** 2).sum().view(1), dict(x=torch.ones(2)), [{}], ["x"], True)
    with pytest.raises(ValueError, match="preconditioner.* for x"):
        top_eigenvalue(graph, bad, generator=torch.Generator())


# ---- the preconditioner -----------------------------------------------------------------------------------------

BUILDS = {
    "adam": lambda ps: AdamClip(ps, lr=0.1, betas=(0.8, 0.9), eps=1e-2),
    "adam amsgrad": lambda ps: AdamClip(ps, lr=0.1, betas=(0.8, 0.5), amsgrad=True),
    "torch adam": lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1),
    "torch amsgrad": lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.8, 0.5), amsgrad=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.1, betas=(0.8, 0.9), weight_decay=0.0),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.1, alpha=0.9),
    "rmsprop centered": lambda ps: torch.optim.RMSprop(ps, lr=0.1, alpha=0.9, centered=True, eps=1e-2),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1),
    "adafactor": lambda ps: Adafactor(ps, lr=0.1, relative_step=False),
    "adafactor plain": lambda ps: Adafactor(ps, lr=0.1, relative_step=False, scale_parameter=False),
}


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("name", BUILDS)
def test_the_next_step_is_lr_times_the_inverse_times_the_first_moment(name, steps_before):
    params = dict(w=torch.nn.Parameter(random(4, 3, seed=1)), b=torch.nn.Parameter(random(5, seed=2)))
    optimizer = BUILDS[name](params.values())
    for step in range(steps_before + 1):
        for place, p in enumerate(params.values()):
            p.grad = (1 + 3 * step) * random(*p.shape, seed=10 * step + place)
        if step < steps_before:
            optimizer.step()
    before = {n: p.detach().clone() for n, p in params.items()}
    state = copy.deepcopy(optimizer.state_dict())
    inverse = preconditioner_inverse(optimizer, params)
    assert all(torch.equal(p, before[n]) for n, p in params.items())
    assert str(optimizer.state_dict()) == str(state)
    optimizer.step()
    for n, p in params.items():
        first = optimizer.state[p].get("exp_avg", p.grad)  # Adam's average; the others have none
        torch.testing.assert_close(before[n] - p.detach(), 0.1 * inverse[n] * first, rtol=1e-7, atol=1e-12)


def test_what_the_optimizer_does_not_move_has_an_inverse_of_zero():
    moved, still, foreign = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    moved.grad = torch.ones(2)
    inverse = preconditioner_inverse(AdamClip([moved, still]), dict(moved=moved, still=still, foreign=foreign))
    assert inverse["moved"].min() > 0
    assert not inverse["still"].any() and not inverse["foreign"].any()


def test_optimizers_without_a_second_moment_have_no_preconditioner():
    x = torch.nn.Parameter(torch.ones(2))
    x.grad = torch.ones(2)
    for optimizer in (SGDClip([x], lr=0.1), torch.optim.SGD([x], lr=0.1), SignSGD([x], lr=0.1)):
        assert preconditioner_inverse(optimizer, dict(x=x)) is None


# ---- the threshold ----------------------------------------------------------------------------------------------

FLAT = 1e6  # so large an eps makes P constant, P = eps
RECURSIONS = {
    "gradient descent": (lambda p, lr: torch.optim.SGD(p, lr=lr), 1.0, 2.0),
    "heavy ball": (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), 1.0, 3.8),
    "an average": (lambda p, lr: SGDClip(p, lr=lr, momentum=0.9, dampening=0.9), 1.0, 38.0),
    "Nesterov": (lambda p, lr: SGDClip(p, lr=lr, momentum=0.9, nesterov=True), 1.0, 3.8 / 2.8),
    "adam": (lambda p, lr: AdamClip(p, lr=lr, eps=FLAT), FLAT, 38.0),
    "adamw, another beta": (
        lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.5, 0.9), eps=FLAT, weight_decay=0.0), FLAT, 6.0),
    "rmsprop": (lambda p, lr: torch.optim.RMSprop(p, lr=lr, eps=FLAT), FLAT, 2.0),
    "rmsprop with momentum": (lambda p, lr: torch.optim.RMSprop(p, lr=lr, eps=FLAT, momentum=0.9), FLAT, 3.8),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURSIONS)
def test_a_quadratic_shrinks_just_below_the_threshold_and_grows_just_above_it(name):
    build, scale, times_lr = RECURSIONS[name]
    lr = 0.25 * scale
    for share in (0.99, 1.01):
        x = torch.nn.Parameter(torch.full((1,), 1e-60, dtype=torch.float64))  # its gradient stays small beside eps
        optimizer = build([x], lr)
        threshold = stability_threshold(optimizer, lr)
        assert threshold == pytest.approx(times_lr / lr)
        curvature = share * threshold * scale  # of P^-1 H
        sizes = []
        for _ in range(400):  # Adam's bias correction makes the first steps long, whatever the rate
            x.grad = curvature * x.detach()
            optimizer.step()
            sizes.append(abs(x.item()))
        early, late = max(sizes[200:220]), max(sizes[380:])
        assert late > 2 * early if share > 1 else late < early / 2


def test_steps_that_are_not_linear_in_the_gradient_have_no_threshold():
    x = torch.nn.Parameter(torch.ones(1))
    assert stability_threshold(SignSGD([x], lr=0.1), 0.1) is None
    assert stability_threshold(Lion([x], lr=0.1), 0.1) is None


# ---- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(name, flags) -> folder, of a run on the tiny task measured once, at its first update."""
    monkeypatch.setitem(TASKS, "tiny", Entry(lambda request: tiny_run.Tiny(12, 0), TOY, TOY))
    monkeypatch.setitem(ALGORITHM_LISTS, "tiny", [Algorithm("sgd", lr=0.5)])
    monkeypatch.setattr(run_landscape, "draw_all", lambda folder: [])

    def run(name, *flags):
        sizes = ["--batch_size", "4", "--test_batch_size", "12", "--num_epochs", "1", "--sample_iterations", "2", "1"]
        words = ["--task", "tiny", "--algorithm_list", "tiny", *sizes, "--skip_search", "--top_eigenvalues", *flags]
        if "--from_points" in flags:
            words = ["--skip_search", "--top_eigenvalues", *flags]
        assert run_landscape.main([*words, "--output_dir", str(tmp_path / name)]) == 0
        return tmp_path / name

    return run


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-5), ("float32", 1e-3)])
def test_a_run_writes_the_eigenvalues_of_its_dense_hessian(run, dtype, tolerance):
    folder = run("run", "--dtype", dtype, "--save_points", "--lr", "0.01")
    plain, scaled = read_table(folder / "eigenvalues.csv")
    state = load_tensors(next(folder.glob("points/point-00000002.pt")))  # the scanned one of two
    task = tiny_run.Tiny(12, 0)
    task.model.load_state_dict(state["model"])
    task.model.double().eval()
    batch = {name: t.double() if t.is_floating_point() else t for name, t in task.collate(task.examples).items()}
    params = trainable_parameters(task.model)
    hessian = full_hessian(functional_loss(task.model, task.losses), params, [batch])
    inverse = torch.cat([state["stability"]["inverse"][name].flatten() for name in params]).double()
    assert torch.linalg.eigvalsh(hessian).max().item() == pytest.approx(of_dense(hessian))
    assert plain["eigenvalue"] == pytest.approx(of_dense(hessian), rel=tolerance)
    assert scaled["eigenvalue"] == pytest.approx(of_dense(hessian, inverse), rel=tolerance)
    for row in (plain, scaled):
        assert (row["epoch"], row["batch"], row["iteration"], row["measured_on"]) == (1, 2, 2, "test")
        assert row["converged"] == 1 and row["residual"] <= 1e-3 * row["eigenvalue"] and 1 < row["products"] < 60
        assert row["learning_rate"] == 0.01 and row["two_over_lr"] == pytest.approx(200)
    assert (plain["matrix"], scaled["matrix"]) == ("H", "P^-1 H")
    assert plain["stability_threshold"] is None and scaled["stability_threshold"] == pytest.approx(3800)


@pytest.mark.parametrize("flags, threshold", [
    (["--train_optimizer", "sgd", "--lr", "0.5"], 76),  # 38 / lr: momentum and dampening .9
    (["--train_optimizer", "sgd", "--no-momentum", "--lr", "0.5"], 4),
    (["--train_optimizer", "lion", "--lr", "0.5"], None),
])  # fmt: skip
def test_without_a_preconditioner_there_is_one_eigenvalue_with_the_threshold(run, flags, threshold):
    (row,) = read_table(run("run", *flags) / "eigenvalues.csv")
    assert row["matrix"] == "H" and row["two_over_lr"] == 4
    assert row["stability_threshold"] == (threshold and pytest.approx(threshold))


def test_eigenvalues_repeat_and_saved_points_give_the_same(run):
    folder = run("run", "--save_points", "--measure_on", "both")
    tables = ("eigenvalues", "sharpness", "ratios", "scan")
    others = run("again", "--measure_on", "both"), run("points", "--from_points", str(folder))
    for other in others:
        assert all((other / f"{t}.csv").read_bytes() == (folder / f"{t}.csv").read_bytes() for t in tables)


def test_micro_batches_do_not_change_the_eigenvalue():
    task = tiny_run.Tiny(8, 0)
    batches = [task.collate(task.examples[part]) for part in (slice(8), slice(3), slice(3, 8))]
    whole, parts = (objective_at(task.model, task.losses, some, torch.float32) for some in (batches[:1], batches[1:]))
    ones = {name: torch.ones_like(p) for name, p in whole.params.items()}
    (plain, scaled), split = (top_eigenvalues(each, Stability(ones, 0.1, 20.0)) for each in (whole, parts))
    assert plain.found.eigenvalue == pytest.approx(scaled.found.eigenvalue, rel=1e-3)
    assert plain.found.eigenvalue > 0.05
    assert [each.found.eigenvalue for each in split] == pytest.approx([plain.found.eigenvalue] * 2, rel=1e-3)


def test_where_the_loss_is_not_finite_there_is_a_warning_and_no_eigenvalue(caplog):
    task = tiny_run.Tiny(4, 0)
    with torch.no_grad():
        task.model[0].weight.fill_(math.inf)
    objective = objective_at(task.model, task.losses, [task.collate(task.examples)], torch.float32)
    assert top_eigenvalues(objective, Stability(None, 0.1, 20.0)) == []
    assert "the largest eigenvalues of a point are left out: the loss is not finite" in caplog.text
