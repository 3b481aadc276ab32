"""Each optimizer against its reference over many steps, and against its formula worked by hand with clipping on."""

import doctest
import importlib
import math
import pkgutil
import warnings

import pytest
import torch
from transformers.optimization import Adafactor as ReferenceAdafactor

import torch_optimizer
from torch_optimizer import OPTIMIZERS, Adafactor, AdamClip, Lion, NormalizedSGD, SGDClip, SignSGD

OURS = {  # one row per optimizer: class, options under which every part of its rule acts
    "sgd": (SGDClip, dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    "normalized_sgd": (NormalizedSGD, dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    "sign_sgd": (SignSGD, dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    "adam": (AdamClip, dict(lr=0.1, weight_decay=0.01, amsgrad=True, clip_update=0.2)),
    "adafactor": (Adafactor, dict(lr=0.1, relative_step=False, weight_decay=0.01, beta1=0.9)),
    "lion": (Lion, dict(lr=0.1, weight_decay=0.01, clip_update=0.2)),
}
every_optimizer = pytest.mark.parametrize(("optimizer_class", "options"), OURS.values(), ids=OURS)
SHAPES = [(5, 4), (7,), (), (2, 3, 4), (0, 3)]


def make_params(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def set_grads(params, step):
    """Gradients that depend on the step alone, heavy-tailed, so that clipping cuts a few of them."""
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = (torch.randn(p.shape, generator=generator) ** 3 + 0.1).to(p.dtype)


def train(optimizer, params, steps=10, start=0):
    for step in range(start, start + steps):
        set_grads(params, step)
        optimizer.step()
    return [p.detach().clone() for p in params]


def one(values, grad, optimizer_class, dtype=torch.float64, **options):
    """One parameter with one gradient, and its optimizer."""
    p = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    p.grad = torch.tensor(grad, dtype=dtype)
    return p, optimizer_class([p], **options)


def assert_same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


# --- without clipping: the reference ---------------------------------------------------------------------------

SGD_OPTIONS = [
    {},
    dict(weight_decay=0.1),
    dict(momentum=0.9),
    dict(momentum=0.9, dampening=0.9),
    dict(momentum=0.9, nesterov=True, weight_decay=0.01),
    dict(momentum=0.9, dampening=0.1, weight_decay=0.01, maximize=True),
    dict(weight_decay=0.1, maximize=True),
]


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_no_clipping_equals_torch_sgd_to_the_bit(options, dtype, foreach):
    ours, theirs = make_params(dtype), make_params(dtype)
    got = train(SGDClip(ours, lr=0.05, foreach=foreach, threshold_scale=7.0, **options), ours, steps=20)
    expected = train(torch.optim.SGD(theirs, lr=0.05, foreach=False, **options), theirs, steps=20)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, dict(weight_decay=0.1), dict(amsgrad=True), dict(maximize=True, eps=1e-3), dict(betas=(0.0, 0.0))],
    ids=str,
)
def test_no_clipping_equals_torch_adam(options):
    ours, theirs = make_params(torch.float64), make_params(torch.float64)
    got = train(AdamClip(ours, lr=0.05, **options), ours, steps=30)
    expected = train(torch.optim.Adam(theirs, lr=0.05, **options), theirs, steps=30)
    assert_same(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(beta1=0.9),
        dict(warmup_init=True),
        dict(warmup_init=True, beta1=0.9, weight_decay=0.1),
        dict(scale_parameter=False),
        dict(lr=0.05, relative_step=False, weight_decay=0.1),
        dict(lr=0.05, relative_step=False, scale_parameter=False, beta1=0.5, clip_threshold=0.5, decay_rate=-0.5),
    ],
    ids=str,
)
def test_no_clipping_equals_transformers_adafactor(options):
    ours, theirs = make_params(torch.float64, SHAPES[:-1]), make_params(torch.float64, SHAPES[:-1])
    got = train(Adafactor(ours, eps2=(1e-10, 1e-3), **options), ours, steps=150)
    expected = train(ReferenceAdafactor(theirs, eps=(1e-10, 1e-3), **options), theirs, steps=150)
    assert_same(got, expected, rtol=1e-10, atol=1e-12)


def test_no_clipping_equals_lions_paper_written_out():
    lr, beta1, beta2, decay = 0.01, 0.9, 0.99, 0.1
    params = make_params(torch.float64)
    x = [p.detach().clone() for p in params]
    m = [torch.zeros_like(p) for p in x]
    optimizer = Lion(params, lr=lr, betas=(beta1, beta2), weight_decay=decay)
    for step in range(30):
        train(optimizer, params, steps=1, start=step)
        for i, p in enumerate(params):
            x[i] = x[i] - lr * ((beta1 * m[i] + (1 - beta1) * p.grad).sign() + decay * x[i])
            m[i] = beta2 * m[i] + (1 - beta2) * p.grad
    assert_same([p.detach() for p in params], x)


# --- with clipping: worked by hand -----------------------------------------------------------------------------


def test_sgd_clips_the_gradient_before_momentum_and_decay():
    # n = 4, k = 1/4: tau = 4. First buffer h_1 = c_1 + 0.5 x = [4, -2, 1, 4] + [5, 0, 0, 0]
    p, optimizer = one(
        [10.0, 0, 0, 0],
        [8.0, -2, 1, 4],
        SGDClip,
        lr=1.0,
        momentum=0.5,
        dampening=0.5,
        weight_decay=0.5,
        coordinate_clip=0.25,
    )
    optimizer.step()
    assert p.tolist() == [1.0, 2.0, -1.0, -4.0]
    p.grad = torch.tensor([0.0, 0, -6, 3], dtype=torch.float64)  # tau = 3: h = [.5, 1, -3.5, 1], m = (m + h) / 2
    optimizer.step()
    assert p.tolist() == [1 - 4.75, 2 + 0.5, -1 + 1.25, -4 - 2.5]


def test_momentum_starts_at_the_first_clipped_gradient():
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], SGDClip, momentum=0.9, dampening=0.9, coordinate_clip=0.25)
    optimizer.step()
    assert optimizer.state[p]["momentum_buffer"].tolist() == [4.0, -2.0, 1.0, 4.0]


