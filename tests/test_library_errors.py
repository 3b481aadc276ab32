"""What a caller of the library gets wrong is answered in one line that says what is wanted."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from curvature.borrowing import measuring
from curvature.objective import functional_loss, halves, trainable_parameters
from landscape_utils import (
    Direction,
    PseudoUpdates,
    directional_sharpness,
    mean_loss,
    vhv_by_double_backward,
    vhv_by_recording,
)
from torch_optimizer import Algorithm

X, Y = torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
BATCH = {"x": X, "y": Y}


def each(forward, batch):
    return F.cross_entropy(forward(batch["x"]), batch["y"], reduction="none")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2))


def measure(loss_fn, model, directions=None, batches=None, **more):
    params = trainable_parameters(model)
    directions = [{n: torch.ones_like(p) for n, p in params.items()}] if directions is None else directions
    return directional_sharpness(loss_fn, params, directions, [BATCH] if batches is None else batches, **more)


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("route", [vhv_by_recording, vhv_by_double_backward])
@pytest.mark.parametrize(
    "losses, got",
    [
        (lambda losses: losses.mean(), "got a scalar: leave out the mean"),
        (lambda losses: losses.view(2, 2), r"got shape \[2, 2\]: average"),
        (lambda losses: (losses, None), "got tuple"),
    ],
)
def test_losses_that_are_not_one_per_example_are_refused_alike_by_both_routes(model, route, losses, got):
    model.eval()
    loss_fn = functional_loss(model, lambda f, b: losses(each(f, b)))
    params = trainable_parameters(model)
    with pytest.raises(ValueError, match=r"one loss per example, a tensor of shape \[B\]; " + got) as error:
        route(loss_fn, params, [params], BATCH)
    message(error)
    with pytest.raises(ValueError, match="one loss per example"):
        mean_loss(loss_fn, params, [BATCH])


def test_the_model_is_called_as_it_likes(model):
    model.eval()
    by_place = measure(functional_loss(model, each), model)
    by_name = measure(functional_loss(model, lambda f, b: each(lambda x: f(input=x), b)), model)
    assert by_place == by_name


def test_directions_and_batches_are_lists(model):
    model.eval()
    loss_fn, v = functional_loss(model, each), trainable_parameters(model)
    for directions, wanted in (({"sgd": v}, "list(directions.values())"), (v, "pass [direction]")):
        with pytest.raises(ValueError) as error:
            measure(loss_fn, model, directions=directions)
        assert wanted in message(error)
    for measurement in (lambda: measure(loss_fn, model, batches=BATCH), lambda: mean_loss(loss_fn, v, BATCH)):
        with pytest.raises(ValueError) as error:
            measurement()
        assert "pass [batch]" in message(error)


def test_advance_without_a_gradient_asks_for_backward(model):
    updates = PseudoUpdates(dict(model.named_parameters()), {"sgd": Algorithm("sgd", lr=1.0)})
    with pytest.raises(ValueError, match=r"no parameter has a gradient: call backward\(\)"):
        updates.advance()


def test_losses_that_do_not_depend_on_the_given_parameters_are_refused(model):
    model.eval()
    wrong = {
        "of the model's own": lambda p, b: each(model, b),
        "without graph": torch.no_grad()(functional_loss(model, each)),
        "constant": lambda p, b: torch.ones(4),
    }
    for loss_fn in wrong.values():
        with pytest.raises(ValueError, match="do not depend on the parameters") as error:
            measure(loss_fn, model)
        message(error)


def test_active_dropout_is_an_error_and_dropout_that_does_nothing_is_none(model):
    loss_fn = functional_loss(model, each)
    with pytest.raises(ValueError, match=r"differ from one evaluation to the next.*model.eval\(\)") as error:
        measure(loss_fn, model)
    message(error)
    with measuring(model):
        expected = measure(loss_fn, model)
    model[2].p = 1e-30  # draws, and drops nothing
    (quadratic,) = measure(loss_fn, model)
    assert quadratic.sharpness == pytest.approx(expected[0].sharpness, rel=1e-5)


def test_an_entry_is_cut_only_where_the_caller_names_it(model):
    model.eval()
    batch = {**BATCH, "scale": torch.tensor([1.0, 2.0, 3.0, 4.0]), "note": None, "names": ["a", "b", "c", "d"]}

    def loss_fn(params, batch):
        own = functional_loss(model, each)(params, batch)
        return own * batch["scale"].sum()  # not one entry per example, although it is as long

    (whole,) = measure(loss_fn, model, batches=[batch])
    (halved,) = measure(loss_fn, model, batches=[batch], per_example=["x", "y", "names"])
    assert halved.sharpness == pytest.approx(whole.sharpness, rel=1e-5)
    first, second = halves(batch, ["x", "y", "names"])
    assert (first["names"], second["names"]) == (["a", "b"], ["c", "d"])
    assert first["note"] is None and torch.equal(second["scale"], batch["scale"])


@pytest.mark.parametrize(
    "names, said",
    [(["x", "nothing"], "'nothing'"), (["x", "note"], "'note'"), (["x", "short"], "x 4, short 2")],
)
def test_names_that_hold_no_examples_are_refused(model, names, said):
    model.eval()
    batch = {**BATCH, "note": None, "short": torch.ones(2)}
    with pytest.raises(ValueError, match=said) as error:
        measure(functional_loss(model, each), model, batches=[batch], per_example=names)
    message(error)


def test_a_direction_without_length_has_no_unit_vector():
    for values in (0.0, float("nan"), float("inf")):
        v = Direction({"x": torch.full((3,), values)})
        assert not v.has_length
        with pytest.raises(ValueError, match="has no unit vector"):
            v.unit()
