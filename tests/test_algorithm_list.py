"""The lists, their labels, and the protocols of the tasks that name them."""

import pytest
import torch

from algorithm_list import ALGORITHM_LISTS
from tasks import TASKS, task_defaults
from torch_optimizer import Algorithm
from torch_optimizer.algorithm import check_rows, choose_list, labelled
from training import SCHEDULERS, make_scheduler

SIX = ["adam", "rmsprop", "sgd", "sgd, momentum=0.9", "sign_sgd", "sign_sgd, momentum=0.9"]


@pytest.mark.parametrize("name", ALGORITHM_LISTS)
def test_every_list_passes_its_own_check(name):
    check_rows(name, ALGORITHM_LISTS[name])


@pytest.mark.parametrize("name", [name for name in ALGORITHM_LISTS if name.startswith("gradient_heterogeneity")])
def test_the_second_papers_rows_are_labelled_by_momentum_not_by_learning_rate(name):
    assert list(choose_list(ALGORITHM_LISTS, name)) == SIX


@pytest.mark.parametrize(
    ("name", "rates"),
    [("roberta-rte", [1e-5, 1e-5, 0.01, 0.001, 1e-5, 1e-6]), ("roberta-cb", [1e-4, 1e-5, 0.1, 0.01, 1e-5, 1e-5]),
     ("vit-aircraft", [1e-5, 1e-5, 0.5, 0.01, 1e-5, 1e-5])],
)  # fmt: skip
def test_the_second_papers_learning_rates(name, rates):
    rows = choose_list(ALGORITHM_LISTS, f"gradient_heterogeneity/{name}")
    assert [rows[label].options["lr"] for label in SIX] == rates


def test_sign_descent_with_momentum_is_signum_from_its_first_step_on():
    row = choose_list(ALGORITHM_LISTS, "gradient_heterogeneity")["sign_sgd, momentum=0.9"].with_options(lr=1.0)
    x = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer, average = row.build([x]), torch.zeros(50, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x.grad = torch.randn(50, generator=generator, dtype=torch.float64)
        average = 0.9 * average + 0.1 * x.grad  # Signum: an average that starts at zero
        before = x.detach().clone()
        optimizer.step()
        assert torch.equal(x.detach() - before, -average.sign())


def test_labels_show_as_few_options_as_tell_rows_apart():
    def labels(*rows):
        return list(labelled(rows))

    rates = labels(Algorithm("sgd", lr=0.1), Algorithm("sgd", lr=0.2))
    assert rates == ["sgd, lr=0.1", "sgd, lr=0.2"]
    nested = Algorithm("sgd", lr=0.1), Algorithm("sgd", lr=0.2, momentum=0.9), Algorithm("sgd", lr=0.3, momentum=0.9)
    assert labels(*nested) == ["sgd, lr=0.1", "sgd, lr=0.2", "sgd, lr=0.3"]
    crossed = [Algorithm("adam", lr=lr, eps=eps) for lr in (1, 2) for eps in (3, 4)]
    assert len(set(labels(*crossed))) == 4


@pytest.mark.parametrize("task", TASKS)
def test_every_task_names_a_list_and_a_schedule_that_exist(task):
    for defaults in (task_defaults(task), task_defaults(task, "toy", "toy")):
        assert defaults.algorithm_list in ALGORITHM_LISTS
        assert defaults.lr_scheduler in SCHEDULERS


@pytest.mark.parametrize(
    ("task", "batch_size", "num_epochs", "schedule"),
    [("glue/rte", 8, 20, "linear"), ("super_glue/cb", 8, 20, "linear"), ("glue/cola", 32, 20, "linear"),
     ("flowers102", 32, 50, "epoch_warmup"), ("aircraft", 32, 100, "epoch_warmup")],
)  # fmt: skip
def test_the_second_papers_protocol(task, batch_size, num_epochs, schedule):
    defaults = task_defaults(task)
    assert (defaults.batch_size, defaults.num_epochs, defaults.lr_scheduler) == (batch_size, num_epochs, schedule)
    assert defaults.max_grad_norm == 1.0
    assert defaults.dataset_size is None


def rates(name, num_epochs, steps_per_epoch, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make_scheduler(name, optimizer, num_epochs, steps_per_epoch, **options), []
    for _ in range(num_epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_epoch_warmup_rises_from_a_third_in_a_step_an_epoch():
    expected = [1 / 3] * 2 + [2 / 3] * 2 + [1.0] * 36  # 10 % of 20 epochs, 2 updates each
    assert rates("epoch_warmup", 20, 2) == pytest.approx(expected)
    assert rates("epoch_warmup", 3, 2, warmup_ratio=0) == [1.0] * 6


def test_linear_schedule_falls_to_zero_over_all_updates():
    assert rates("linear", 2, 5) == pytest.approx([1 - step / 10 for step in range(10)])
    assert rates("linear_with_warmup", 2, 5) == pytest.approx([0.0] + [1 - step / 9 for step in range(9)])
