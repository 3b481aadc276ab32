"""The six optimizers are full citizens of torch.optim, and `directions()` is the move that `step()` makes."""

import copy
import io
import math

import pytest
import torch

import torch_optimizer.direction_optimizer
from landscape_utils import PseudoUpdates
from tests.test_optimizers import OURS, SHAPES, every_optimizer, make_params, set_grads, train
from torch_optimizer import Adafactor, AdamClip, Algorithm, Lion, NormalizedSGD, SGDClip, SignSGD

CLIPPED = {
    name: (cls, {**options, "coordinate_clip": 0.2, "threshold_scale": 0.9}) for name, (cls, options) in OURS.items()
}
every_clipped = pytest.mark.parametrize(("optimizer_class", "options"), CLIPPED.values(), ids=CLIPPED)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- directions ------------------------------------------------------------------------------------------------


@every_clipped
def test_directions_are_the_move_that_step_makes(optimizer_class, options):
    stepping, measured = make_params(torch.float64), make_params(torch.float64)
    optimizer, twin = optimizer_class(stepping, **options), optimizer_class(measured, **options)
    for step in range(5):
        before = [p.detach().clone() for p in stepping]
        train(optimizer, stepping, steps=1, start=step)
        set_grads(measured, step)
        directions = twin.directions()
        assert list(directions) == measured
        for p, twin_p, x in zip(stepping, measured, before, strict=True):
            assert torch.equal(p, x.add(directions[twin_p], alpha=0.1))
            assert torch.equal(twin_p, x)  # not moved
            twin_p.data.copy_(p)


def test_directions_follow_the_relative_step_of_adafactor():
    params, twins = make_params(torch.float64), make_params(torch.float64)
    optimizer, twin = Adafactor(params), Adafactor(twins)
    train(optimizer, params, steps=1)
    set_grads(twins, 0)
    directions = twin.directions()
    assert all(torch.equal(p, t.add(directions[t], alpha=0.01)) for p, t in zip(params, twins, strict=True))
    assert twin.learning_rate(twin.param_groups[0], twins[0]) == 0.01


def test_directions_of_several_groups_take_each_groups_options():
    stepping, measured = make_params(torch.float64), make_params(torch.float64)
    optimizers = []
    for params in (stepping, measured):
        groups = [dict(params=params[:1], weight_decay=0.5), dict(params=params[1:], clip_update=None)]
        optimizers.append(Lion(groups, lr=0.1, clip_update=0.2))
        set_grads(params, 0)
    directions = optimizers[1].directions()
    optimizers[0].step()
    for p, twin in zip(stepping, measured, strict=True):
        assert torch.equal(p, twin.add(directions[twin], alpha=0.1))


def test_moves_of_one_state_serve_another_optimizer_which_shapes_them():
    params = make_params()
    options = dict(momentum=0.9, dampening=0.5, coordinate_clip=0.2)
    sgd, sign, alone = (cls(params, **options) for cls in (SGDClip, SignSGD, SignSGD))
    for step in range(2):
        set_grads(params, step)
        shared, own = sign.directions(sgd.advance()), alone.directions()
        assert all(torch.equal(shared[p], own[p]) for p in params)
    assert not sign.state and len(alone.state) == len(params)


@every_clipped
def test_moves_that_are_not_collected_advance_the_state_all_the_same(optimizer_class, options):
    params = make_params()
    collected, passed = optimizer_class(params, **options), optimizer_class(params, **options)
    for step in range(2):
        set_grads(params, step)
        assert [p for _, p, _ in collected.advance()] == params
        assert passed.advance(collect=False) == []
    set_grads(params, 2)
    expected, found = collected.directions(), passed.directions()
    assert all(torch.equal(found[p], expected[p]) for p in params)


