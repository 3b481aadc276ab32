"""What a run asks of a GPU: float32 that is float32, and a word where float64 costs little. No GPU is needed."""

import pytest
import torch

from runs.machine import prepare_machine, recommend_float64

GPU, CPU = torch.device("cuda:1"), torch.device("cpu")


@pytest.fixture
def a_gpu(monkeypatch):
    """a_gpu(capability): torch.cuda has one, of this compute capability."""

    def pretend(capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == GPU else (0, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")

    return pretend


@pytest.mark.parametrize("capability, dtype, device, wanted", [
    ((8, 0), "float32", GPU, True),  # A100
    ((9, 0), "float32", GPU, True),  # H100, H200
    ((9, 0), "float64", GPU, False),  # that is what it does
    ((9, 0), "float32", CPU, False),
    ((8, 6), "float32", GPU, False),  # A40, RTX 3090
    ((8, 9), "float32", GPU, False),  # L4, L40, RTX 4090
    ((10, 0), "float32", GPU, False),  # B200
    ((10, 3), "float32", GPU, False),  # B300
    ((12, 0), "float32", GPU, False),  # RTX 5090
])  # fmt: skip
def test_float64_is_recommended_where_the_gpu_computes_it_at_full_rate(
    capability, dtype, device, wanted, a_gpu, caplog
):
    caplog.set_level("INFO")
    a_gpu(capability)
    recommend_float64(device, dtype)
    said = ["NVIDIA H200 computes in float64 at full rate: --dtype float64 measures without rounding errors"]
    assert [record.message for record in caplog.records] == said * wanted


def test_a_gpu_of_another_maker_has_other_numbers(a_gpu, monkeypatch, caplog):
    caplog.set_level("INFO")
    a_gpu((9, 0))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    recommend_float64(GPU, "float32")
    assert not caplog.records


def test_neither_matrix_products_nor_convolutions_of_training_are_in_tf32(a_gpu, monkeypatch):
    a_gpu((9, 0))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        prepare_machine()
        assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
