"""The table that users edit: labels, and one-line answers to a bad row that name the list and the row."""

from collections import UserDict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.optim import Optimizer
from torch.utils._python_dispatch import _get_current_dispatch_mode

from algorithm_list import ALGORITHM_LISTS
from figures.style import styles_of
from runs.tables import read_table
from tests.helpers import tiny_run
from torch_optimizer import OPTIMIZERS, Algorithm, SGDClip, ShadowStep
from torch_optimizer.rows import check_rows, choose_list, labeled, plain_sgd
from torch_optimizer.values import brief


@pytest.mark.parametrize("name", ALGORITHM_LISTS)
def test_every_list_is_usable_and_its_labels_are_unique(name):
    rows = choose_list(ALGORITHM_LISTS, name)
    assert len(rows) == len(ALGORITHM_LISTS[name])


def test_paper_lists_have_the_papers_rows():
    assert len(ALGORITHM_LISTS["workshop"]) == 7
    assert {row.options.get("coordinate_clip") for row in ALGORITHM_LISTS["workshop"]} == {None, 0.05}
    assert len(ALGORITHM_LISTS["machine_translation"]) == 12


@pytest.mark.parametrize("name", ALGORITHM_LISTS)
def test_rows_of_the_sgd_family_have_the_papers_momentum(name):
    if name.startswith("gradient_heterogeneity"):
        pytest.skip("the second paper compares with and without momentum")
    for row in ALGORITHM_LISTS[name]:
        if row.name in ("sgd", "normalized_sgd", "sign_sgd"):
            assert (row.options["momentum"], row.options["dampening"]) == (0.9, 0.9)
            assert row.options.get("zero_start", False) == name.startswith("workshop")


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS])
def test_every_registered_optimizer_works_as_a_row(name):
    Algorithm(name, lr=1e-3).check() if name != "adafactor" else Algorithm(name).check()


def test_label_shows_clipping_and_only_what_tells_rows_apart():
    rows = [
        Algorithm("sgd", lr=1e-3, momentum=0.9),
        Algorithm("sgd", lr=5e-3, momentum=0.9, coordinate_clip=0.1),
        Algorithm("adam", lr=1e-3, betas=(0.9, 0.99)),
        Algorithm("adam", lr=1e-3, betas=(0.9, 0.999)),
        Algorithm("lion", lr=1e-3),
        Algorithm("lion", lr=1e-4),
        Algorithm(torch.optim.Adagrad, lr=1e-4),
    ]
    assert list(labeled(rows)) == [
        "sgd",
        "sgd, coordinate_clip=0.1",
        "adam, betas=(0.9, 0.99)",
        "adam, betas=(0.9, 0.999)",
        "lion, lr=0.001",
        "lion, lr=0.0001",
        "adagrad",
    ]
    assert list(labeled(rows).values()) == rows


def test_a_label_gives_up_the_rate_first_and_then_what_is_written_last():
    assert list(labeled([Algorithm("sgd", lr=1.0), Algorithm("sgd", lr=2.0, momentum=0.9)])) == [
        "sgd",
        "sgd, momentum=0.9",
    ]
    assert list(labeled([Algorithm("adam", eps=1e-8, betas=(0, 0)), Algorithm("adam", eps=1e-3, betas=(0.5, 0))])) == [
        "adam, eps=1e-08",
        "adam, eps=0.001",
    ]


def test_own_classes_tell_their_steps_themselves():
    params = {"p": torch.nn.Parameter(torch.ones(2))}
    assert type(Algorithm("sgd").build_pseudo(params)) is SGDClip
    assert type(Algorithm("adamw").build_pseudo(params)) is ShadowStep