def test_a_threshold_is_found_once_for_all_optimizers_of_the_same_gradients(monkeypatch):
    params, calls = make_params(), []
    counted = torch_optimizer.direction_optimizer.clip_threshold

    def clip_threshold(tensors, fraction):
        calls.append(fraction)
        return counted(tensors, fraction)

    monkeypatch.setattr(torch_optimizer.direction_optimizer, "clip_threshold", clip_threshold)
    kinds = [("a", "sgd", 0.2), ("b", "adam", 0.2), ("c", "adafactor", 0.2), ("d", "adam", 0.5)]
    rows = {label: Algorithm(name, lr=0.1, coordinate_clip=fraction) for label, name, fraction in kinds}
    updates = PseudoUpdates(dict(enumerate(params)), rows)
    for step in range(2):
        set_grads(params, step)
        together = updates.advance()
        assert sorted(calls) == [0.2, 0.5]
        calls.clear()
    for label, row in rows.items():  # and the thresholds are those of these gradients
        alone = PseudoUpdates(dict(enumerate(params)), {label: row})
        for step in range(2):
            set_grads(params, step)
            direction = alone.advance()[label]
        assert all(torch.equal(direction[n], together[label][n]) for n in direction)


@every_clipped
def test_directions_are_new_tensors(optimizer_class, options):
    params = make_params()
    optimizer = optimizer_class(params, **options)
    set_grads(params, 0)
    first = optimizer.directions()
    kept = {p: v.clone() for p, v in first.items()}
    set_grads(params, 1)
    optimizer.directions()
    assert all(torch.equal(first[p], kept[p]) for p in first)
    held = {t.data_ptr() for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t) and t.numel()}
    assert not held & {v.data_ptr() for v in first.values()}


@every_clipped
def test_gradients_are_left_as_they_were_to_the_bit(optimizer_class, options):
    params = make_params()
    optimizer = optimizer_class(params, **options)
    set_grads(params, 0)
    before = [p.grad.clone() for p in params]
    optimizer.directions()
    optimizer.step()
    assert same([p.grad for p in params], before)


# --- saving and copying ----------------------------------------------------------------------------------------


def saved_and_loaded(thing, weights_only=True):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


def saved_whole(optimizer):
    return saved_and_loaded(optimizer, weights_only=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@every_clipped
def test_training_goes_on_the_same_after_save_and_load(optimizer_class, options, dtype):
    params = make_params(dtype)
    optimizer = optimizer_class(params, **options)
    train(optimizer, params, steps=3)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    restored = optimizer_class(copies)  # default options: the saved ones must win
    restored.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    assert restored.param_groups[0]["coordinate_clip"] == 0.2 and restored.param_groups[0]["threshold_scale"] == 0.9
    assert same(train(restored, copies, steps=3, start=3), train(optimizer, params, steps=3, start=3))


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_whole])
@every_clipped
def test_copies_train_on_the_same(optimizer_class, options, copied):
    params = make_params()
    optimizer = optimizer_class(params, **options)
    train(optimizer, params, steps=3)
    twin = copied(optimizer)
    twins = twin.param_groups[0]["params"]
    assert twin.param_groups[0]["coordinate_clip"] == 0.2
    assert same(train(twin, twins, steps=3, start=3), train(optimizer, params, steps=3, start=3))
    twin.add_param_group(dict(params=[torch.nn.Parameter(torch.ones(2))]))
    assert twin.param_groups[1]["coordinate_clip"] == 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_loaded_state_belongs_to_the_loader_alone(dtype):
    params = make_params(dtype)
    optimizer = AdamClip(params)
    train(optimizer, params, steps=1)
    state_dict = optimizer.state_dict()
    kept = copy.deepcopy(state_dict["state"][0]["exp_avg"])
    twins = make_params(dtype)
    twin = AdamClip(twins)
    twin.load_state_dict(state_dict)
    train(twin, twins, steps=2)
    assert torch.equal(state_dict["state"][0]["exp_avg"], kept)


@every_clipped
def test_groups_are_the_same_after_save_and_load(optimizer_class, options):
    params = make_params()
    optimizer = optimizer_class(params, **options)
    train(optimizer, params, steps=1)
    restored = optimizer_class(make_params(), **options)
    restored.load_state_dict(optimizer.state_dict())
    restored.add_param_group(dict(params=[torch.nn.Parameter(torch.ones(2))]))
    optimizer.add_param_group(dict(params=[torch.nn.Parameter(torch.ones(2))]))
    assert restored.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert copy.deepcopy(optimizer).state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(("saved", "model"), [(SINGLE, DOUBLE), (DOUBLE, SINGLE), (HALF, SINGLE), (SINGLE, HALF)])
