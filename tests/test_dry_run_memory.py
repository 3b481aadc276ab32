"""The memory that --dry_run tells is what the tensors of the run then take."""

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

from runs.estimate import Estimate, Part, free_memory
from tests.helpers import tiny_run
from tests.helpers.stored_runs import HESSIAN
from tests.helpers.tiny_run import Tiny
from training.memory import LiveBytes, held_and_peak, largest, model_bytes, stand_ins, state_bytes

CPU = torch.device("cpu")


class Wide(Tiny):
    """Tiny with 80,000 parameters."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)  # searches for eigenvalues then take as many products as the tried one
            self.model[0], self.model[1], self.model[4] = nn.Linear(3, 400), nn.LayerNorm(400), nn.Linear(400, 200)


# ---- counting live tensors ------------------------------------------------------------------------------------------


def test_a_tensor_counts_from_its_making_to_its_end_and_what_was_there_does_not():
    x = torch.ones(100)
    with LiveBytes(CPU) as live:
        y = x * 2  # 400 bytes
        y.view(10, 10).add_(1)
        x.mul_(2), x.view(10, 10).t()
        assert live.now == 400
        z = torch.zeros(50, dtype=torch.float64)
        assert (live.now, live.peak) == (800, 800)
        del y
        assert (live.now, live.peak) == (400, 800)
        del z
        assert live.now == 0


def test_what_is_held_at_the_end_and_at_most_are_told_apart():
    x = torch.ones(100)
    assert held_and_peak(lambda: (x * 2).sum(), CPU) == (4, 404)


def test_the_micro_batch_with_the_most_padded_tokens_is_tried():
    lengths = [1, 2, 3, 4, 9]
    assert largest([[0, 1, 2], [3, 4]], lengths.__getitem__) == [3, 4]
    assert largest([[0, 1, 2], [3]], lengths.__getitem__) == [0, 1, 2]
    assert largest([[0], [1, 2]], lambda index: 0) == [1, 2]


def test_a_state_that_is_stored_flat_counts_its_elements():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(4, 6))])
    params = {"w": torch.zeros(4, 6)}
    (small,) = tiny = list(stand_ins(params).values())
    optimizer.state[small] = {"flat": torch.zeros(small.numel()), "square": torch.zeros(small.shape[0], small.shape[0])}
    optimizer.state[small]["step"] = torch.tensor(1.0)
    assert state_bytes(optimizer, tiny, list(params.values())) == 4 * (24 + 16 + 1)


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_the_first_parts_get_the_memory_and_those_without_room_are_named():
    parts = [Part("model", nbytes=4, device="cuda"), Part("states", nbytes=5, device="cpu"),
             Part("directions", nbytes=9, device="cuda"), Part("one recording", nbytes=3, device="cuda")]  # fmt: skip
    estimate = Estimate(parts, {"cuda": 10, "cpu": 5}, "")
    assert (estimate.needed("cuda"), estimate.would_not_fit("cuda"), estimate.would_not_fit("cpu")) == (
        16,
        ["directions"],
        [],
    )
    assert estimate.fit() == ["On cuda about 0.016 kB are needed, 0.01 kB are free: no room for directions.",
                           "On cpu about 0.005 kB are needed, 0.005 kB are free."]  # fmt: skip
    assert "how much is free is not known" in Estimate(parts[:1], {}, "").fit()[0]


def test_free_memory_is_what_the_system_calls_available(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    7 kB\n")
    monkeypatch.setattr("runs.estimate.MEMORY", tmp_path / "meminfo")
    assert free_memory(torch.device("cpu")) == 7 * 1024
    monkeypatch.setattr("runs.estimate.MEMORY", tmp_path / "nowhere")
    assert free_memory(torch.device("cpu")) is None


def test_what_is_held_at_one_time_has_its_place_at_another():
    parts = [Part("model", nbytes=4, device="cpu"), Part("micro-batch", nbytes=5, device="cpu", during="training"),
             Part("directions", nbytes=2, device="cpu", during="measuring"),
             Part("recording", nbytes=4, device="cpu", during="measuring")]  # fmt: skip
    estimate = Estimate(parts, {"cpu": 8}, "")
    assert estimate.needed("cpu") == 10 and estimate.would_not_fit("cpu") == ["micro-batch", "recording"]
    assert Estimate(parts, {"cpu": 10}, "").would_not_fit("cpu") == []


# ---- the run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken(monkeypatch):
    """run(script, flags) -> bytes predicted, of them a checkpoint's copy, bytes of the tensors of the run at most."""
    monkeypatch.setattr(tiny_run, "Tiny", Wide)
    found = []

    def counting(run):
        def measured(*arguments):
            told, model = run.estimate(), run.estimate.args[0].model
            found.append(told.needed("cpu"))
            found.append(sum(part.nbytes for part in told.parts if part.what.startswith("copy of")))
            gc.collect()
            with LiveBytes(CPU, model.parameters()) as live:
                result = run.work(*arguments)
            found.append(live.peak + model_bytes(model))
            return result

        return replace(run, work=measured)

    def run(script, flags, folder):
        prepare = tiny_run.PREPARE[script]
        monkeypatch.setitem(tiny_run.PREPARE, script, lambda *arguments: counting(prepare(*arguments)))
        assert tiny_run.main(script, [*flags, "--output_dir", str(folder)]) == 0
        return found

    return run


SHORT = ["--num_epochs", "2", "--test_epochs", "1", "--num_sample_sharpness", "1", "--skip_search"]
WHOLE = ["--micro_batch_size", "500"]
LARGE = ["--dataset_size", "1500", "--batch_size", "500", "--micro_batch_size", "1500", "--test_batch_size", "1500"]


@pytest.mark.parametrize("script, flags", [
    ("landscape", SHORT),
    ("landscape", [*SHORT, *LARGE, "--num_epochs", "1"]),
    ("landscape", [*SHORT, "--clip_sweep", "--dtype", "float64"]),
    ("convergence", ["--num_epochs", "1"]),
    ("convergence", ["--num_epochs", "2", "--dataset_size", "500", "--batch_size", "500", *WHOLE]),
    ("landscape", [*SHORT, "--top_eigenvalues"]),
    ("hessian", ["--max_iterations", "10"]),
    ("hessian", []),
    ("hessian", ["--max_iterations", "4", "--dataset_size", "600", "--batch_size", "300", "--micro_batch_size", "100"]),
], ids=lambda value: value if isinstance(value, str) else " ".join(value[-4:]))  # fmt: skip
def test_a_run_takes_what_was_told(tiny_task, taken, script, flags, tmp_path):
    base = HESSIAN if script == "hessian" else tiny_run.FLAGS.split()
    told, copy, took = taken(script, [*base, *flags], tmp_path / "run")
    assert told < 1.15 * took and took - copy < 1.15 * told  # the copy may not be written by the next update
