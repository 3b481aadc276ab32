"""The tables beyond the claims, from small folders whose numbers are known."""

import pytest

from runs.config import described, mark_finished, write_config
from runs.tables import Table
from study import lists
from study.tables import Study
from torch_optimizer.rows import labeled


def stored(folder, seeds=(0,), rows=lists.SGD_AND_ADAM, **tables):
    """A finished run with these tables, each a list of rows."""
    folder.mkdir(parents=True)
    write_config(folder, {"seeds": list(seeds)}, described(labeled(rows)))
    for name, lines in tables.items():
        table = Table(folder / f"{name}.csv", list(lines[0]))
        for line in lines:
            table.append(**line)
        table.save()
    mark_finished(folder)


def trained(folder, losses, rows=lists.SGD_AND_ADAM, lr=0.5):
    """A convergence run; (label, seed) -> loss of its one epoch."""
    lines = [dict(algorithm=label, seed=seed, epoch=1, iteration=1, examples=2, loss=loss)
             for (label, seed), loss in losses.items()]  # fmt: skip
    summary = [dict(algorithm=label, lr=lr, diverged=0) for label in labeled(rows)]
    stored(folder, sorted({seed for _, seed in losses}), rows, losses=lines, summary=summary)


def test_flat_and_fast_are_compared_in_the_last_epoch_of_each_seed(tmp_path):
    """The flatter row ends lower from both seeds. In epoch 1 it was the other one."""
    ratios = [
        dict(seed=seed, epoch=epoch, algorithm=label, measured_on="test", mean_ratio=ratio)
        for seed in (0, 1) for epoch in (1, 2) for label, ratio in (("sgd", 1.0), ("adam", 2.5 - epoch))
    ]  # fmt: skip
    ratios.append(dict(seed=0, epoch=2, algorithm="training", measured_on="test", mean_ratio=9.0))
    stored(tmp_path / "snli-adam", (0, 1), ratios=ratios)
    trained(tmp_path / "snli-convergence", {("sgd", 0): 5.0, ("adam", 0): 4.0, ("sgd", 1): 3.0, ("adam", 1): 2.5})
    (row,) = Study(tmp_path).flat_and_fast()
    assert (row["data"], row["trajectory"], row["rows"], row["tau"], row["seeds"]) == ("snli", "adam", 2, 1.0, 2)


def test_a_later_optimizer_stands_at_its_tuned_rate(tmp_path):
    """Measured at rate 0.1 with an edge number of 0.2 and trained at 0.5: its edge number is 1 there."""
    points = [
        dict(seed=0, epoch=epoch, algorithm=label, measured_on="test", sharpness=sharpness * epoch,
             sharpness_inf=3 * sharpness, sharpness_spectral=sharpness**2, learning_rate=0.1, edge_quadratic=edge)
        for epoch in (1, 2) for label, sharpness, edge in (("sgd", 4.0, None), ("adam", 1.0, 0.1 * epoch))
    ]  # fmt: skip
    stored(tmp_path / "modern-adam", sharpness=points)
    trained(tmp_path / "modern-convergence", {("sgd", 0): 5.0, ("adam", 0): 4.0})
    cells = {(row["algorithm"], row["quantity"]): row["value"] for row in Study(tmp_path).modern()}
    assert [cells["adam", name] for name in ("learning rate", "loss", "edge at this rate")] == pytest.approx(
        [0.5, 4, 1]
    )
    ratios = ("ratio", "ratio, largest coordinate", "ratio, spectral")
    assert [cells["adam", name] for name in ratios] == pytest.approx([1 / 4, 1 / 4, 1 / 16])
    assert cells["sgd", "edge at this rate"] is None, "its step leads uphill"


def test_the_edge_of_the_own_step_is_beside_the_largest_eigenvalue(tmp_path):
    means = [
        dict(epoch=1, algorithm=label, measured_on=batch, quantity=quantity, mean=mean, low=0.1, high=0.9, seeds=3)
        for label, batch, quantity, mean in (
            ("training", "test", "edge_realized", 0.4), ("training", "training", "edge_realized", 0.3),
            ("training", "test", "edge_quadratic", 7.0), ("adam", "test", "edge_realized", 8.0),
        )
    ]  # fmt: skip
    shared = dict(seed=0, epoch=1, measured_on="test", two_over_lr=10.0)
    eigenvalues = [
        shared | dict(matrix="H", eigenvalue=99.0, stability_threshold=None),
        shared | dict(matrix="P^-1 H", eigenvalue=30.0, stability_threshold=60.0),
    ]
    stored(tmp_path / "modern-adam", seed_means=means, eigenvalues=eigenvalues)
    stored(tmp_path / "imdb-adam", seed_means=means)
    assert [row["value"] for row in Study(tmp_path).eigenvalues()] == [3.0, 0.5, 0.4]
    found = [(row["data"], row["measured_on"], row["edge"]) for row in Study(tmp_path).own_steps()]
    assert found == [("imdb", "test", 0.4), ("imdb", "training", 0.3)]


def test_clip_fractions_are_compared_with_no_clipping_at_each_point(tmp_path):
    """Epoch 1: sharper than at k = 0; epoch 2: half as sharp. A step that clipping erased counts in neither."""
    sweep = [
        dict(seed=0, epoch=epoch, algorithm="sgd", fraction=k, sharpness=sharpness, predicted_decrease=decrease)
        for epoch, k, sharpness, decrease in (
            (1, 0.0, 1.0, 2.0), (1, 0.1, 3.0, 1.0), (2, 0.0, 4.0, 3.0), (2, 0.1, 2.0, None),
        )
    ]  # fmt: skip
    parts = dict(seed=0, fraction=0.1, length_share=0.8, cross=1.0, rest=0.5, rest_sharpness=0.4)
    by_size = [parts | dict(epoch=epoch, top=top) for epoch, top in ((1, 9.0), (2, 0.5))]
    stored(tmp_path / "clip_sweep", clip_sweep=sweep, curvature_by_size=by_size)
    rows = [row for row in Study(tmp_path).clip_sweep() if row["fraction"] == 0.1]
    cells = [(row["quantity"], row["value"], row["lower"], row["higher"], row["of"]) for row in rows]
    assert cells == [("sharpness", 0.5, 1, 1, 2), ("predicted decrease", None, 1, 0, 2)]
    assert [row["value"] for row in Study(tmp_path).curvature_by_size()] == [0.8, 0.25, 0.5, 0.2]


def test_the_curvature_of_an_own_step_is_the_mean_over_its_run(tmp_path):
    for optimizer, factor in (("adam", 3.0), ("muon_adamw", 1.0)):
        points = [
            dict(seed=0, epoch=epoch, algorithm=label, measured_on=batch, sharpness=factor * sharpness * epoch)
            for epoch in (1, 3) for label, batch, sharpness in (
                ("training", "test", 1.0), ("training", "training", factor), ("adam", "test", 50.0))
        ]  # fmt: skip
        stored(tmp_path / f"own_step1-{optimizer}", sharpness=points)
    cells = {(row["measured_on"], row["quantity"]): row["value"] for row in Study(tmp_path).own_curvature()}
    assert cells == pytest.approx({
        ("test", "adam"): 6, ("test", "muon_adamw"): 2, ("test", "adam over muon_adamw"): 3,
        ("training", "adam"): 18, ("training", "muon_adamw"): 2, ("training", "adam over muon_adamw"): 9,
    })  # fmt: skip