@every_clipped
def test_state_goes_on_in_a_model_of_another_dtype(optimizer_class, options, saved, model):
    params, others = make_params(saved), make_params(model)
    optimizer, restored = optimizer_class(params, **options), optimizer_class(others, **options)
    train(optimizer, params, steps=2)
    restored.load_state_dict(optimizer.state_dict())
    for p, other in zip(params, others, strict=True):
        other.data.copy_(p)
    train(restored, others, steps=1, start=2)
    train(optimizer, params, steps=1, start=2)
    loose = 40 * max(torch.finfo(saved).eps, torch.finfo(model).eps)
    for p, other in zip(params, others, strict=True):
        torch.testing.assert_close(other.double(), p.double(), rtol=loose, atol=loose)


@pytest.mark.parametrize("optimizer_class", [AdamClip, Adafactor, Lion, SGDClip])
def test_loaded_state_has_the_dtype_that_the_rule_keeps(optimizer_class):
    options = dict(momentum=0.9) if optimizer_class is SGDClip else {}
    for model in (torch.float16, torch.float32, torch.float64):
        for saved in (torch.float16, torch.float32, torch.float64):
            params, others = make_params(saved), make_params(model)
            source, fresh = optimizer_class(params, **options), optimizer_class(others, **options)
            train(source, params, steps=1), train(fresh, others, steps=1)
            kept = [{k: getattr(v, "dtype", None) for k, v in fresh.state[p].items()} for p in others]
            fresh.load_state_dict(source.state_dict())
            assert kept == [{k: getattr(v, "dtype", None) for k, v in fresh.state[p].items()} for p in others]


def test_a_count_that_is_kept_as_a_tensor_keeps_its_dtype():
    class Counting(SGDClip):
        def _rule(self, p, grad, clipped, group):
            self.state[p]["step"] = self.state[p].get("step", torch.tensor(2048.0)) + 1
            return clipped

    params = make_params(torch.float16)
    optimizer, restored = Counting(params), Counting(make_params(torch.float16))
    train(optimizer, params, steps=1)
    restored.load_state_dict(optimizer.state_dict())
    assert restored.state_dict()["state"][0]["step"].item() == 2049.0  # float16 has 2048 and 2050