def test_momentum_from_zero_is_the_papers_average():
    # m_1 = (4, -2) / 2, m_2 = m_1 / 2 + (0, 4) / 2 = (1, 1.5); torch's m_2 is (2, 1), along another direction
    p, optimizer = one([0.0, 0.0], [4.0, -2.0], SGDClip, lr=1.0, momentum=0.5, dampening=0.5, zero_start=True)
    optimizer.step()
    assert p.tolist() == [-2.0, 1.0]
    p.grad = torch.tensor([0.0, 4.0], dtype=torch.float64)
    optimizer.step()
    assert p.tolist() == [-3.0, -0.5]


@pytest.mark.parametrize("optimizer_class", [SGDClip, SignSGD, NormalizedSGD])
def test_without_dampening_it_does_not_matter_where_momentum_starts(optimizer_class):
    zero, first = make_params(), make_params()
    options = dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, coordinate_clip=0.2)
    got = train(optimizer_class(zero, zero_start=True, **options), zero)
    assert_same(got, train(optimizer_class(first, **options), first), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer_class", [SGDClip, SignSGD, NormalizedSGD])
def test_where_momentum_starts_is_an_option_of_the_whole_family(optimizer_class):
    def end(**options):
        params = make_params()
        return train(optimizer_class(params, momentum=0.9, dampening=0.9, **options), params, steps=3)

    assert any(not torch.equal(a, b) for a, b in zip(end(), end(zero_start=True), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(end(), end(zero_start=False), strict=True))


def test_normalized_sgd_moves_every_tensor_by_lr_in_root_mean_square():
    p, optimizer = one([0.0] * 4, [30.0, 0, -4, 3], NormalizedSGD, lr=2.0, coordinate_clip=0.25)
    optimizer.step()  # clipped: [4, 0, -4, 3], norm sqrt(41)
    assert_same([p.detach()], [torch.tensor([-4.0, 0, 4, -3], dtype=torch.float64) * 2 * 2 / math.sqrt(41)])


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float16, 5e4), (torch.bfloat16, 1e-30)]
)
def test_normalization_neither_underflows_nor_overflows(dtype, size):
    p = torch.nn.Parameter(torch.zeros(4096, dtype=dtype))
    p.grad = torch.full((4096,), size, dtype=dtype)
    NormalizedSGD([p], lr=1.0).step()
    assert torch.equal(p, -torch.ones_like(p))


def test_normalized_sgd_stays_where_the_momentum_is_zero():
    p, optimizer = one([1.0, 2.0], [0.0, 0.0], NormalizedSGD, lr=1.0)
    optimizer.step()
    assert p.tolist() == [1.0, 2.0]


