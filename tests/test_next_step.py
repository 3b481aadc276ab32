"""The next step of a living optimizer is the one that it then takes, and looking at it changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from torch_optimizer import SGDClip
from torch_optimizer.adafactor import Adafactor
from torch_optimizer.muon_adamw import MuonAdamW
from torch_optimizer.next_step import next_step

OPTIM = torch.optim


def parameters(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden.weight": (6, 5), "hidden.bias": (6,)}
    return {
        n: nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for n, s in shapes.items()
    }


def set_grads(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params.values():
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def everything(params, optimizer):
    """Whatever must not change, as a copy."""
    found = [(p.detach(), p.grad) for p in params.values()], optimizer.state_dict(), torch.get_rng_state()
    return copy.deepcopy(found)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


class Noisy(OPTIM.Optimizer):
    """Draws random numbers, and keeps what torch's own copy of an optimizer forgets."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))
        self.sizes = {"noise": 2.0}

    @torch.no_grad()
    def step(self, closure=None):
        self.sizes["noise"] /= 2
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * (p.grad + self.sizes["noise"] * torch.randn_like(p))


MAKERS = {
    "SGD": lambda params: OPTIM.SGD(params.values(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "AdamW": lambda params: OPTIM.AdamW(params.values(), lr=1e-2),
    "fused": lambda params: OPTIM.AdamW(params.values(), lr=1e-2, fused=True),
    "tensor lr": lambda params: OPTIM.Adam(params.values(), lr=torch.tensor(1e-2), foreach=False),
    "two groups": lambda params: OPTIM.Adam(
        [{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params.values())]
    ),
    "ours": lambda params: SGDClip(params.values(), lr=0.1, momentum=0.9, dampening=0.9, coordinate_clip=0.1),
    "own rate": lambda params: Adafactor(params.values()),
    "MuonAdamW": lambda params: MuonAdamW(params.items(), lr=0.02),
    "Noisy": lambda params: Noisy(params.values()),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_the_next_step_is_the_one_taken_and_nothing_else_has_changed(maker):
    params = parameters()
    optimizer = MAKERS[maker](params)
    schedule = None if maker == "own rate" else LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for seed in range(3):
        set_grads(params, seed)
        before = everything(params, optimizer)
        v, lr = next_step(optimizer, params)
        assert same(everything(params, optimizer), before)
        start = {name: p.detach().clone() for name, p in params.items()}
        optimizer.step()
        if schedule:
            assert lr == pytest.approx(schedule.get_last_lr()[0])
            schedule.step()
        for name, p in params.items():
            torch.testing.assert_close(lr * v[name], p.detach() - start[name], rtol=1e-12, atol=1e-15)


def test_coordinates_far_below_the_rounding_of_their_parameter_are_kept():
    p = nn.Parameter(torch.tensor([100.0]))
    p.grad = torch.tensor([3e-7])
    v, lr = next_step(OPTIM.SGD([p], lr=0.5), {"x": p})
    assert lr == 0.5 and v["x"].item() == pytest.approx(-3e-7, rel=1e-6)


def test_bfloat16_parameters_step_as_they_do_but_the_direction_is_not_rounded_to_them():
    params = parameters(torch.bfloat16)
    set_grads(params, 0)
    v, _ = next_step(OPTIM.SGD(params.values(), lr=0.1), params)
    for name, p in params.items():
        assert v[name].dtype == torch.float32
        torch.testing.assert_close(v[name], -p.grad.float(), rtol=1e-5, atol=0)


def test_parameters_that_the_optimizer_has_not_or_that_have_no_gradient_stay():
    params = parameters() | {"other": nn.Parameter(torch.ones(2))}
    set_grads(params, 0)
    params["hidden.bias"].grad = None
    v, _ = next_step(OPTIM.SGD([params["hidden.weight"], params["hidden.bias"]], lr=0.1), params)
    assert not v["other"].any() and not v["hidden.bias"].any() and v["hidden.weight"].all()


def test_at_a_rate_of_zero_there_is_no_step():
    params = parameters()
    set_grads(params, 0)
    v, lr = next_step(OPTIM.AdamW(params.values(), lr=0.0), params)
    assert lr == 1.0 and not any(t.any() for t in v.values())


def test_a_wrapped_optimizer_is_the_one_inside():
    class AcceleratedOptimizer(OPTIM.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, closure=None):
            raise AssertionError("the wrapper steps")

    AcceleratedOptimizer.__module__ = "accelerate.optimizer"
    params = parameters()
    set_grads(params, 0)
    inside = OPTIM.SGD(params.values(), lr=0.1)
    assert same(next_step(AcceleratedOptimizer(inside), params), next_step(inside, params))


def test_what_cannot_step_on_copies_is_refused_in_one_line():
    class Holding(OPTIM.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.file = open(__file__)  # noqa: SIM115, PTH123

    params = parameters()
    with pytest.raises(ValueError, match="no parameter has a gradient: call backward"):
        next_step(OPTIM.SGD(params.values(), lr=0.1), params)
    set_grads(params, 0)
    with pytest.raises(ValueError, match=r"^LBFGS evaluates the loss within its step[^\n]+$"):
        next_step(OPTIM.LBFGS(params.values()), params)
    holding = Holding(params.values())
    with holding.file, pytest.raises(ValueError, match=r"^Holding cannot be copied[^\n]+$"):
        next_step(holding, params)
