"""Robust smoothness beside G built from the scores themselves, and through run_hessian.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import run_hessian
from curvature.objective import functional_loss, trainable_parameters
from hessian import robust_smoothness as module
from hessian.robust_smoothness import chunks, robust_smoothness
from runs.tables import read_table


@pytest.fixture(scope="module")
def problem():
    """A network of two classes on 6 examples in 3 batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        model[0].weight[2] *= 20  # a few steep columns
    x, y = 3 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    batches = [{"x": x[i : i + 2], "y": y[i : i + 2]} for i in (0, 2, 4)]

    def losses(forward, batch):
        return F.cross_entropy(forward(batch["x"]), batch["y"], reduction="none")

    return model, functional_loss(model, losses), batches, x


def measured(problem, names=None):
    model, loss_fn, batches, _ = problem
    params = trainable_parameters(model)
    return robust_smoothness(loss_fn, params, batches, names or list(params), torch.Generator().manual_seed(1))


def rows_from_scores(model, x, names):
    """sqrt(p (1 - p)) (grad z0 - grad z1), as the definition has it."""
    tensors = [p for name, p in model.named_parameters() if name in names]
    rows = []
    for one in x:
        z = model(one)
        p = torch.softmax(z, 0)[0].detach()
        grads = torch.autograd.grad(z[0] - z[1], tensors)
        rows.append((p * (1 - p)).sqrt() * torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("names", [["0.weight", "0.bias", "2.weight", "2.bias"], ["0.weight"]])
def test_values_are_those_of_the_matrix_built_from_the_scores(problem, names):
    model, _, _, x = problem
    g = rows_from_scores(model, x, names)
    norms = g.norm(dim=0)
    kept = g[:, norms <= 2 * norms.mean()]
    assert 0 < kept.shape[1] < g.shape[1]
    smoothness = measured(problem, names)
    assert (smoothness.examples, smoothness.coordinates) == g.shape
    assert smoothness.smoothness == pytest.approx(torch.linalg.matrix_norm(g, 2).item() ** 2, rel=1e-9)
    assert smoothness.robust_smoothness == pytest.approx(torch.linalg.matrix_norm(kept, 2).item() ** 2, rel=1e-9)
    assert smoothness.removed_share == pytest.approx(1 - kept.shape[1] / g.shape[1])
    assert smoothness.robust_smoothness < smoothness.random_smoothness <= smoothness.smoothness


def test_the_control_drops_one_column_in_fifty(monkeypatch):
    drawn = []
    uniform = torch.rand

    def rand(count, generator):
        drawn.append(torch.linspace(0, 1, count, dtype=torch.float64))
        return drawn[-1]

    torch.manual_seed(0)
    model = nn.Linear(200, 2).double()
    x, y = uniform(3, 200, dtype=torch.float64), torch.tensor([0, 1, 1])

    def losses(forward, batch):
        return F.cross_entropy(forward(batch["x"]), batch["y"], reduction="none")

    monkeypatch.setattr(torch, "rand", rand)
    params = trainable_parameters(model)
    batches = [{"x": x, "y": y}]
    smoothness = robust_smoothness(functional_loss(model, losses), params, batches, ["weight"], torch.Generator())
    g = rows_from_scores(model, x, ["weight"])
    assert drawn[0].shape == (400,)
    expected = torch.linalg.matrix_norm(g[:, 8:], 2).item() ** 2  # 0/399 to 7/399 are below 1/50
    assert smoothness.random_smoothness == pytest.approx(expected, rel=1e-9)


def test_pieces_of_the_matrix_change_no_value(problem, monkeypatch):
    whole = measured(problem)
    monkeypatch.setattr(module, "CHUNK", 6 * 12)
    pieces = measured(problem)
    assert pieces.smoothness == pytest.approx(whole.smoothness, rel=1e-12)
    assert pieces.robust_smoothness == pytest.approx(whole.robust_smoothness, rel=1e-12)
    params = trainable_parameters(problem[0])
    assert list(chunks(list(params), params, 12)) == [["0.weight"], ["0.bias"], ["2.weight", "2.bias"]]


def run(folder, *flags):
    return run_hessian.main([
        "--task", "binary_classification", "--dataset", "toy", "--model", "toy", "--dataset_size", "8", "--batch_size",
        "2", "--num_batches", "1", "--max_iterations", "3", "--parameters", "classifier", "--output_dir", str(folder),
        *flags,
    ])  # fmt: skip


def test_the_flag_adds_a_table_of_one_row(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_hessian, "draw_all", lambda folder: [])
    assert run(tmp_path / "run", "--robust_smoothness", "4") == 0
    (row,) = read_table(tmp_path / "run" / "robust_smoothness.csv")
    assert row["examples"] == 4 and row["smoothness"] >= row["robust_smoothness"] > 0
    assert "robust smoothness" in capsys.readouterr().out


def test_more_examples_than_there_are_and_other_tasks_are_refused(tmp_path, capsys):
    for flags, answer in ((["--robust_smoothness", "9"], "takes 9 examples; there are 8"),
                          (["--task", "image_classification", "--robust_smoothness", "4"], "two classes")):  # fmt: skip
        with pytest.raises(SystemExit) as exit:
            run(tmp_path / "run", *flags)
        assert exit.value.code == 2 and answer in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
