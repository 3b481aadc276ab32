"""What the probe refuses, in one line that says what would do; and distributed models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from landscape_probe import Algorithm, LandscapeProbe
from tests.test_landscape_probe import batch_of, gradients, losses_of_batch, network

ROOT = Path(__file__).resolve().parent.parent


def probe_of(model, **options):
    return LandscapeProbe(model, losses_of_batch, **options)


def one_line(error, text):
    assert "\n" not in str(error.value) and re.search(text, str(error.value)), str(error.value)


OPTIONS = {
    "LBFGS evaluates the loss within its step": lambda m: dict(optimizer=torch.optim.LBFGS(m.parameters())),
    "algorithms', row 1: unknown optimizer 'adm'; did you mean 'adam'": lambda m: dict(algorithms=["adm"]),
    "algorithms is a list of rows, .* got 'sgd'": lambda m: dict(algorithms="sgd"),
    "'algorithms' is empty": lambda m: dict(algorithms=[]),
    "row 2: .* is the same as row 1": lambda m: dict(algorithms=["sgd", "sgd"]),
    "reference 'sgdd' is not a row; the rows are sgd, adam": lambda m: dict(
        algorithms=["sgd", "adam"], reference="sgdd"
    ),
    "labeled 'training', which is the optimizer that trains": lambda m: dict(
        algorithms=[Algorithm(type("Training", (torch.optim.SGD,), {}), lr=0.1)]
    ),
}


@pytest.mark.parametrize("text", OPTIONS)
def test_what_cannot_be_measured_is_refused_when_the_probe_is_made(text):
    model = network()
    with pytest.raises(ValueError) as error:
        probe_of(model, **OPTIONS[text](model))
    one_line(error, text)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError) as error:
        probe_of(network().requires_grad_(False))
    one_line(error, "no parameter with requires_grad: there is nothing to measure")


def test_calls_out_of_order_are_refused():
    model = network()
    probe = probe_of(model)
    with pytest.raises(ValueError) as error:
        probe.observe()
    one_line(error, r"no parameter has a gradient: call observe\(\) after backward.*DeepSpeed and FSDP shard")
    gradients(model)
    with pytest.raises(ValueError) as error:
        probe.measure(batch_of(99))
    one_line(error, r"measure\(\) needs the gradient of this update: call observe\(\)")
    with pytest.raises(ValueError) as error:
        probe.measure()
    one_line(error, r"measure\(\) takes the test batch")
    model[4].weight.requires_grad_(False)
    with pytest.raises(ValueError) as error:
        probe.observe()
    one_line(error, "4.weight was made trainable or frozen after the probe was made: make a new probe")


def test_gradients_that_change_after_they_were_observed_are_noticed_at_the_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = probe_of(model)
    gradients(model)
    probe.observe()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(ValueError) as error:
        optimizer.step()
    one_line(error, r"the gradients changed after observe\(\): call it after clip_grad_norm_")
    probe.observe()
    optimizer.step()


def test_parameters_that_no_optimizer_moves_need_advance():
    model = network()
    probe = probe_of(model)
    gradients(model)

    @torch.no_grad()
    def move():
        for p in model.parameters():
            p -= 0.1 * p.grad

    probe.observe()
    probe.advance()
    move()
    probe.observe()
    move()
    with pytest.raises(ValueError) as error:
        probe.observe()
    one_line(error, r"the parameters moved after observe\(\), .* call advance\(\) after observe\(\)")


LOSSES = {
    "got a scalar: leave out the mean over the examples": lambda m, b: losses_of_batch(m, b).mean(),
    r"got shape \[8, 2\]": lambda m, b: m(b[0]),
    "do not depend on the parameters": lambda m, b: b[0].sum(1),
    "by the model that it is given": lambda m, b: losses_of_batch(m, b).detach(),
}


@pytest.mark.parametrize("text", LOSSES)
def test_losses_that_are_not_one_per_example_are_refused(text):
    model = network(torch.float32)
    gradients(model, dtype=torch.float32)
    probe = LandscapeProbe(model, LOSSES[text])
    probe.observe()
    with pytest.raises(ValueError) as error:
        probe.measure(batch_of(99, torch.float32))
    one_line(error, text)


def test_a_sparse_gradient_is_refused():
    model = nn.Embedding(5, 2, sparse=True)
    model(torch.tensor([1, 2])).sum().backward()
    probe = probe_of(model)
    with pytest.raises(ValueError) as error:
        probe.observe()
    one_line(error, "the gradient of weight is sparse; make the embedding with sparse=False")


# ---- distributed ---------------------------------------------------------------------------------------------------


@pytest.fixture
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_under_ddp_the_first_rank_measures_the_bare_model_and_the_others_nothing(alone, monkeypatch):
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model)
    losses_of_batch(wrapped, batch_of(0)).mean().backward()
    bare, first = probe_of(model), probe_of(wrapped)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    second, all_ranks = probe_of(wrapped), probe_of(wrapped, all_ranks=True)
    found = []
    for probe in (bare, first, all_ranks, second):
        probe.observe()
        found.append(probe.measure(batch_of(99)))
    assert len(found[0]) == 4 and str(found[1]) == str(found[2]) == str(found[0]) and found[3] == []
    assert not second.state_dict()["states"]["adam"]["state"]


def test_sharded_models_are_refused(alone):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    sharded = network()
    sharded[4].weight = nn.Parameter(distribute_tensor(sharded[4].weight.detach(), init_device_mesh("cpu", (1,))))
    zero = network()
    zero[0].weight.ds_id = 3
    engine = type("DeepSpeedEngine", (nn.Sequential,), {"__module__": "deepspeed.runtime.engine"})(network())
    flat = nn.Sequential(type("FullyShardedDataParallel", (nn.Sequential,), {})(network()))
    for model, text in (
        (sharded, "^4.weight is a DTensor: FSDP and tensor parallelism shard .* measure under DDP or on one device$"),
        (zero, "^0.weight belongs to DeepSpeed's ZeRO"),
        (engine, "^DeepSpeedEngine: DeepSpeed may shard"),
        (flat, "^0 is FullyShardedDataParallel, which may shard"),
    ):
        with pytest.raises(ValueError) as error:
            probe_of(model)
        one_line(error, text)


# ---- the core alone ------------------------------------------------------------------------------------------------


def test_without_transformers_the_probe_works_and_the_callback_says_what_is_missing():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from landscape_probe import LandscapeProbe\n"
        "from landscape_probe import LandscapeCallback"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: LandscapeCallback needs transformers 4.45 or newer: pip install transformers accelerate"
    )