def test_sign_sgd_takes_the_sign_of_the_momentum_not_of_the_gradient():
    p, optimizer = one([0.0, 0.0], [4.0, -1.0], SignSGD, lr=1.0, momentum=0.9)
    optimizer.step()
    p.grad = torch.tensor([-1.0, -1.0], dtype=torch.float64)  # m = [2.6, -1.9]
    optimizer.step()
    assert p.tolist() == [-2.0, 2.0]


def test_sign_of_the_momentum_follows_the_clipped_gradients():
    p, optimizer = one([0.0, 0.0], [40.0, -1.0], SignSGD, lr=1.0, momentum=0.5, coordinate_clip=0.5)
    optimizer.step()
    p.grad = torch.tensor([-2.0, -3.0], dtype=torch.float64)  # m = 0.5 * 1 - 2 < 0; unclipped it were 18
    optimizer.step()
    assert p.tolist() == [0.0, 2.0]


def test_adam_clips_the_numerator_and_not_the_second_moment():
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], AdamClip, lr=1.0, eps=0, coordinate_clip=0.25)
    optimizer.step()
    assert_same([p.detach()], [-torch.tensor([4 / 8, -1, 1, 1], dtype=torch.float64)])
    p.grad = torch.tensor([0.0, 0, 0, 2], dtype=torch.float64)  # tau = 0 would erase: index 1 of [2, 0, 0, 0]
    with pytest.warns(UserWarning, match="75.00% of the coordinates are exactly zero"):
        optimizer.step()
    m = 0.9 * 0.1 * torch.tensor([4.0, -2, 1, 4], dtype=torch.float64) / (1 - 0.9**2)
    s = (
        0.001
        * (0.999 * torch.tensor([64.0, 4, 1, 16], dtype=torch.float64) + torch.tensor([0.0, 0, 0, 4]))
        / (1 - 0.999**2)
    )
    assert_same([p.detach()], [-torch.tensor([0.5, -1, 1, 1], dtype=torch.float64) - m / s.sqrt()])


def test_adam_clip_update_cuts_the_finished_step_of_all_tensors_together():
    # With eps = 1 the first step is g / (|g| + 1): [9/10, 3/4] and [-1/2, 1/3]; k = 1/4 of n = 4: tau = 3/4
    params = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2)]
    params[0].grad, params[1].grad = torch.tensor([9.0, 3.0]).double(), torch.tensor([-1.0, 0.5]).double()
    AdamClip(params, lr=1.0, eps=1.0, clip_update=0.25).step()
    assert_same(
        [p.detach() for p in params],
        [-torch.tensor([0.75, 0.75]).double(), torch.tensor([0.5, -1 / 3]).double()],
        rtol=1e-7,
        atol=0,
    )


def test_adafactor_clips_the_numerator_and_not_the_second_moment():
    p, optimizer = one(
        [0.0] * 4, [8.0, -2, 1, 4], Adafactor, lr=1.0, relative_step=False, scale_parameter=False, coordinate_clip=0.25
    )
    optimizer.step()  # 1 - 1^-0.8 = 0: s_1 = g^2, U = c / |g|, RMS below 1
    assert_same([p.detach()], [-torch.tensor([0.5, -1, 1, 1], dtype=torch.float64)])


def test_adafactor_moves_a_tensor_of_zeros_by_the_floor_of_its_size():
    p, optimizer = one([0.0, 0.0], [4.0, -1.0], Adafactor, lr=0.5, relative_step=False, eps2=(1e-30, 0.25))
    optimizer.step()  # U = sign(g), size max(0.25, RMS(x) = 0)
    assert_same([p.detach()], [torch.tensor([-0.125, 0.125], dtype=torch.float64)])


def test_lion_clips_both_its_update_and_its_average():
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], Lion, lr=1.0, coordinate_clip=0.25, clip_update=0.0)
    optimizer.step()
    assert_same([p.detach()], [-0.1 * torch.tensor([4.0, -2, 1, 4], dtype=torch.float64)])
    assert_same([optimizer.state[p]["exp_avg"]], [0.01 * torch.tensor([4.0, -2, 1, 4], dtype=torch.float64)])


def test_lion_clip_update_replaces_the_sign():
    p, optimizer = one([10.0, 0, 0, 0], [8.0, -2, 1, 4], Lion, lr=1.0, clip_update=0.25, weight_decay=0.5)
    optimizer.step()  # interpolation 0.1 g, cut at 0.4; decay added after
    assert_same([p.detach()], [torch.tensor([10 - 0.4 - 5, 0.2, -0.1, -0.4], dtype=torch.float64)])


