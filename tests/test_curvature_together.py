"""Directions that are pushed through a recording together have the numbers that they have one by one."""

import pytest
import torch

from curvature import memory, together, vhv_by_recording
from curvature.borrowing import KeepPrecision, measuring
from curvature.direction import Direction, even_groups
from curvature.objective import functional_loss, trainable_parameters
from curvature.operation import Operation, Rule, nested
from curvature.rules import RULES
from curvature.tape import Tape
from landscape_utils import directional_sharpness
from tests.helpers.tiny_models import random_direction, tiny_t5
from tests.test_architectures import MODELS, tiny
from tests.test_curvature import ARCHITECTURES, CASES, architecture, in_float64, tensor

aten = torch.ops.aten
G = 3


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """The operations whose rule torch.vmap could not take."""
    names = set()
    monkeypatch.setattr(together, "_one_by_one", names)
    return names


@pytest.fixture
def a_gpu_with(monkeypatch):
    """As if the tensors of this test were on a GPU for which so many bytes are planned."""

    def with_bytes(count):
        for module in ("direction", "together"):
            monkeypatch.setattr(f"curvature.{module}.planned_bytes", lambda device: count)

    return with_bytes


def assert_same(measured, expected, rtol=1e-12):
    for ours, alone, scale in zip(
        measured[1:], expected[1:], (expected.slopes, *[expected.magnitudes] * 2), strict=True
    ):
        assert (ours - alone).abs().le(rtol * scale.abs()).all(), (ours, alone)


def t5():
    """(loss function, params, batch) in float64"""
    model, losses, batch = tiny_t5()
    return functional_loss(model, losses), {n: p.detach() for n, p in model.named_parameters()}, batch


