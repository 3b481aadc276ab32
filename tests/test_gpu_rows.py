"""The benchmarks on a GPU, each by its own command: here at a tiny size on the CPU, and on a second device."""

import importlib
import multiprocessing
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves

from benchmarks import landscape, sharpness
from benchmarks._machine import KEEP_BLOCKS, Machine, in_a_process, read
from benchmarks._peers import PEERS
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks, others
from benchmarks.gpu.models import MODELS
from tests.helpers import other_device
from tests.helpers.other_device import META

CPU = torch.device("cpu")
COUNTED_ELSEWHERE = "launches"  # tests/test_launches.py
COMMANDS = [
    one for one in (*others.MEASURING, *others.TRAINING) if one.tiny is not None and one.name != COUNTED_ELSEWHERE
]
MARKED = [
    pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in ("landscape", "probe") else [])
    for one in COMMANDS
    if one.name not in ("training", "hessian")  # which are below, without their peers
]


def in_this_process(words, device, seconds):
    module = importlib.import_module(words[0])
    return "it failed" if module.main(words[1:]) else None


@pytest.fixture(autouse=True)
def without_restart_and_figures(monkeypatch):
    monkeypatch.setattr("run_landscape.draw_all", lambda folder: [])
    for name, value in KEEP_BLOCKS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", MARKED)
def test_a_benchmark_writes_its_table_into_the_folder_that_it_is_given(command, tmp_path):
    (row,) = others.rows_of([command], CPU, True, tmp_path, in_this_process)
    assert row["passed"] and row["tables"].startswith(command.name)
    assert read(tmp_path / row["tables"])


@pytest.fixture
def second_device(monkeypatch):
    """It cannot make views in inference mode, loses the ties of weights, and has neither clock nor memory."""
    off, to = torch.no_grad(), torch.nn.Module.to
    monkeypatch.setattr(torch.inference_mode, "__enter__", lambda self: off.__enter__())
    monkeypatch.setattr(torch.inference_mode, "__exit__", lambda self, *error: off.__exit__(*error))

    def tied(model, *place):
        moved = to(model, *place)
        if hasattr(moved, "tie_weights"):
            moved.tie_weights()
        return moved

    operations, timed, known = [], [], other_device.on_its_device

    def counted(func, args, kwargs):
        if any(isinstance(t, other_device.There) for t in tree_leaves((args, kwargs))):
            operations.append(func)
        return known(func, args, kwargs)

    def clock(self):
        timed.append(len(operations))
        return time.perf_counter()

    monkeypatch.setattr(torch.nn.Module, "to", tied)
    monkeypatch.setattr(other_device, "on_its_device", counted)
    monkeypatch.setattr(Machine, "clock", clock)
    monkeypatch.setattr(Machine, "peak_mb", lambda self, function, *args: (function(*args), 1.0)[1])
    with other_device.OtherDevice():
        yield timed


OWN_TENSORS = [
    pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in ("hessian", "probe") else [])
    for one in COMMANDS
    if one.name not in ("landscape", "training", "sharpness")  # the first two make no tensors of their own
]


@pytest.mark.parametrize("command", OWN_TENSORS)
def test_a_benchmark_keeps_its_tensors_on_the_device(command, tmp_path, second_device):
    (row,) = others.rows_of([command], META, True, tmp_path, in_this_process)
    assert row["passed"] and read(tmp_path / row["tables"])
    if command.name != "checkpoints":  # it has a clock of its own
        assert max(second_device) > min(second_device) + 10  # something was computed there while the clock ran


@pytest.mark.slow
def test_ours_and_its_peers_stay_on_the_device(tmp_path, second_device):
    skip = [name for name in PEERS if "func" in name or "curv" in name or "512" in name]  # it knows no dual numbers
    flags = [
        "--size",
        "tiny",
        "--rounds",
        "1",
        "--directions",
        "2",
        "--threads",
        "1",
        "--device",
        "meta",
        "--output",
        str(tmp_path),
    ]
    sharpness.main([*flags, "--skip", *skip])
    rows = read(tmp_path / "sharpness_tiny.csv")
    assert len(rows) == 1 + len(PEERS) - len(skip) and all(float(row["difference"]) < 1e-3 for row in rows)


def test_steps_histograms_and_thresholds_are_checked_on_the_device(second_device, monkeypatch):
    def failed():
        before_the_models = islice(checks.found(META, tiny=True), 12 * 2 + 4)
        return [name for name, difference, allowed in before_the_models if difference > allowed]

    assert failed() == []
    monkeypatch.setattr(checks, "histogram", lambda v: next(iter(v.values())).device)
    assert len(failed()) == 12  # each was compared with that of the CPU


@pytest.mark.slow
def test_the_first_point_is_compared_on_the_device(second_device, monkeypatch):
    monkeypatch.setattr(checks, "MODELS", {"t5-small": MODELS["t5-small"]})
    rows = checks.agreement(META, tiny=True)
    assert len(rows) == 8 and [row for row in rows if not row["passed"]] == []


def test_the_passes_of_the_original_are_timed_on_the_device(second_device):
    task = MODELS["t5-small"](2, True)
    task.model.to(META)
    spent = landscape.seconds_per_example(Machine(META), task, 20, 1)
    assert spent.keys() == {"training", "sharpness", "scan"} and all(seconds > 0 for seconds in spent.values())


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_a_table_of_the_cpu_never_replaces_one_of_its_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    gpu, cpu = Machine("cuda"), Machine("cpu")
    assert gpu.folder.name == "nvidia-h200" and gpu.folder != cpu.folder
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert cpu.path("scan_small").name == "scan_small_2_threads.csv"
    assert gpu.path("scan_small").name == "scan_small.csv" and "wall time" in str(gpu)