@every_optimizer
def test_clipping_acts_with_default_arguments(optimizer_class, options):
    def end(**clipping):
        params = make_params()
        defaults = dict(clip_update=0.0) if optimizer_class is Lion else {}  # its sign hides a cut of the first step
        if optimizer_class is SignSGD:
            defaults = dict(momentum=0.9)  # the sign of one gradient does not depend on its clipping
        return train(optimizer_class(params, **defaults, **clipping), params)

    assert any(not torch.equal(a, b) for a, b in zip(end(), end(coordinate_clip=0.2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(end(), end(coordinate_clip=0.0), strict=True))


@pytest.mark.parametrize("foreach", [None, False, True])
def test_foreach_never_switches_clipping_off(foreach):
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], SGDClip, lr=1.0, coordinate_clip=0.25, foreach=foreach)
    optimizer.step()
    assert p.tolist() == [-4.0, 2.0, -1.0, -4.0]


@pytest.mark.parametrize(("scale", "first"), [(1.0, 4.0), (0.5, 2.0), (1.5, 6.0), (3.0, 8.0)])
def test_threshold_scale_multiplies_the_threshold(scale, first):
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], SGDClip, lr=1.0, coordinate_clip=0.25, threshold_scale=scale)
    optimizer.step()
    assert p[0].item() == -first


def test_threshold_is_shared_by_groups_and_each_takes_its_own_fraction():
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for p, g in zip(params, ([8.0, 1.0], [7.0, -6.0], [5.0, 4.0]), strict=True):
        p.grad = torch.tensor(g)
    groups = [
        dict(params=[params[0]]),  # k = 1/3 of n = 6: index 2 of 8 7 6 5 4 1
        dict(params=[params[1]], coordinate_clip=2 / 3, threshold_scale=0.5),  # index 4, halved
        dict(params=[params[2]], coordinate_clip=0.0),
    ]
    SGDClip(groups, lr=1.0, coordinate_clip=1 / 3).step()
    assert [p.tolist() for p in params] == [[-6.0, -1.0], [-2.0, 2.0], [-5.0, -4.0]]


def test_splitting_into_groups_changes_nothing():
    together, split = make_params(), make_params()
    got = train(SGDClip([dict(params=[p]) for p in split], coordinate_clip=0.2, momentum=0.9), split)
    assert_same(got, train(SGDClip(together, coordinate_clip=0.2, momentum=0.9), together), rtol=0, atol=0)


def test_zeros_count_and_missing_gradients_do_not():
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    params[0].grad = torch.tensor([3.0, 2.0, 0.0])
    SGDClip(params, lr=1.0, coordinate_clip=1 / 3).step()  # n = 3: index 1
    assert params[0].tolist() == [-2.0, -2.0, 0.0] and params[1].tolist() == [0.0] * 3


def test_an_erasing_threshold_is_followed_and_warned_of_once():
    p, optimizer = one([0.0] * 4, [8.0, 0, 0, 0], SGDClip, lr=1.0, coordinate_clip=0.25)
    with pytest.warns(UserWarning, match=r"SGDClip: the clipping threshold is 0.*75.00% of the coordinates"):
        optimizer.step()
    assert p.tolist() == [0.0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        p.grad.zero_()
        SGDClip([p], coordinate_clip=0.25).step()  # an all-zero gradient is nothing to warn of


@every_optimizer
def test_nan_and_infinity_stay_where_they_are(optimizer_class, options):
    options = {**options, "coordinate_clip": 0.5}
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(5))]
    params[0].grad = torch.tensor([math.nan, 1.0, 1.0])
    params[1].grad = (
        torch.tensor([-math.inf, 1.0, 2.0, 3.0, 4.0]) if optimizer_class is not Adafactor else torch.ones(5)
    )
    optimizer_class(params, **options).step()
    assert bool(params[1].isfinite().all())


@pytest.fixture
def count_rules(monkeypatch):
    """How many tensors or pieces each optimizer's rule was asked for."""
    calls, rule = [], SGDClip._rule
    monkeypatch.setattr(SGDClip, "_rule", lambda *args: (calls.append(args), rule(*args))[1])
    return calls


PIECEWISE = [{}, dict(weight_decay=0.1), dict(maximize=True), dict(threshold_scale=0.5)]


