"""The table that users edit: labels, and one-line answers to a bad row that name the list and the row."""

import pytest
import torch

from algorithm_list import ALGORITHM_LISTS
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.algorithm import check_rows, choose_list, labelled


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
    assert list(labelled(rows)) == [
        "sgd",
        "sgd, coordinate_clip=0.1",
        "adam, betas=(0.9, 0.99)",
        "adam, betas=(0.9, 0.999)",
        "lion, lr=0.001",
        "lion, lr=0.0001",
        "adagrad",
    ]
    assert list(labelled(rows).values()) == rows


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
]


@pytest.mark.parametrize("row, answer", BAD_ROWS, ids=[f"{row!r}"[:40] for row, _ in BAD_ROWS])
def test_bad_row_is_answered_with_the_list_and_its_number(row, answer):
    with pytest.raises(ValueError, match=f"algorithm list 'mine', row 2: .*{answer}") as caught:
        check_rows("mine", [GOOD, row])
    assert "\n" not in str(caught.value)


def test_unknown_list_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown algorithm list 'workshp'; did you mean 'workshop'.*known: workshop"):
        choose_list(ALGORITHM_LISTS, "workshp")
    with pytest.raises(ValueError, match="'none' is empty"):
        choose_list({"none": []}, "none")


def test_rows_do_not_change():
    with pytest.raises(AttributeError, match="write a new row"):
        GOOD.step_size = 3.0
    with pytest.raises(TypeError):
        GOOD.options["lr"] = 3.0
    faster = GOOD.with_options(lr=1.0)
    assert faster.options["lr"] == 1.0 and GOOD.options["lr"] == 1e-3