def test_half_precision_keeps_second_moments_in_float32():
    params = make_params(torch.float16)
    for optimizer, names in (
        (AdamClip(params, amsgrad=True), ("exp_avg_sq", "max_exp_avg_sq")),
        (Adafactor(params), ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq")),
    ):
        train(optimizer, params, steps=1)
        optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
        held = [s[name] for s in optimizer.state.values() for name in names if name in s]
        assert len(held) > 4 and all(t.dtype == torch.float32 for t in held)


@pytest.mark.parametrize("options", [{}, dict(momentum=0.9)])
def test_state_of_torch_sgd_is_taken_over(options):
    theirs, ours = make_params(), make_params()
    reference = torch.optim.SGD(theirs, lr=0.1, **options)
    train(reference, theirs, steps=2)
    train(torch.optim.SGD(ours, lr=0.1, **options), ours, steps=2)
    optimizer = SGDClip(ours, coordinate_clip=0.0)
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["coordinate_clip"] == 0.0 and optimizer.param_groups[0]["lr"] == 0.1
    assert same(train(optimizer, ours, start=2), train(reference, theirs, start=2))


def test_state_of_torch_adam_is_taken_over():
    theirs, ours = make_params(torch.float64), make_params(torch.float64)
    reference = torch.optim.Adam(theirs)
    train(reference, theirs, steps=3)
    train(torch.optim.Adam(ours), ours, steps=3)
    optimizer = AdamClip(ours)
    optimizer.load_state_dict(reference.state_dict())
    for a, b in zip(train(optimizer, ours, start=3), train(reference, theirs, start=3), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


# --- which optimizers share a state ----------------------------------------------------------------------------

LONG = torch.arange(2000.0)


def key(optimizer_class, **options):
    return optimizer_class(make_params(), **options).state_key()


class Weighted(SGDClip):
    """A user's subclass with options of other kinds, such as a weight of every coordinate."""

    def __init__(self, params, lr=0.1, weights=None):
        super().__init__(params, lr)
        self.param_groups[0]["weights"] = weights


def test_options_are_compared_by_value_not_by_how_they_print():
    other = LONG.clone()
    other[1000] += 1  # not among the entries that print
    assert repr(LONG) == repr(other)
    assert key(Weighted, weights=LONG) == key(Weighted, weights=LONG.clone())
    assert key(Weighted, weights=LONG) != key(Weighted, weights=other)
    assert key(Weighted, weights=LONG) != key(Weighted, weights=LONG.double())
    assert key(Weighted, weights=LONG) != key(Weighted, weights=LONG.view(2, -1))
    assert key(Weighted, weights=torch.tensor(1.0)) != key(Weighted, weights=torch.tensor(1.0 + 1e-6))
    assert key(Weighted, weights={"a": [LONG]}) != key(Weighted, weights={"a": [other]})
    assert key(AdamClip, betas=(0.9, 0.99)) == key(AdamClip, betas=[0.9, 0.99])
    assert key(SGDClip, momentum=1) == key(SGDClip, momentum=1.0)


def test_an_object_that_is_not_hashable_equals_itself_alone():
    class Thing:
        __hash__ = None

        def __repr__(self):
            return "thing"

    thing = Thing()
    assert key(Weighted, weights=thing) == key(Weighted, weights=thing)
    assert key(Weighted, weights=thing) != key(Weighted, weights=Thing())


def test_what_a_state_depends_on_is_in_its_key():
    plain = key(SGDClip, momentum=0.9)
    assert plain == key(SGDClip, momentum=0.9, lr=torch.tensor(5.0), foreach=True)
    assert plain == key(NormalizedSGD, momentum=0.9) == key(SignSGD, momentum=0.9)
    for option in (dict(dampening=0.9), dict(coordinate_clip=0.1), dict(weight_decay=0.1), dict(maximize=True)):
        assert plain != key(SGDClip, momentum=0.9, **option)
    assert key(AdamClip) == key(AdamClip, clip_update=0.5) != key(Lion)
    fixed = dict(relative_step=False)
    assert key(Adafactor, **fixed, lr=1.0) == key(Adafactor, **fixed, lr=2.0)
    averaged = [key(Adafactor, **fixed, beta1=0.9, lr=lr) for lr in (torch.tensor(0.1), torch.tensor(0.1 + 1e-6))]
    assert averaged[0] != averaged[1]
    params = make_params()
    early, late = ([dict(params=params[:k], momentum=0.9), dict(params=params[k:])] for k in (1, 2))
    assert SGDClip(early).state_key() != SGDClip(late).state_key()

    class Halving(SGDClip):
        def _rule(self, p, grad, clipped, group):
            return super()._rule(p, grad, clipped / 2, group)

    assert key(Halving, momentum=0.9) != plain


# --- the machinery of torch.optim ------------------------------------------------------------------------------


@every_clipped
def test_closure_is_evaluated_with_gradients_and_its_loss_returned(optimizer_class, options):
    x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = optimizer_class([x], **options)

    def closure():
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 13.0
    assert optimizer.step() is None and not torch.equal(x, torch.tensor([3.0, -2.0]))


@every_clipped
def test_schedulers_set_the_lr(optimizer_class, options):
    params, twins = make_params(), make_params()
    optimizer, twin = optimizer_class(params, **options), optimizer_class(twins, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for step in range(3):
        train(optimizer, params, steps=1, start=step)
        scheduler.step()
        twin.param_groups[0]["lr"] = 0.1 * 0.5**step
        train(twin, twins, steps=1, start=step)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0125)
    assert same(params, twins)


@every_clipped
def test_lr_may_be_a_tensor(optimizer_class, options):
    params, twins = make_params(torch.float64), make_params(torch.float64)
    tensor_lr = {**options, "lr": torch.tensor(0.1, dtype=torch.float64)}
    assert same(train(optimizer_class(params, **tensor_lr), params), train(optimizer_class(twins, **options), twins))


@every_clipped
def test_step_hooks_run(optimizer_class, options):
    calls, params = [], make_params()
    optimizer = optimizer_class(params, **options)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(optimizer, params, steps=1)
    assert calls == ["before", "after"]


def test_load_hooks_see_and_change_what_is_loaded():
    params = make_params(torch.float16)
    optimizer = AdamClip(params)
    train(optimizer, params, steps=1)

    def halve(_, state_dict):
        state = {i: {**s, "exp_avg": s["exp_avg"] / 2} for i, s in state_dict["state"].items()}
        return {**state_dict, "state": state}

    before = optimizer.state[params[0]]["exp_avg"].clone()
    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], before / 2)


