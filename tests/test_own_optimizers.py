"""Rows of one's own: lists in a file, a class by its place, options for some parameters, two sets of weights."""

import json
import signal
import sys

import pytest
import torch
from torch.nn import Parameter

from runs.config import read_config
from runs.tables import read_table
from tests.helpers.stored_runs import LANDSCAPE, files, landscape, refused, stop_at, tables
from tests.helpers.tiny_run import FLAGS, main
from torch_optimizer import Algorithm
from torch_optimizer.rows import check_rows, labeled, labels_of

pytestmark = pytest.mark.usefixtures("tiny_task")
FILE = """
import torch
from torch_optimizer import Algorithm


class Signed(torch.optim.SGD):
    pass


MINE = [
    Algorithm("sgd", lr=0.1),
    Algorithm(Signed, lr=0.1),
    Algorithm("torch.optim:AdamW", lr=0.01, weight_decay=0.5, groups=[{"params": "bias", "weight_decay": 0.0}]),
]
OTHER = 3
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "lists" / "own_lists_for_a_test.py"
    path.parent.mkdir()
    path.write_text(FILE)
    yield path
    sys.modules.pop(path.stem, None)
    sys.path[:] = [place for place in sys.path if place != str(path.parent)]


# ---- a list in a file --------------------------------------------------------------------------------------------


def test_a_list_in_a_file_is_measured_resumed_and_kept_with_its_groups(own_file, tmp_path, monkeypatch, capfd):
    name, folder, whole = f"{own_file}:MINE", tmp_path / "run", tmp_path / "whole"
    assert landscape(*LANDSCAPE, "--algorithm_list", name, "--output_dir", whole) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 12)
        assert landscape(*LANDSCAPE, "--algorithm_list", name, "--output_dir", folder) == 128 + signal.SIGTERM
    rows = read_config(folder)["algorithms"]
    assert [row["label"] for row in rows] == ["sgd", "signed", "adamw"]
    assert rows[2]["groups"] == [{"params": "bias", "weight_decay": 0.0}] and "groups" not in rows[0]
    assert {"sgd", "signed", "adamw"} < {row["algorithm"] for row in read_table(folder / "sharpness.csv")}
    assert f"--resume {folder} --algorithm_list {name}\n" in capfd.readouterr().err
    refused(
        ["--resume", folder],
        f"is in a Python file, which is run only if it is given: --algorithm_list {name}",
        folder,
        capfd,
    )
    own_file.write_text(FILE.replace('"weight_decay": 0.0', '"weight_decay": 0.25'))
    answer = r"row 'adamw' is \(.*'weight_decay': 0.25.*was .*'weight_decay': 0.0"
    refused(["--resume", folder, "--algorithm_list", name], answer, folder, capfd)
    own_file.write_text(FILE)
    assert landscape("--resume", folder, "--algorithm_list", name) == 0
    assert tables(folder) == tables(whole)


@pytest.mark.parametrize("change, name, answer", [
    ({}, "NINE", r"has no NINE; did you mean 'MINE'\? its lists are MINE"),
    ({}, "OTHER", r"is a list of rows, \[Algorithm"),
    ({"import torch\n": "import nothing_like_it\n"}, "MINE", "cannot be run: ModuleNotFoundError: No module named"),
    ({"class Signed": "klass Signed"}, "MINE", "cannot be run: SyntaxError"),
    ({'"bias"': '"nothing"'}, "MINE", "row 'adamw': adamw: 'nothing' of groups is in none of the names left: 0.weight"),
])  # fmt: skip
def test_a_wrong_file_is_answered_in_one_line(change, name, answer, own_file, tmp_path, capfd):
    text = FILE
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    own_file.write_text(text)
    flags = [*LANDSCAPE, "--algorithm_list", f"{own_file}:{name}", "--output_dir", str(tmp_path / "run")]
    refused(flags, answer, tmp_path, capfd)


def test_a_file_that_is_not_there_is_answered_in_one_line(tmp_path, capfd):
    flags = ["--algorithm_list", str(tmp_path / "no.py:MINE"), "--output_dir", str(tmp_path / "run")]
    refused(flags, "there is no file .*no.py", tmp_path, capfd)
    assert files(tmp_path) == {}


def test_a_file_that_a_config_names_is_never_run(own_file, tmp_path, capfd):
    folder = tmp_path / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 0
    own_file.write_text(f"open({str(tmp_path / 'it has run')!r}, 'w')\nMINE = []\n")
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["algorithm_list"] = f"{own_file}:MINE"
    (folder / "config.json").write_text(json.dumps(config))
    capfd.readouterr()
    refused(["--resume", folder], "run only if it is given", folder, capfd)
    assert not (tmp_path / "it has run").exists()


# ---- a class by its place ----------------------------------------------------------------------------------------


def test_a_row_names_any_class_that_can_be_imported():
    row = Algorithm("torch.optim:NAdam", lr=0.1)
    row.check()
    assert (row.name, row.optimizer_class) == ("nadam", torch.optim.NAdam)


@pytest.mark.parametrize("place, answer", [
    ("nothing.like.it:Adam", "'nothing.like.it:Adam' cannot be imported: No module named 'nothing'"),
    ("torch.optim:Adamm", "torch.optim has no 'Adamm'; did you mean 'Adam'"),
    ("math:sqrt", "an optimizer is a name or a torch.optim.Optimizer class"),
    ("torch.optim:LBFGS", "LBFGS evaluates the loss within its step"),
    ("tests.test_own_optimizers:SecondOrder", "its step differentiates the gradient once more"),
])  # fmt: skip
def test_a_class_that_cannot_be_measured_is_refused_with_the_reason(place, answer):
    with pytest.raises(ValueError, match=answer) as error:
        check_rows("mine", [Algorithm(place, lr=0.1)])
    assert "\n" not in str(error.value)


class SecondOrder(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                torch.autograd.grad(p.grad.sum(), p)


# ---- options for some parameters ---------------------------------------------------------------------------------


def parameters():
    torch.manual_seed(0)
    return {
        "a.weight": Parameter(torch.randn(2, 3)),
        "a.bias": Parameter(torch.randn(3)),
        "norm": Parameter(torch.ones(3)),
    }


def test_groups_give_the_parameters_that_match_their_options_the_first_pattern_first():
    groups = [{"params": r"bias", "weight_decay": 0.0}, {"params": r"norm|bias", "lr": 0.5}]
    params = parameters()
    optimizer = Algorithm("torch.optim:AdamW", lr=0.1, weight_decay=0.2, groups=groups).build(params)
    found = [(group["params"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [([params["a.weight"]], 0.1, 0.2), ([params["a.bias"]], 0.1, 0.0), ([params["norm"]], 0.5, 0.2)]


@pytest.mark.parametrize("name", ["adam", "torch.optim:Adam"])
def test_the_direction_of_a_row_with_groups_is_that_of_the_optimizer_built_by_hand(name):
    groups = [{"params": "bias", "lr": 0.5, "weight_decay": 0.3}]
    params, by_hand = parameters(), parameters()
    pseudo = Algorithm(name, lr=0.1, groups=groups).build_pseudo(params)
    rest = [p for n, p in by_hand.items() if "bias" not in n]
    optimizer = torch.optim.Adam(
        [{"params": rest}, {"params": [by_hand["a.bias"]], "lr": 0.5, "weight_decay": 0.3}], lr=0.1
    )
    before = {n: p.detach().clone() for n, p in by_hand.items()}
    for n in params:
        params[n].grad = by_hand[n].grad = torch.sin(before[n] * 3)
    directions = pseudo.directions()
    optimizer.step()
    for n, p in params.items():
        lr = 0.5 if "bias" in n and name == "adam" else 0.1  # a foreign optimizer's rates are folded into v
        torch.testing.assert_close(directions[p] * lr, by_hand[n].detach() - before[n], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("groups, answer", [
    ({"params": "bias"}, r"groups is a list like \[\{"),
    ([{"params": "bias"}], "a group is a pattern and an option"),
    ([{"weight_decay": 0.1}], "a group is a pattern and an option"),
    ([{"params": "(", "lr": 0.1}], r"'\(' of groups is not a regular expression"),
    ([{"params": "bias", "weigth_decay": 0.1}], "has no option 'weigth_decay'; did you mean 'weight_decay'"),
    ([{"params": "bias", "weight_decay": -0.1}], "cannot be used: .*weight_decay"),
])  # fmt: skip
def test_wrong_groups_are_answered_in_one_line(groups, answer):
    with pytest.raises(ValueError, match=answer) as error:
        Algorithm("adam", lr=0.1, groups=groups).check()
    assert "\n" not in str(error.value)


def test_an_optimizer_that_sorts_parameters_itself_takes_no_groups():
    with pytest.raises(ValueError, match="muon_adamw sorts the parameters itself and takes no groups"):
        Algorithm("muon_adamw", groups=[{"params": "bias", "lr": 0.1}]).check()


def test_rows_that_differ_in_their_groups_have_different_labels():
    groups = [{"params": "bias|norm", "weight_decay": 0.0}]
    rows = [Algorithm("adamw", lr=0.1), Algorithm("adamw", lr=0.1, groups=groups)]
    check_rows("mine", rows)
    assert labels_of(rows) == ["adamw", "adamw, groups=bias|norm weight_decay=0.0"]
    assert list(labeled(rows[1:])) == ["adamw"]
    with pytest.raises(ValueError, match="row 2: .* is the same as row 1"):
        check_rows("mine", [rows[1], Algorithm("adamw", lr=0.1, groups=[dict(groups[0])])])


def test_a_clip_in_a_group_makes_a_row_clipped():
    assert Algorithm("sgd", lr=0.1, groups=[{"params": "bias", "coordinate_clip": 0.1}]).is_clipped


# ---- two sets of weights -----------------------------------------------------------------------------------------


class TwoSets(torch.optim.SGD):
    """As a schedule-free optimizer: steps are taken in train mode, and the weights to use are others."""

    def train(self):
        self._move(-1.0)

    def eval(self):
        self._move(1.0)

    @torch.no_grad()
    def _move(self, by):
        group = self.param_groups[0]
        if group.get("evaluating", False) == (by > 0):
            return
        group["evaluating"] = by > 0
        for p in group["params"]:
            p.add_(by)

    def step(self, closure=None):
        if self.param_groups[0].get("evaluating"):
            raise RuntimeError("not in train mode")
        return super().step(closure)


def test_a_model_is_saved_and_scored_with_the_weights_that_are_to_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.helpers.tiny_run.ROWS", [Algorithm("sgd", lr=0.1), Algorithm(TwoSets, lr=0.1)])
    flags = [*FLAGS.split(), "--num_epochs", "1", "--save_model", "--output_dir", str(tmp_path / "run")]
    assert main("convergence", flags) == 0
    by_sgd, by_two = (
        torch.load(next((tmp_path / "run/model").glob(f"*-{name}")) / "model.pt") for name in ("sgd", "twosets")
    )
    for name, tensor in by_sgd.items():
        is_parameter = name.endswith(("weight", "bias"))
        torch.testing.assert_close(by_two[name], tensor + 1.0 if is_parameter else tensor)