GOOD = Algorithm("sgd", lr=1e-3)
BAD_ROWS = [
    (Algorithm("sdg", lr=1e-3), "unknown optimizer 'sdg'; did you mean 'sgd'?"),
    (Algorithm("sgd", lr=1e-3, momentun=0.9), "sgd has no option 'momentun'; did you mean 'momentum'?"),
    (Algorithm("sgd", lr=-1.0), r"sgd cannot be used: lr must be a number in \[0, inf\), got -1.0"),
    (Algorithm("sgd", coordinate_clip=1.5), r"coordinate_clip must be a number in \[0, 1\), got 1.5"),
    (Algorithm("adam", lr="fast"), "adam cannot be used: lr must be a number"),
    (Algorithm("adafactor", relative_step=False), "adafactor cannot be used: .*lr"),
    (Algorithm("sgd", lr=1e-3, step_size=0.0), "step_size is a distance > 0"),
    (Algorithm("sgd", lr=1e-3), "is the same as row 1"),
    (Algorithm("sgd", lr=1e-3, step_size=2.0), "is the same as row 1"),
    (Algorithm(torch.optim.LBFGS, lr=1e-3), "lbfgs cannot be used"),
    (Algorithm(dict), "an optimizer is a name or a torch.optim.Optimizer class"),
    ("sgd", "expected Algorithm"),
    (["sgd"] * 99, "expected Algorithm"),
    *[
        (Algorithm("sgd", lr=1e-3, step_size=size), "step_size is")
        for size in ("1", True, [1.0], float("nan"), float("inf"), -1, Fraction(1, 3), torch.tensor(1.0), np.float32(1))
    ],
    (Algorithm("sgd", lr=1e-3, step_size=1e-300), "step_size must be a number that float32 can hold, .* got 1e-300"),
    (Algorithm("sgd", lr=Fraction(1, 3)), r"lr is written as a number like 0.1, got Fraction\(1, 3\)"),
    (Algorithm("adamw", lr=torch.tensor(0.1)), r"lr is written as a number like 0.1, got tensor\(0.1"),
    (Algorithm("adam", betas=(0.9, Decimal("0.99"))), r"betas is written as a number like 0.1, got Decimal\('0.99'\)"),
    *[
        (Algorithm("adam", **{option: value}), f"{option} must be a number that float32 can hold, 1e-45 to 3e.38, got")
        for option in ("lr", "eps", "weight_decay")
        for value in (10**400, 10**5000, 1e308, 1e-300, -(10**400))
    ],
    (Algorithm("adafactor", eps2=(1e-300, 1e-3)), "eps2 must be a number that float32 can hold"),
]


@pytest.mark.parametrize("row, answer", BAD_ROWS, ids=[brief(row) for row, _ in BAD_ROWS])
def test_bad_row_is_answered_with_the_list_and_its_number(row, answer):
    with pytest.raises(ValueError, match=f"algorithm list 'mine', row 2: .*{answer}") as caught:
        check_rows("mine", [GOOD, row])
    assert "\n" not in str(caught.value)


def test_unknown_list_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown algorithm list 'workshp'; did you mean 'workshop'.*known: workshop"):
        choose_list(ALGORITHM_LISTS, "workshp")
    with pytest.raises(ValueError, match="'none' is empty"):
        choose_list({"none": []}, "none")


NO_LISTS = [GOOD, (row for row in [GOOD]), {"sgd": GOOD}, {GOOD}, "sgd", None, 3]


@pytest.mark.parametrize("rows", NO_LISTS, ids=lambda rows: type(rows).__name__)
def test_what_is_no_list_of_rows_is_answered_in_one_line(rows):
    with pytest.raises(ValueError, match=r"^algorithm list 'mine' is a list of rows, \[Algorithm.*, got ") as caught:
        choose_list({"mine": rows}, "mine")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 150


# ---- the check goes the way of a run ------------------------------------------------------------------------------


class Mine(Optimizer):
    """Steps of -lr; subclasses lack one thing that a run needs."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(self.param_groups[0].get("lr", 0.1))


class NoStep(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))


class OtherRate(Mine):
    def __init__(self, params, learning_rate=0.1):
        Optimizer.__init__(self, params, dict(learning_rate=learning_rate))


class SilentError(Mine):
    def step(self, closure=None):
        raise NotImplementedError


class TwoLines(Mine):
    def step(self, closure=None):
        raise RuntimeError("first\n  second")


class MatricesOnly(Mine):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            if p.ndim != 2:
                raise ValueError("matrices only")


class SecondStep(Mine):
    """Takes one step, and no second one."""

    def step(self, closure=None):
        p = self.param_groups[0]["params"][0]
        if self.state[p].setdefault("step", 0):
            raise RuntimeError("no second step")
        self.state[p]["step"] += 1


class NotStorable(Mine):
    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["kept"] = UserDict(a=1)


class ForgetsItsState(Mine):
    """Its state does not survive a checkpoint, as where a momentum is looked for that only the first step makes."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.buffers = {}

    def load_state_dict(self, state_dict):
        raise KeyError("buffers")


class NotMeasurable(Mine):
    """Trains, and fails where its step is watched."""

    def step(self, closure=None):
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("cannot be watched")


LACKING = [
    (NotMeasurable, "cannot be watched"),
    (NoStep, "its class has no method step()"),
    (OtherRate, "its rate must be called lr in param_groups, as in torch.optim; it has learning_rate"),
    (SilentError, "NotImplementedError"),
    (TwoLines, "first second"),
    (MatricesOnly, "matrices only"),
    (SecondStep, "no second step"),
    (NotStorable, "its state_dict() cannot be stored in a checkpoint: "),
    (ForgetsItsState, "'buffers'"),
]