@every_clipped
def test_groups_have_options_of_their_own(optimizer_class, options):
    params, options = make_params(), {**options, "coordinate_clip": 0.0}
    options.pop("clip_update", None)
    optimizer = optimizer_class(params[:1], **options)
    optimizer.add_param_group(dict(params=params[1:], lr=0.0))
    before = [p.detach().clone() for p in params]
    train(optimizer, params, steps=2)
    assert not torch.equal(params[0], before[0]) and same(params[1:], before[1:])


@every_clipped
def test_parameters_without_gradient_are_skipped(optimizer_class, options):
    params = make_params()
    optimizer = optimizer_class(params, **options)
    optimizer.step()  # no gradient at all
    assert optimizer.directions() == {}
    set_grads(params, 0)
    params[1].grad = None
    before = params[1].detach().clone()
    assert list(optimizer.directions()) == [params[0], *params[2:]]
    optimizer.step()
    assert torch.equal(params[1], before) and params[1] not in optimizer.state


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every_clipped
def test_every_precision_follows_float64(optimizer_class, options, dtype):
    params, exact = make_params(dtype), make_params(torch.float64)
    options = {**options, "lr": 0.01}
    got, expected = (
        train(optimizer_class(params, **options), params, 3),
        train(optimizer_class(exact, **options), exact, 3),
    )
    tolerance = 0.01 + 4 * 3 * torch.finfo(dtype).eps  # a sign or a clip may fall on the other side: one step
    for shape, a, b in zip(SHAPES, got, expected, strict=True):
        assert a.dtype == dtype and a.shape == shape
        assert a.numel() == 0 or (a.double() - b).abs().max() <= tolerance * (1 + b.abs().max())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1), (3, 1, 2)], ids=str)
@every_clipped
def test_every_shape_is_moved_or_empty(optimizer_class, options, shape):
    p = torch.nn.Parameter(torch.ones(shape))
    p.grad = torch.full(shape, 2.0)
    optimizer_class([p], **options).step()
    assert p.shape == shape and bool((p < 1).all())


@every_clipped
def test_memory_layout_of_gradients_does_not_matter(optimizer_class, options):
    plain, laid_out = [torch.nn.Parameter(torch.ones(4, 6)) for _ in range(2)]
    plain.grad = torch.arange(24.0).view(4, 6) - 5
    laid_out.grad = plain.grad.t().contiguous().t()
    optimizer_class([plain], **options).step()
    optimizer_class([laid_out], **options).step()
    torch.testing.assert_close(plain, laid_out, rtol=1e-6, atol=0)


# --- errors ----------------------------------------------------------------------------------------------------


UNSUPPORTED = {
    "SGDClip does not support sparse gradients, got layout torch.sparse_coo": torch.ones(2).to_sparse(),
    "SGDClip does not support complex gradients, got dtype torch.complex64": torch.ones(2, dtype=torch.complex64),
}


@pytest.mark.parametrize("clip", [0.0, 0.2])
@every_optimizer
def test_unsupported_gradients_are_refused_before_anything_changes(optimizer_class, options, clip):
    options = {**options, "coordinate_clip": clip}
    for message, bad_grad in UNSUPPORTED.items():
        message = message.replace("SGDClip", optimizer_class.__name__)
        good = torch.nn.Parameter(torch.ones(2))
        bad = torch.nn.Parameter(torch.ones(2, dtype=bad_grad.dtype))
        good.grad, bad.grad = torch.ones(2), bad_grad
        optimizer = optimizer_class([good, bad], **options)
        for act in (optimizer.step, optimizer.directions):
            with pytest.raises(RuntimeError, match=f"^{message}$"):
                act()
        assert torch.equal(good, torch.ones(2)) and good not in optimizer.state