@pytest.mark.parametrize("options", PIECEWISE, ids=str)
@pytest.mark.parametrize("optimizer_class", [SGDClip, SignSGD])
def test_stepping_piece_by_piece_makes_the_move_of_whole_tensors(monkeypatch, count_rules, optimizer_class, options):
    monkeypatch.setattr("torch_optimizer.direction_optimizer.CACHE_SIZE", 3)
    whole, in_pieces = make_params(), make_params()
    options = {**options, "coordinate_clip": 0.1}
    measured, stepping = optimizer_class(whole, **options, lr=0.1), optimizer_class(in_pieces, **options, lr=0.1)
    for step in range(3):
        set_grads(whole, step), set_grads(in_pieces, step)
        for p, v in measured.directions().items():
            p.data.add_(v, alpha=0.1)
        assert len(count_rules) == len(SHAPES)
        count_rules.clear()
        stepping.step()
        assert len(count_rules) == 7 + 3 + 1 + 8 + 1  # tensors of 20, 7, 1, 24 and 0 coordinates, three at a time
        count_rules.clear()
        assert all(torch.equal(a, b) for a, b in zip(whole, in_pieces, strict=True))


WHOLE = [
    (SGDClip, dict(momentum=0.9)),
    (SGDClip, dict(foreach=True)),
    (SGDClip, dict(coordinate_clip=0)),
    (NormalizedSGD, {}),
]


@pytest.mark.parametrize(("optimizer_class", "options"), WHOLE, ids=str)
def test_a_rule_that_needs_whole_tensors_gets_them(monkeypatch, count_rules, optimizer_class, options):
    monkeypatch.setattr("torch_optimizer.direction_optimizer.CACHE_SIZE", 3)
    params = make_params()
    train(optimizer_class(params, **{"coordinate_clip": 0.1, **options}), params, steps=1)
    assert len(count_rules) == len(SHAPES)


CLIMBING = [(name, clip) for name in ("sgd", "normalized_sgd", "sign_sgd", "adam") for clip in (0.0, 0.2)]


@pytest.mark.parametrize(("name", "clip"), CLIMBING)
def test_maximize_climbs_along_the_step_that_a_negated_gradient_gives(name, clip):
    optimizer_class, options = OURS[name]
    options = {**options, "weight_decay": 0.0, "coordinate_clip": clip}
    up, down = make_params(), make_params()
    climbing, descending = optimizer_class(up, **options, maximize=True), optimizer_class(down, **options)
    for step in range(4):
        set_grads(up, step), set_grads(down, step)
        for p in down:
            p.grad.neg_()
        climbing.step(), descending.step()
        assert all(torch.equal(a, b) for a, b in zip(up, down, strict=True))


def test_maximize_climbs_a_clipped_gradient():
    p, optimizer = one([0.0] * 4, [8.0, -2, 1, 4], SGDClip, lr=1.0, coordinate_clip=0.25, maximize=True)
    optimizer.step()
    assert p.tolist() == [4.0, -2.0, 1.0, 4.0]


@pytest.mark.parametrize("foreach", [None, False, True])
def test_each_group_moves_by_its_own_lr(foreach):
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for p in params:
        p.grad = torch.tensor([1.0, -2.0])
    groups = [dict(params=[params[0]]), dict(params=params[1:], lr=0.5)]
    SGDClip(groups, lr=0.25, foreach=foreach).step()
    assert [p.tolist() for p in params] == [[-0.25, 0.5], [-0.5, 1.0], [-0.5, 1.0]]


def test_infinity_is_capped_to_the_threshold():
    p, optimizer = one([0.0] * 4, [-math.inf, 1, 4, math.nan], SGDClip, lr=1.0, coordinate_clip=0.25)
    optimizer.step()
    assert p[:3].tolist() == [4.0, -1.0, -4.0] and bool(p[3].isnan())


def test_no_pass_over_the_data_without_clipping(monkeypatch):
    monkeypatch.setattr("torch_optimizer.direction_optimizer.clip_threshold", None)  # not callable
    params = make_params()
    train(AdamClip(params), params)


def test_every_example_in_the_docstrings_holds():
    attempted = 0
    for module in pkgutil.iter_modules(torch_optimizer.__path__, "torch_optimizer."):
        result = doctest.testmod(importlib.import_module(module.name), extraglobs=dict(torch=torch, math=math))
        assert result.failed == 0, module.name
        attempted += result.attempted
    assert attempted >= 14


def test_registry_names_each_optimizer_once():
    assert list(OPTIMIZERS) == [*OURS, "adamw", "rmsprop", "adagrad", "nadam", "radam", "muon", "muon_adamw"]
    assert all(OPTIMIZERS[name] is optimizer_class for name, (optimizer_class, _) in OURS.items())
