"""Muon with AdamW as one row: each parameter takes the step of the optimizer that it belongs to."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from tasks import load_task
from torch_optimizer import Algorithm, MuonAdamW


class Small(nn.Module):
    """An embedding, two hidden matrices, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 4, bias=False))
        self.lm_head = nn.Linear(4, 6)


HIDDEN = ["layers.0.weight", "layers.2.weight"]


def small(dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small().to(dtype)


def set_grads(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def by_hand(model, lr=1e-3, adamw_lr=None, **muon):
    """The two optimizers of torch side by side."""
    params = dict(model.named_parameters())
    hidden = [params.pop(name) for name in HIDDEN]
    muon = Muon(hidden, lr=lr, weight_decay=0.1, **{"adjust_lr_fn": "match_rms_adamw", **muon})
    return muon, AdamW(params.values(), lr=adamw_lr or lr, weight_decay=0.1, betas=(0.9, 0.95))


def assert_equal(ours, theirs):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    "options", [{}, dict(lr=0.02, adamw_lr=3e-4, adjust_lr_fn="original"), dict(momentum=0.5, nesterov=False)], ids=str
)
def test_each_parameter_takes_the_step_of_muon_or_of_adamw_to_the_bit(options):
    ours, theirs = small(), small()
    optimizer = MuonAdamW(ours.named_parameters(), **options)
    muon, adamw = by_hand(theirs, **options)
    for seed in range(4):
        set_grads(ours, seed), set_grads(theirs, seed)
        optimizer.step(), muon.step(), adamw.step()
    assert_equal(ours, theirs)
    rates = [group["lr"] for part in (muon, adamw) for group in part.param_groups]
    assert [group["lr"] for group in optimizer.param_groups] == rates


def saved_and_loaded(optimizer, twin):
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    restored = MuonAdamW(twin.named_parameters(), lr=5.0)  # the saved options must win
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    return restored


def test_training_goes_on_the_same_after_save_and_load_and_in_a_copy():
    model = small()
    optimizer = MuonAdamW(model.named_parameters())
    for seed in range(2):
        set_grads(model, seed)
        optimizer.step()
    loaded_model = copy.deepcopy(model)
    copied_model, copied = copy.deepcopy((model, optimizer))
    loaded = saved_and_loaded(optimizer, loaded_model)
    for seed in range(2, 4):
        for m, o in ((model, optimizer), (loaded_model, loaded), (copied_model, copied)):
            set_grads(m, seed)
            o.step()
    assert_equal(model, loaded_model)
    assert_equal(model, copied_model)


def test_a_schedule_moves_both_rates():
    model = small()
    optimizer = MuonAdamW(model.named_parameters(), lr=0.02, adamw_lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()  # nothing has a gradient yet
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 5e-4]
    twin = small()
    muon, adamw = by_hand(twin, lr=0.01, adamw_lr=5e-4)
    set_grads(model, 0), set_grads(twin, 0)
    optimizer.step(), muon.step(), adamw.step()
    assert_equal(model, twin)


def test_the_direction_of_a_row_is_its_whole_step_per_unit_of_muons_rate():
    model, twin = small(), small()
    row = Algorithm("muon_adamw", lr=0.02, adamw_lr=1e-3)
    params = dict(model.named_parameters())
    set_grads(model, 0), set_grads(twin, 0)
    before = copy.deepcopy(twin)
    row.build(dict(twin.named_parameters())).step()
    directions = row.build_pseudo(params).directions()
    for (name, p), x, y in zip(params.items(), before.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(0.02 * directions[p], y - x, rtol=1e-3, atol=1e-7, msg=name)


def test_a_pseudo_update_goes_on_the_same_after_a_restart():
    model = small()
    params, row = dict(model.named_parameters()), Algorithm("muon_adamw")
    whole, parted = row.build_pseudo(params), row.build_pseudo(params)
    set_grads(model, 0)
    whole.directions(), parted.advance(collect=False)
    restarted = row.build_pseudo(params)
    restarted.load_state_dict(copy.deepcopy(parted.state_dict()))
    set_grads(model, 1)
    expected, found = whole.directions(), restarted.directions()
    assert all(torch.equal(found[p], expected[p]) for p in params.values())


def test_the_closure_is_evaluated_once_with_gradients():
    model, calls = small(), []
    optimizer = MuonAdamW(model.named_parameters())

    def closure():
        calls.append(torch.is_grad_enabled())
        set_grads(model, 0)
        return torch.tensor(3.0)

    assert optimizer.step(closure).item() == 3.0 and calls == [True]


def test_a_model_of_matrices_alone_or_of_none_is_moved():
    for model, names in ((nn.Linear(3, 2, bias=False), [["weight"]]), (nn.LayerNorm(3), [["weight", "bias"]])):
        optimizer = MuonAdamW(model.named_parameters())
        set_grads(model, 0)
        before = copy.deepcopy(model)
        optimizer.step()
        assert [group["param_names"] for group in optimizer.param_groups] == names
        assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ([nn.Parameter(torch.ones(2, 2))], {}, "give it model.named_parameters"),
        ([("a", nn.Parameter(torch.ones(2, 2)))], dict(adamw_names="("), "adamw_names must be a regular expression"),
        ([("a", nn.Parameter(torch.ones(2, 2)))], dict(lr=-1.0), "Learning rate should be >= 0"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        MuonAdamW(params, **options)


def test_later_groups_are_refused():
    optimizer = MuonAdamW(small().named_parameters())
    with pytest.raises(ValueError, match="takes no further groups"):
        optimizer.add_param_group(dict(params=[("a", nn.Parameter(torch.ones(2)))]))


TASKS = ["toy", "masked_language_modeling", "autoregressive", "binary_classification", "image_classification"]


@pytest.mark.parametrize("name", TASKS)
def test_embeddings_and_heads_of_the_tasks_models_go_to_adamw_and_all_other_matrices_to_muon(name):
    model = load_task(name, dataset="toy", model="toy", dataset_size=40, seed=0).model
    muon = {n for group in MuonAdamW(model.named_parameters()).param_groups[:-1] for n in group["param_names"]}
    outputs = list(model.named_modules())[-1][0] + ".weight"  # a head is the last module
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for n, p in model.named_parameters():
        is_head = n == outputs or n.split(".")[0] in ("lm_head", "classifier")
        assert (n in muon) == (p.ndim == 2 and id(p) not in tables and not is_head), n