FRACTION, NOT_NEGATIVE = (-0.1, 1.0, math.nan), (-0.1, math.nan, math.inf)
OUT_OF_RANGE = [
    *[(cls, {"lr": v}) for cls, _ in OURS.values() for v in (-1.0, math.nan, "fast", torch.tensor(-1.0))],
    *[(cls, {"weight_decay": v}) for cls, _ in OURS.values() for v in NOT_NEGATIVE],
    *[(cls, {"threshold_scale": v}) for cls, _ in OURS.values() for v in NOT_NEGATIVE],
    *[(cls, {"coordinate_clip": v}) for cls, _ in OURS.values() for v in (*FRACTION, None)],
    *[(cls, {"clip_update": v}) for cls in (AdamClip, Lion) for v in FRACTION],
    *[(cls, {"betas": v}) for cls in (AdamClip, Lion) for v in ((1.0, 0.9), (0.9, -0.1), (0.9, math.nan), (0.9,), 0.9)],
    *[(OURS[name][0], {"momentum": -0.1}) for name in ("sgd", "normalized_sgd", "sign_sgd")],
    *[(SGDClip, {"dampening": v}) for v in (-0.1, 1.1)],
    *[(AdamClip, {"eps": v}) for v in NOT_NEGATIVE],
    *[(Adafactor, {"eps2": v}) for v in ((-1e-30, 1e-3), (1e-30, -1e-3), (1e-30,), 1e-30)],
    *[(Adafactor, {"clip_threshold": v}) for v in (0, 0.0, -1.0, math.nan)],
    *[(Adafactor, {"decay_rate": v}) for v in (0.8, math.nan)],
    *[(Adafactor, {"beta1": v}) for v in (1.0, -0.1)],
]


@pytest.mark.parametrize(("optimizer_class", "option"), OUT_OF_RANGE, ids=lambda v: getattr(v, "__name__", str(v)))
def test_an_option_out_of_range_is_named_with_its_value_before_parameters_are_looked_at(optimizer_class, option):
    ((name, value),) = option.items()
    shown = value if not isinstance(value, tuple) or len(value) != 2 else ""
    with pytest.raises(ValueError) as error:
        optimizer_class(None, **option)  # None is no list of parameters: it must not be reached
    assert name in str(error.value) and str(shown) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("optimizer_class", "option"), OUT_OF_RANGE, ids=lambda v: getattr(v, "__name__", str(v)))
def test_an_option_out_of_range_is_refused_in_an_added_group(optimizer_class, option):
    optimizer = optimizer_class(make_params())
    with pytest.raises(ValueError, match=next(iter(option))):
        optimizer.add_param_group(dict(params=None, **option))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("optimizer_class", "options", "message"),
    [
        (SGDClip, dict(nesterov=True), "nesterov needs momentum > 0 and dampening = 0, got momentum=0"),
        (SGDClip, dict(nesterov=True, momentum=0.9, dampening=0.1), "dampening=0.1"),
        (Adafactor, dict(relative_step=False), "lr must be a number .* got None"),
        (Adafactor, dict(relative_step=False, lr=0.1, warmup_init=True), "warmup_init=True needs relative_step=True"),
    ],
)
def test_options_that_contradict_each_other_are_refused(optimizer_class, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer_class(None, **options)


@every_optimizer
def test_good_options_at_their_limits_are_accepted(optimizer_class, options):
    optimizer_class(make_params(), lr=0, weight_decay=0, threshold_scale=0, coordinate_clip=0)
    optimizer_class(iter(make_params()), lr=10, weight_decay=2, threshold_scale=100, coordinate_clip=0.999)


def test_relative_step_ignores_a_given_lr():
    params, twins = make_params(), make_params()
    assert same(train(Adafactor(params, lr=5.0), params), train(Adafactor(twins), twins))


@every_optimizer
def test_constructors_print_nothing(optimizer_class, options, capsys):
    train(optimizer_class(make_params(), **options), make_params(), steps=1)
    assert capsys.readouterr() == ("", "")


def test_adafactor_at_lr_zero_stays_and_goes_on():
    params = make_params()
    optimizer = Adafactor(params, lr=0.0, relative_step=False, beta1=0.9)
    assert same(train(optimizer, params, steps=2), make_params())
    optimizer.param_groups[0]["lr"] = 0.1
    assert all(bool(p.isfinite().all()) for p in train(optimizer, params, steps=2))