def test_rows_with_other_keys_stay_in_a_table(tmp_path, capsys):
    machine = Machine(CPU, tmp_path)
    machine.report("memory", [dict(run="one", ratio=1.0), dict(run="two", ratio=1.1)], keys=["run"])
    machine.report("memory", [dict(run="one", ratio=0.9)], keys=["run"])
    path = machine.path("memory")
    assert {row["run"]: row["ratio"] for row in read(path)} == {"one": "0.9", "two": "1.1"}
    machine.report("memory", [dict(run="three", ratio=1.0)])
    assert [row["run"] for row in read(path)] == ["three"]


def sleeps(pid_file):
    script = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    in_a_process(["timeit", "-n1", "-r1", script])


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=sleeps, args=[tmp_path / "pid"])
    parent.start()
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = Path("/proc") / (tmp_path / "pid").read_text()
    assert child.exists()
    parent.kill()
    eventually(lambda: not child.exists() or "Z (zombie)" in (child / "status").read_text())


def eventually(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_benchmark_that_fails_or_takes_too_long_is_named_in_one_line():
    assert others.by_command(["benchmarks.no_such_benchmark"], CPU, 60) == "exit status 1"
    assert others.by_command(["timeit", "-n1", "-r1", "import time; time.sleep(60)"], CPU, 0.3) == "took more than 0 s"


@pytest.mark.parametrize("device, seen, expected", [
    ("cuda", None, "0"), ("cuda:1", None, "1"), ("cuda", "3,5", "3"), ("cuda:1", "3,5", "5"),
])  # fmt: skip
def test_a_benchmark_sees_one_gpu(device, seen, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    asked = []
    monkeypatch.setattr(
        others, "in_a_process", lambda *_, env, **__: asked.append(env) or SimpleNamespace(returncode=0)
    )
    assert others.by_command(["benchmarks.scan"], torch.device(device), 1) is None
    assert asked[0]["CUDA_VISIBLE_DEVICES"] == expected


def test_the_others_go_on_within_the_time_of_their_part_and_earlier_tables_stay(tmp_path, monkeypatch, capsys):
    now, asked = [0.0], []
    monkeypatch.setattr(others.time, "perf_counter", lambda: now[0])

    def how(words, device, seconds):
        asked.append((words, seconds))
        now[0] += 300
        if words[0] == "benchmarks.scan":
            return "exit status 1"
        (Path(words[-1]) / "clipping_cuda.csv").write_text("n\n1\n")
        return None

    (tmp_path / "clipping_cuda.csv").write_text("of yesterday\n")
    commands = [others.Command("scan", "--examples 9", "", 100), others.Command("clipping", "", "", 200)]
    rows = others.rows_of([*commands, commands[0]], torch.device("cuda"), False, tmp_path, how)
    assert [row["trouble"] for row in rows] == ["exit status 1", "", "no time was left"]
    assert [row["tables"] for row in rows] == ["", "clipping_cuda.csv", ""]
    assert [seconds for _, seconds in asked] == [100, others.LIMIT - 300]
    assert asked[0][0][:5] == ["benchmarks.scan", "--examples", "9", "--device", "cuda"]
    assert (tmp_path / "clipping_cuda.1.csv").read_text() == "of yesterday\n"
    assert "scan: no time was left" in capsys.readouterr().out


def test_a_prediction_of_memory_that_is_off_is_a_check_that_fails(tmp_path):
    def how(words, device, seconds):
        Machine(CPU, Path(words[-1])).report("memory", [
            dict(run=run, predicted_mb=mb, tensors_mb=100.0, ratio=mb / 100) for run, mb in (("a", 119.0), ("b", 121.0))
        ])  # fmt: skip

    rows = others.memory(CPU, False, tmp_path, how)
    assert [row["passed"] for row in rows] == [True, True, False]
    text = gpu.summary(tmp_path, {}, CPU, True)["summary.md"]
    assert "predicted over counted memory" not in text  # the part has no table yet
    gpu.write(tmp_path / "gpu_memory.csv", rows)
    text = gpu.summary(tmp_path, {}, CPU, True)["summary.md"]
    assert "| memory | predicted over counted memory | 1.19 to 1.21 | 0.8 to 1.2 | no |" in text
    assert "| memory | passed | 2 of 3 | all | no |" in text


@pytest.mark.parametrize("name", ["training", pytest.param("hessian", marks=pytest.mark.slow)])
def test_a_peer_that_is_not_installed_is_left_out_where_that_is_asked_for(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks._machine.find_spec", lambda name: None)
    (command,) = [one for one in COMMANDS if one.name == name]
    words = command.words(True, CPU, tmp_path)
    main = importlib.import_module(words[0]).main
    main(words[1:])
    (table,) = tmp_path.glob("*.csv")
    row = read(table)[-1]
    assert row.get("trainer_per_second", "") == "" and row.get("method", "") in ("", "paper")
    with pytest.raises(SystemExit) as ended:
        main([word for word in words[1:] if word != "--without_missing"])
    assert ended.value.code == 2
