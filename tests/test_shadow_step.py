"""An optimizer of another package, as a row, takes the step of a real run, and each coordinate of it is kept."""

import math

import pytest
import torch
from torch import nn

from torch_optimizer import Algorithm, ShadowStep
from torch_optimizer.exact_moves import ExactMoves

OPTIM = torch.optim


def parameters(dtype=torch.float32, shapes=((6, 5), (5, 7))):
    generator = torch.Generator().manual_seed(0)
    return {f"p{i}": nn.Parameter((10 * torch.randn(s, generator=generator)).to(dtype)) for i, s in enumerate(shapes)}


def set_grads(params, seed):
    """Gradients of sizes 1e-9 to 1, so that most moves are far below the parameters' rounding."""
    generator = torch.Generator().manual_seed(seed)
    for p in params.values():
        size = 10.0 ** -(9 * torch.rand(p.shape, generator=generator))
        p.grad = (size * torch.randn(p.shape, generator=generator).sign()).to(p.dtype)


def shadow(row, params):
    return ShadowStep(row.build, params)


class Plain(torch.optim.Optimizer):
    """What a user may write: lr alone. Subclasses say how one parameter moves."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group["lr"])


# ---- the rule is that of the real run -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-4, 1e-8])
@pytest.mark.parametrize("foreach", [False, True])
def test_torch_adafactor_keeps_the_epsilon_of_the_parameters_dtype(size, foreach):
    # its first step on a vector: u = g / max(|g|, eps1), v = -RMS(x) u / max(1, RMS(u)), eps1 that of float32
    x, g = torch.tensor([3.0, -4.0, 100.0]), size * torch.tensor([1.0, -2.0, 1e-3])
    p = nn.Parameter(x)
    p.grad = g
    direction = shadow(Algorithm(OPTIM.Adafactor, lr=1e-3, foreach=foreach), {"p": p}).directions()[p]
    u = g.double() / g.double().abs().clamp(min=torch.finfo(torch.float32).eps)
    rms = [math.sqrt(v.double().square().mean()) for v in (x, u)]
    torch.testing.assert_close(direction.double(), -rms[0] * u / max(1, rms[1]), rtol=3e-6, atol=0)


CLASSES = [
    (OPTIM.AdamW, {}),
    (OPTIM.AdamW, dict(foreach=True)),
    (OPTIM.AdamW, dict(fused=True)),
    (OPTIM.Adam, dict(weight_decay=0.1)),
    (OPTIM.RMSprop, dict(momentum=0.9)),
    (OPTIM.NAdam, {}),
    (OPTIM.RAdam, dict(decoupled_weight_decay=True, weight_decay=0.1)),
    (OPTIM.Muon, {}),
    (OPTIM.Muon, dict(adjust_lr_fn="match_rms_adamw")),
    (OPTIM.Adagrad, {}),
    (OPTIM.SGD, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
]


@pytest.mark.parametrize(("optimizer_class", "options"), CLASSES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_small_moves_are_those_of_a_run_in_float64(optimizer_class, options):
    params, exact, real = parameters(), parameters(torch.float64), parameters()
    row = Algorithm(optimizer_class, lr=1e-3, **options)
    shadowed, reference, running = shadow(row, params), row.build(exact), row.build(real)
    for step in range(6):  # RAdam is plain momentum in the first five
        set_grads(params, step)
        before = {name: p.detach().double().clone() for name, p in params.items()}
        for name, p in params.items():
            for twin in (exact[name], real[name]):
                twin.data.copy_(p)
                twin.grad = p.grad.to(twin.dtype)
        reference.step(), running.step()
        directions = shadowed.directions()
        for name, p in params.items():
            expected = (exact[name].detach() - before[name]) / 1e-3
            floor = 1e-14 * before[name].abs().max() / 1e-3  # the reference's own rounding
            assert ((directions[p] - expected).abs() <= 3e-5 * expected.abs() + floor).all()
            ulps = torch.finfo(torch.float32).eps * (before[name].abs() + real[name].detach().abs())
            assert ((before[name] + 1e-3 * directions[p].double() - real[name]).abs() <= 1.5 * ulps).all()
            p.data.copy_(real[name])
    kept, states = shadowed.state_dict()["state"], running.state_dict()["state"]
    for i in states:
        for name, value in states[i].items():
            assert torch.equal(torch.as_tensor(kept[i][name]), torch.as_tensor(value)), name  # bit for bit


def test_a_class_that_reads_the_dtype_of_its_parameters_reads_their_own():
    class Floored(Plain):
        def move(self, p, lr):
            p.sub_(lr * p.grad / p.grad.abs().clamp(min=torch.finfo(p.dtype).eps))

    for dtype, expected in ((torch.float32, 1e-9 / 2.0**-23), (torch.float64, 1.0)):
        p = nn.Parameter(torch.tensor([1.0], dtype=dtype))
        p.grad = torch.tensor([1e-9], dtype=dtype)
        v = shadow(Algorithm(Floored), {"p": p}).directions()[p]
        assert v.dtype == dtype and v.item() == pytest.approx(-expected, rel=1e-6)


def test_a_class_with_float32_state_takes_a_step_as_it_does_in_a_run():
    class Average(Plain):
        def move(self, p, lr):
            average = self.state[p].setdefault("average", torch.zeros(p.shape, dtype=torch.float32))
            average.lerp_(p.grad, 0.5)  # refuses another dtype
            p.add_(average, alpha=-lr)

    p = nn.Parameter(torch.tensor([100.0, 1.0]))
    p.grad = torch.tensor([1e-6, 1.0])
    v = shadow(Algorithm(Average), {"p": p}).directions()[p]
    torch.testing.assert_close(v, torch.tensor([-5e-7, -0.5]), rtol=1e-6, atol=0)


# ---- however the parameter is moved -------------------------------------------------------------------------------


def in_place(p, lr):
    p.mul_(1 - 0.5 * lr).add_(p.grad, alpha=-lr)


def out_of_place(p, lr):
    p.data = p.data - lr * (p.grad + 0.5 * p.data)


def copied(p, lr):
    p.copy_(p - lr * (p.grad + 0.5 * p))


def through_a_view(p, lr):
    for row, grad in zip(p.view(-1).split(2), p.grad.view(-1).split(2), strict=True):
        row -= lr * (grad + 0.5 * row)


def through_a_wider_copy(p, lr):
    wide = p.double() if p.dtype == torch.float32 else p.float()
    wide -= lr * (p.grad + 0.5 * wide)
    p.copy_(wide)


def into_an_output(p, lr):
    torch.sub(p, p.grad + 0.5 * p, alpha=lr, out=p)


def by_lists(p, lr):
    torch._foreach_mul_([p], 1 - 0.5 * lr)
    torch._foreach_addcmul_([p], [p.grad], [torch.ones_like(p)], value=-lr)


WAYS = [in_place, out_of_place, copied, through_a_view, through_a_wider_copy, into_an_output, by_lists]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_small_coordinates_survive_whatever_way_the_parameter_is_moved(way, dtype):
    class Mine(Plain):
        def move(self, p, lr):
            way(p, lr)

    x, g = torch.tensor([[64.0, 0.0], [1.0, 2.0**-12]]), torch.tensor([[2.0**-12, 2.0**-12], [1.0, 0.0]])
    p = nn.Parameter(x.to(dtype))
    p.grad = g.to(dtype)
    v = shadow(Algorithm(Mine, lr=2.0**-13), {"p": p}).directions()[p]
    expected = -(g + 0.5 * x)
    torch.testing.assert_close(v.float(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(p, x.to(dtype)) and torch.equal(p.grad, g.to(dtype))


def test_a_sign_that_rounding_decides_is_that_of_the_run():
    class SignWithDecay(Plain):
        def move(self, p, lr):
            p.sub_(lr * torch.sign(p.grad + 0.1 * p))

    p = nn.Parameter(torch.tensor([3.0, 3.0]))
    p.grad = -(0.1 * p.detach())  # 0 in float32, 1.2e-8 in float64
    p.grad[1] += 1
    v = shadow(Algorithm(SignWithDecay, lr=1e-3), {"p": p}).directions()[p]
    assert v[0] == 0 and v[1].item() == pytest.approx(-1, rel=1e-6)


@torch.library.custom_op("tests::float32_descent", mutates_args={"x"})
def float32_descent(x: torch.Tensor, g: torch.Tensor, lr: float) -> None:
    if x.dtype != torch.float32:
        raise RuntimeError("float32 only")
    x.sub_(lr * g)


def test_a_kernel_that_torch_does_not_see_gives_the_plain_difference():
    class Numpy(Plain):
        def move(self, p, lr):
            array = p.detach().numpy()
            array -= lr * p.grad.numpy()

    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([1.0, -1.0])
    v = shadow(Algorithm(Numpy, lr=0.5), {"p": p}).directions()[p]
    assert v.tolist() == [-1.0, 1.0]


def test_a_kernel_that_torch_does_not_see_may_move_by_a_unit_in_the_last_place():
    class Numpy(Plain):
        def move(self, p, lr):
            p.detach().numpy()[:] -= 2.0**-23

    p = nn.Parameter(torch.tensor([1.5]))
    p.grad = torch.ones(1)
    assert shadow(Algorithm(Numpy, lr=2.0**-23), {"p": p}).directions()[p].item() == -1.0


def test_what_the_rule_rounds_stays_rounded():
    class InHalfPrecision(Plain):
        def move(self, p, lr):
            p.sub_(lr * (p.grad + 0.5 * p).bfloat16().float())

    p = nn.Parameter(torch.tensor([1.0, 3.0]))
    p.grad = torch.tensor([1e-3, 0.0123])
    v = shadow(Algorithm(InHalfPrecision, lr=1e-7), {"p": p}).directions()[p]
    expected = -(p.grad + 0.5 * p.detach()).bfloat16().float()
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=0)


def test_a_cast_to_a_wider_dtype_keeps_what_is_known_of_the_move():
    x = torch.tensor([64.0], dtype=torch.bfloat16)
    with ExactMoves([x]) as moves:
        x.mul_(1 - 2.0**-30)
        wide = x.float()  # float32 holds no number between 64 and 64 - 2^-18
        x.copy_(wide)
    assert moves.of(x).item() == -64 * 2.0**-30


def test_what_is_only_known_rounded_is_where_the_next_move_starts():
    x = torch.tensor([1.0])
    with ExactMoves([x]) as moves:
        x.mul_(1 - 2.0**-22)
        float32_descent(x, torch.ones(1), 2.0**-22)
        x.mul_(1 - 2.0**-40)
    assert moves.of(x).item() == pytest.approx(-(2.0**-21) - 2.0**-40, rel=1e-9)


def test_an_operation_without_a_float64_form_gives_the_plain_difference_and_is_named_once(caplog, monkeypatch):
    monkeypatch.setattr(ExactMoves, "_told_of", set())

    class Own(Plain):
        def move(self, p, lr):
            float32_descent(p, p.grad, lr)

    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    p.grad = torch.tensor([1.0, -1.0])
    shadowed = shadow(Algorithm(Own, lr=0.5), {"p": p})
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert shadowed.directions()[p].tolist() == [-1.0, 1.0]
    assert sum("tests.float32_descent.default has no float64 form" in r.message for r in caplog.records) == 1


def test_random_numbers_are_drawn_once():
    class Noisy(Plain):
        def move(self, p, lr):
            p.add_(torch.randn_like(p), alpha=-lr)

    p = nn.Parameter(torch.full((4,), 100.0))
    p.grad = torch.ones(4)
    torch.manual_seed(3)
    v = shadow(Algorithm(Noisy, lr=1e-6), {"p": p}).directions()[p]
    after = torch.get_rng_state()
    torch.manual_seed(3)
    torch.testing.assert_close(v, -torch.randn(4), rtol=1e-6, atol=0)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_gradient_that_the_optimizer_changes_stays_as_it_was():
    class Decaying(Plain):
        def move(self, p, lr):
            p.grad.add_(p, alpha=0.1)
            p.sub_(lr * p.grad)

    p = nn.Parameter(torch.tensor([10.0]))
    p.grad = torch.tensor([1.0])
    assert shadow(Algorithm(Decaying), {"p": p}).directions()[p].item() == pytest.approx(-2.0)
    assert p.grad.item() == 1.0


def test_twins_of_intermediate_results_are_freed():
    p = torch.ones(8)
    with ExactMoves([p]) as moves:
        for _ in range(50):
            p.sub_(0.01 * torch.sqrt(p + 1))
            assert len(moves.twins) <= 4
    assert torch.allclose(moves.of(p).float(), p - 1, atol=1e-6)


def test_integers_that_an_operation_counts_are_counted_once():
    @torch.library.custom_op("tests::counting", mutates_args={"x", "count"})
    def counting(x: torch.Tensor, count: torch.Tensor) -> None:
        count.add_(1)
        x.sub_(count)

    class Counting(Plain):
        def move(self, p, lr):
            counting(p, self.state[p].setdefault("count", torch.zeros((), dtype=torch.int64)))

    p = nn.Parameter(torch.tensor([1.0]))
    p.grad = torch.ones(1)
    shadowed = shadow(Algorithm(Counting, lr=1.0), {"p": p})
    assert [shadowed.directions()[p].item() for _ in range(3)] == [-1.0, -2.0, -3.0]


def test_parameters_that_the_optimizer_has_not_are_left_out():
    params = parameters(shapes=((3, 2), (3,)))
    set_grads(params, 0)
    row = Algorithm("muon", lr=0.1)
    assert list(shadow(row, params).directions()) == [params["p0"]]
    params["p0"].grad = None
    assert shadow(row, params).directions() == {}


def test_no_two_foreign_optimizers_share_a_state():
    params = parameters()
    row = Algorithm("rmsprop", lr=0.1)
    first, second = shadow(row, params), shadow(row, params)
    assert first.state_key() == first.state_key() != second.state_key()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_goes_on_the_same_where_steps_are_not_collected_and_after_a_restart(dtype):
    row = Algorithm(OPTIM.NAdam, lr=1e-3)  # it keeps a product of decay factors in float32
    params = parameters(dtype)
    whole, parted = shadow(row, params), shadow(row, params)
    for step in range(3):
        set_grads(params, step)
        whole.directions()
        assert parted.advance(collect=False) == {}
    restarted = shadow(row, params)
    restarted.load_state_dict(parted.state_dict())
    set_grads(params, 3)
    expected, found = whole.directions(), restarted.directions()
    assert all(torch.equal(found[p], expected[p]) for p in params.values())