# ---- the same numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_rule_takes_stacked_tangents(name):
    func, args, kwargs = CASES[name]
    rule = RULES[func]
    flat = [t for a in args for t in (a if isinstance(a, list) else [a])]
    floats = [i for i, t in enumerate(flat) if isinstance(t, torch.Tensor) and t.is_floating_point()][:3]
    result = func(*args, **kwargs)
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    for n in range(1, 2 ** len(floats)):
        chosen = [i for bit, i in enumerate(floats) if n >> bit & 1]
        for kept in (results, []) if rule.optional_output else (results if rule.keep_output else [],):

            def tangents(direction, chosen=chosen):
                places = iter(range(100))
                return nested(lambda t: tensor(*t.shape, seed=direction) if next(places) in chosen else None, args)  # noqa: B023

            op = Operation(func, tangents(0), list(args), kwargs, results, rule, list(kept))
            op.prepare([results[0].cos(), *[None] * (len(results) - 1)])
            alone = [rule.push(op, tangents(k)) for k in range(G)]
            stacked = nested(lambda *ts: ts[0] if ts[0] is None else torch.stack(ts), *map(tangents, range(G)))
            has_bend = alone[0][1] is not None

            def push(tangents, op=op, has_bend=has_bend):
                dy, bend = rule.push(op, tangents)
                return dy, bend if has_bend else torch.zeros(())

            in_dims = nested(lambda t: None if t is None else 0, stacked)
            dys, bends = torch.vmap(push, in_dims=(in_dims,))(stacked)
            for k, (dy, bend) in enumerate(alone):
                torch.testing.assert_close(dys[k], dy, rtol=1e-12, atol=1e-12)
                if bend is not None:
                    torch.testing.assert_close(bends[k], bend, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name, attention", [*ARCHITECTURES, ("gpt2", "eager"), ("t5", "")])
def test_every_architecture_has_the_numbers_of_directions_pushed_alone(name, attention, one_by_one):
    torch.manual_seed(0)
    loss_fn, params, batch = t5() if name == "t5" else in_float64(*architecture(name, attention))
    directions = [random_direction(params, seed) for seed in range(4)]
    with KeepPrecision():
        alone = vhv_by_recording(loss_fn, params, directions, batch, together=1)
        for size in (3, 4):
            assert_same(vhv_by_recording(loss_fn, params, directions, batch, together=size), alone)
    assert not one_by_one  # every rule took them stacked


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_a_task_has_the_numbers_of_directions_pushed_alone(name, one_by_one):
    model, losses, batch = tiny(name)
    model.double()
    batch = {k: t.double() if t.is_floating_point() else t for k, t in batch.items()}
    with measuring(model):
        params, loss_fn = trainable_parameters(model), functional_loss(model, losses)
        directions = [random_direction(params, seed) for seed in range(5)]
        alone = vhv_by_recording(loss_fn, params, directions, batch, together=1)
        assert_same(vhv_by_recording(loss_fn, params, directions, batch, together=5), alone)
    assert not one_by_one


def test_an_operation_without_a_rule_takes_stacked_directions_one_by_one(one_by_one):
    params = {"x": tensor(4), "m": tensor(3, 3) + 2 * torch.eye(3, dtype=torch.float64)}
    directions = [random_direction(params, seed) for seed in range(3)]

    def loss_fn(p, b):  # a sort has two outputs; one of them never moves
        return p["x"].tanh().logsumexp(0) * p["x"].sort()[0].exp() + p["m"].det().log() * p["x"].std()

    alone = vhv_by_recording(loss_fn, params, directions, {}, together=1)
    assert_same(vhv_by_recording(loss_fn, params, directions, {}, together=3), alone)
    assert not one_by_one  # it was known beforehand


def test_a_parameter_that_the_loss_does_not_read_is_left_out():
    params = {"unread": tensor(5), "x": tensor(4)}
    directions = [random_direction(params, seed) for seed in range(2)]
    slopes, curvatures = vhv_by_recording(lambda p, b: p["x"] ** 2, params, directions, {}, together=2)[1:3]
    torch.testing.assert_close(slopes, torch.stack([(2 * params["x"] * v["x"]).sum() for v in directions]))
    torch.testing.assert_close(curvatures, torch.stack([2 * v["x"].square().sum() for v in directions]))


def test_parts_of_directions_are_stacked_with_those_that_move_the_same_tensors(monkeypatch):
    loss_fn, params, batch = t5()
    matrices = [n for n, p in params.items() if p.dim() == 2][3:7]
    vectors = [n for n, p in params.items() if p.dim() == 1][:2]
    whole = [Direction(random_direction(params, seed)) for seed in range(4)]
    directions = [*whole[:2], whole[2].part(matrices), whole[3].part(matrices), whole[0].part(vectors)]
    alone = vhv_by_recording(loss_fn, params, directions, batch, together=1)
    stacked, sizes = together.push_stacked, []
    monkeypatch.setattr(together, "push_stacked", lambda tape, some: sizes.append(len(some)) or stacked(tape, some))
    assert_same(vhv_by_recording(loss_fn, params, directions, batch, together=5), alone)
    assert sizes == [2, 2, 1]


def test_stacked_parts_that_reach_nothing_are_zero():
    params = {"unread": tensor(5), "x": tensor(4)}
    parts = [{"unread": tensor(5, seed=k)} for k in range(2)]
    derivatives = vhv_by_recording(lambda p, b: p["x"].sort()[0].tanh(), params, parts, {}, together=2)
    assert derivatives.slopes.tolist() == derivatives.curvatures.tolist() == [0, 0]


def test_stacked_directions_give_the_same_bytes_every_time():
    loss_fn, params, batch = t5()
    directions = [random_direction(params, seed) for seed in range(4)]
    first, second = (vhv_by_recording(loss_fn, params, directions, batch, together=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---- rules that torch.vmap cannot take ------------------------------------------------------------------------------


def reads_a_number(op, tangents):
    dx, y = tangents[0], op.values[0].tanh()
    assert dx.abs().max().item() > 0  # torch.vmap refuses .item()
    return (1 - y * y) * dx, (op.adjoints[0] * -2 * y * (1 - y * y) * dx * dx).sum()


def writes_into_what_is_not_stacked(op, tangents):
    y = op.values[0].tanh()
    return torch.ones_like(y).sub_(y * y).mul_(tangents[0]), (
        op.adjoints[0] * -2 * y * (1 - y * y) * tangents[0] ** 2
    ).sum()


@pytest.mark.parametrize("push", [reads_a_number, writes_into_what_is_not_stacked])
def test_a_rule_that_vmap_refuses_gets_the_directions_one_by_one_with_one_line_in_the_log(push, monkeypatch, caplog):
    params = {"x": tensor(4), "y": tensor(4, seed=1)}
    directions = [random_direction(params, seed) for seed in range(3)]
    loss_fn = lambda p, b: (p["x"].tanh() * p["y"]).exp().tanh()  # noqa: E731
    alone = vhv_by_recording(loss_fn, params, directions, {}, together=1)
    monkeypatch.setitem(RULES, aten.tanh.default, Rule(push, keep_inputs=True))
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert_same(vhv_by_recording(loss_fn, params, directions, {}, together=3), alone)
    assert [record.message.split(" directions")[0] for record in caplog.records] == ["aten.tanh.default takes the"]
    assert "one by one" in caplog.text and "\n" not in caplog.records[0].message


# ---- how many together --------------------------------------------------------------------------------------------


def test_groups_are_few_and_alike():
    assert [even_groups(12, most) for most in (100, 12, 11, 7, 5, 1, 0)] == [12, 12, 6, 6, 4, 1, 1]
    assert even_groups(7, 3) == 3


def test_a_cpu_pushes_pairs_and_a_gpu_as_many_as_its_memory_holds(a_gpu_with, monkeypatch):
    loss_fn, params, batch = t5()
    directions = [random_direction(params, seed) for seed in range(6)]
    sizes = []
    routes = {module: module.push for module in (Tape,)}
    stacked = together.push_stacked
    monkeypatch.setattr(Tape, "push", lambda tape, some: sizes.append(len(some)) or routes[Tape](tape, some))
    monkeypatch.setattr(together, "push_stacked", lambda tape, some: sizes.append(-len(some)) or stacked(tape, some))
    each = []
    of_one = Tape.bytes_per_direction
    monkeypatch.setattr(Tape, "bytes_per_direction", lambda tape: each.append(of_one(tape)) or each[-1])

    def pushed():
        sizes.clear()
        vhv_by_recording(loss_fn, params, directions, batch)
        return sizes.copy()

    assert pushed() == [2, 2, 2] and not each  # side by side
    a_gpu_with(2**40)
    assert pushed() == [-6]
    a_gpu_with(4 * each[0])
    assert pushed() == [-3, -3]
    a_gpu_with(1)
    assert pushed() == [1] * 6


def test_the_memory_of_a_direction_is_the_most_that_its_tangents_take():
    params = {"x": torch.ones(10), "w": torch.ones(10, 20)}  # float32
    tape = Tape({n: p.requires_grad_() for n, p in params.items()})
    with tape:
        y = params["x"] @ params["w"]  # 4 * 20 bytes, after views of its own
        losses = (y * y).sum().view(1)
    tape.finish(losses)
    parameters = 4 * (10 + 200)
    assert tape.bytes_per_direction() >= parameters + 4 * 20 + 3 * 4 * 20
    assert tape.bytes_per_direction() <= 2 * parameters + 10 * 4 * 20


def test_fewer_go_together_where_memory_runs_out(monkeypatch, caplog):
    loss_fn, params, batch = t5()
    directions = [random_direction(params, seed) for seed in range(5)]
    stacked, tried = together.push_stacked, []

    def small(tape, group):
        tried.append(len(group))
        if len(group) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stacked(tape, group)

    alone = vhv_by_recording(loss_fn, params, directions, batch, together=1)
    monkeypatch.setattr(together, "push_stacked", small)
    pushes = together.Together(5)
    with caplog.at_level("WARNING"):
        assert_same(vhv_by_recording(loss_fn, params, directions, batch, pushes), alone)
        assert tried == [5, 3, 2, 2, 1]
        vhv_by_recording(loss_fn, params, directions, batch, pushes)
    assert tried[5:] == [2, 2, 1]  # it is remembered
    assert [r.message for r in caplog.records] == ["out of memory: continuing with 2 directions at once"]


def test_memory_that_does_not_hold_one_direction_stays_an_error(monkeypatch):
    def full(tape, group):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Tape, "push", full)
    with pytest.raises(torch.OutOfMemoryError):
        vhv_by_recording(lambda p, b: p["x"] ** 2, {"x": tensor(3)}, [{"x": tensor(3)}], {}, together=1)


def test_no_direction_together_is_refused():
    with pytest.raises(ValueError, match="together is the number of directions .* got 0"):
        vhv_by_recording(lambda p, b: p["x"] ** 2, {"x": tensor(3)}, [{"x": tensor(3)}], {}, together=0)


def test_what_is_planned_does_not_depend_on_what_is_free():
    assert memory.planned_bytes(torch.device("cpu")) is None
    assert memory.planned_bytes(torch.device("meta")) == 2**30


# ---- groups of directions on another device ---------------------------------------------------------------------


class Counted(dict):
    """A direction's tensors, which counts how often each is asked for."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.asked = dict.fromkeys(tensors, 0)

    def __getitem__(self, name):
        self.asked[name] += 1
        return super().__getitem__(name)


def test_each_direction_is_brought_once_per_point_and_not_once_per_micro_batch(a_gpu_with):
    loss_fn, params, batch = t5()
    parts = [{k: t[i : i + 1] for k, t in batch.items()} for i in range(5)]
    directions = [Counted({n: v.float() for n, v in random_direction(params, seed).items()}) for seed in range(5)]

    def measured(parts):
        """(numbers, how often a tensor was asked for, micro-batches per group)"""
        for v in directions:
            v.asked = dict.fromkeys(v, 0)
        rounds = []
        quadratics = directional_sharpness(
            loss_fn, params, directions, parts, progress=lambda b: rounds.append(len(b)) or b
        )
        return quadratics, {n for v in directions for n in v.asked.values()}, rounds

    expected, asked, rounds = measured(parts)
    assert min(asked) > len(parts) and rounds == [5]
    a_gpu_with(2 * sum(p.nbytes for p in params.values()))  # room for two of the five
    (_, for_one, _), (found, for_five, rounds) = measured([batch]), measured(parts)
    assert for_one == for_five
    assert rounds == [5, 5, 5]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.loss, ours.slope, ours.sharpness) == pytest.approx(
            (theirs.loss, theirs.slope, theirs.sharpness), rel=1e-12
        )


def test_directions_that_are_used_as_they_are_make_one_group(a_gpu_with):
    loss_fn, params, batch = t5()
    directions = [random_direction(params, seed) for seed in range(5)]
    a_gpu_with(1)
    rounds = []
    directional_sharpness(loss_fn, params, directions, [batch], progress=lambda b: rounds.append(len(b)) or b)
    assert rounds == [1]
