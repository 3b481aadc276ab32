"""docs/your_own_loop.md, docs/curvature.md and examples/: their programs run, and give the definition's numbers."""

import json
import runpy

import pytest
import torch
from torch.func import jvp

from landscape_probe import LandscapeProbe
from tests.test_house import ROOT
from tests.test_pages import CODE, text_of

EXAMPLES = ROOT / "examples"


def program(text, page="docs/your_own_loop.md"):
    """The program of a page that has this text in it."""
    (block_text,) = [block for language, block, *_ in CODE.findall(text_of(page)) if language and text in block]
    return block_text


def test_the_plain_loop_of_the_page_runs(capsys):
    exec(program("for step, batch in enumerate(batches)"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1]) for line in lines] == [
        (step, row) for step in ("0", "10") for row in ("training", "sgd", "adam", "muon")
    ]


def test_the_lines_of_the_readme_run():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    class LinearForImageClassification(torch.nn.Linear):
        def forward(self, x):
            return type("Out", (), {"logits": super().forward(x)})

    model.__class__ = LinearForImageClassification
    test_batch = {"input": torch.randn(4, 2), "labels": torch.tensor([0, 1, 1, 0])}
    model(test_batch["input"]).logits.sum().backward()
    names = dict(
        model=model, optimizer=optimizer, test_batch={"x": test_batch["input"], "labels": test_batch["labels"]}
    )
    exec(program("probe.observe()", "README.md"), names)
    assert isinstance(names["probe"], LandscapeProbe) and names["rows"][0]["algorithm"] == "training"


def test_the_ten_lines_of_the_curvature_page_give_the_second_derivative(capsys):
    torch.manual_seed(0)
    names: dict = {}
    ten = program("as many directions as you like", "docs/curvature.md")
    assert len([line for line in ten.splitlines() if line]) <= 12
    exec(ten, names)
    exec(program("RULES[torch.ops.aten.sin.default]", "docs/curvature.md"), names)
    params, v = ({k: t.double() for k, t in names[which].items()} for which in ("params", "v"))
    batch = {k: t.double() for k, t in names["batch"].items()}

    def along(s):
        return names["loss_fn"]({k: p + s * v[k] for k, p in params.items()}, batch).sum()

    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    slope, bend = jvp(lambda s: jvp(along, (s,), (one,))[1], (zero,), (one,))
    assert names["found"].slopes.item() == pytest.approx(slope.item(), rel=1e-4)
    assert names["found"].curvatures.item() == pytest.approx(bend.item(), rel=1e-4)
    torch.testing.assert_close(names["by_rule"], names["by_autograd"], rtol=1e-4, atol=1e-6)


def test_the_example_of_a_plain_loop_runs(capsys):
    main = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["main"]
    for flags in ([], ["--muon"]):
        rows = main(["--steps", "3", "--every", "2", *flags])
        assert [row["step"] for row in rows if row["algorithm"] == "training"] == [0, 2]
        twin = "muon_adamw" if flags else "adam"
        (own,) = [row for row in rows if row["step"] == 2 and row["algorithm"] == "training"]
        (row,) = [row for row in rows if row["step"] == 2 and row["algorithm"] == twin]
        decay = 1e-2 if flags else 1e-1  # AdamW decays, the row adam does not
        assert own["sharpness"] == pytest.approx(row["sharpness"], rel=decay)


def test_the_example_of_a_trainer_runs(capsys):
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    rows = runpy.run_path(str(EXAMPLES / "trainer_run.py"))["main"](3, 2)
    assert {row["step"] for row in rows} == {0, 2}


def test_every_cell_of_the_notebook_runs_and_the_last_one_draws(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads((EXAMPLES / "landscape_probe.ipynb").read_text())
    assert notebook["nbformat"] == 4
    names: dict = {}
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        exec(compile(cell, "cell", "exec"), names)
    figure = names["figure"]
    assert "plt" in cells[-1] and len(figure.axes) == 3
    for axis in figure.axes:
        assert axis.get_xlabel() and axis.get_ylabel()
        assert all(
            len(line.get_xdata()) == len(names["steps"]) for line in axis.get_lines() if line.get_label()[0] != "_"
        )