@pytest.mark.parametrize(("optimizer_class", "reason"), LACKING, ids=lambda v: getattr(v, "__name__", ""))
def test_a_class_that_would_die_in_the_run_is_refused_with_the_reason(optimizer_class, reason):
    with pytest.raises(ValueError) as caught:
        check_rows("mine", [GOOD, Algorithm(optimizer_class)])
    start = f"algorithm list 'mine', row 2: {optimizer_class.__name__.lower()} cannot be used: {reason}"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


def test_a_check_draws_no_random_numbers():
    class Noisy(Mine):
        def step(self, closure=None):
            torch.randn(3)

    before = torch.get_rng_state()
    Algorithm(Noisy).check()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("same", [(0.9, 0.99), [0.9, 0.99]])
def test_rows_are_compared_by_value(same):
    with pytest.raises(ValueError, match="is the same as row 1"):
        check_rows("mine", [Algorithm("adam", betas=(0.9, 0.99)), Algorithm("adam", betas=same)])
    check_rows("mine", [Algorithm("adam", betas=(0.9, 0.99)), Algorithm("adam", betas=(0.9, 0.9900001))])


def test_two_classes_of_one_name_are_refused_where_their_labels_are_the_same():
    twin = type("Mine", (Mine,), {})
    with pytest.raises(ValueError, match="row 2: its label, 'mine', is that of row 1; rename the class of one"):
        check_rows("mine", [Algorithm(Mine), Algorithm(twin)])


def test_the_rate_of_a_row_is_what_it_trains_with():
    assert Algorithm("sgd", lr=0.5).lr == 0.5
    assert Algorithm("adam").lr == 1e-3  # the default of its class
    assert Algorithm("muon", lr=0.02).lr == 0.02
    assert Algorithm("adafactor").lr is None


@pytest.mark.parametrize("name", ALGORITHM_LISTS)
def test_figures_take_the_same_rows_for_clipped_and_for_plain_sgd(name):
    """Figures read config.json and import no torch, so they cannot ask the row itself."""
    rows = labeled(ALGORITHM_LISTS[name])
    styles = styles_of([{"label": k, "name": row.name, "options": dict(row.options)} for k, row in rows.items()])
    assert {label: style.clipped for label, style in styles.items()} == {k: row.is_clipped for k, row in rows.items()}
    assert next(label for label in rows if styles[label].is_plain_sgd) == plain_sgd(rows)


def test_plain_sgd_is_the_first_sgd_row_without_clipping():
    rows = labeled([
        Algorithm("adam"), Algorithm("sgd", coordinate_clip=0.1), Algorithm("sign_sgd"),
        Algorithm("sgd", coordinate_clip=0.0, momentum=0.9), Algorithm("sgd", momentum=0.5),
    ])  # fmt: skip
    assert plain_sgd(rows) == list(rows)[3]
    assert plain_sgd(labeled([Algorithm("sgd", coordinate_clip=0.1)])) is None


def test_rows_do_not_change():
    with pytest.raises(AttributeError, match="write a new row"):
        GOOD.step_size = 3.0
    with pytest.raises(TypeError):
        GOOD.options["lr"] = 3.0
    faster = GOOD.with_options(lr=1.0)
    assert faster.options["lr"] == 1.0 and GOOD.options["lr"] == 1e-3


def test_every_modern_optimizer_is_measured_in_every_norm_and_trains(tmp_path, tiny_task):
    """Muon for the matrices and AdamW for the rest, torch's own Adafactor and the others: on the tiny task."""
    flags = [*tiny_run.FLAGS.split(), "--algorithm_list", "modern", "--num_epochs", "2"]
    measured = [*flags, "--test_epochs", "1", "2", "--test_batch_size", "8", "--skip_search"]
    assert tiny_run.main("landscape", [*measured, "--output_dir", str(tmp_path / "measured")]) == 0
    rows = read_table(tmp_path / "measured" / "sharpness.csv")
    labels = labeled(ALGORITHM_LISTS["modern"])
    for label in labels:
        own = [row for row in rows if row["algorithm"] == label]
        assert own and all(row[f"sharpness{norm}"] is not None for row in own for norm in ("", "_inf", "_spectral"))
        assert any(row["edge_quadratic"] is not None for row in own), f"{label} never steps downhill"
    assert {row.optimizer_class.__name__ for row in labels.values()} >= {"MuonAdamW", "AdamW", "NAdam", "RAdam", "Lion"}
    assert labels["adafactor"].optimizer_class is torch.optim.Adafactor
    assert tiny_run.main("convergence", [*flags, "--output_dir", str(tmp_path / "trained")]) == 0
    assert [row["algorithm"] for row in read_table(tmp_path / "trained" / "summary.csv")] == list(labels)
