"""The threshold is the exact order statistic of all magnitudes, however they are laid out; the clip is its formula."""

import math

import pytest
import torch

from torch_optimizer import clipping
from torch_optimizer.clipping import clip, clip_threshold

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FRACTIONS = [0.001, 0.05, 0.1, 0.5, 0.9, 0.999]


@pytest.fixture
def small_sample(monkeypatch):
    """A sample small enough that the bracket is used on small data."""
    monkeypatch.setattr(clipping, "SAMPLE_SIZE", 512)
    monkeypatch.setitem(clipping.PIECE_SIZE, "cpu", 1000)


@pytest.fixture
def count_selections(monkeypatch):
    """How often the slow exact selection was needed."""
    calls, select = [], clipping._select
    monkeypatch.setattr(clipping, "_select", lambda *args: (calls.append(args), select(*args))[1])
    return calls


def by_sorting(tensors, fraction):
    """The definition: sort all magnitudes, take index int(n k)."""
    magnitudes = sorted((abs(x) for t in tensors for x in t.double().flatten().tolist()), reverse=True)
    return magnitudes[int(len(magnitudes) * fraction)]


def heavy_tailed(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(*shape, generator=generator) * torch.rand(*shape, generator=generator) ** 3
    return wide.to(dtype)


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.0, 8.0), (0.1, 8.0), (0.2, 5.0), (0.4, 3.0), (0.6, 2.0), (0.8, 1.0), (0.99, 1.0)]
)
def test_threshold_is_the_magnitude_at_index_floor_of_n_times_k(fraction, expected):
    assert clip_threshold([torch.tensor([1.0, -8.0, 3.0]), torch.tensor([[-5.0], [2.0]])], fraction) == expected


def test_clip_worked_by_hand():
    assert clip(torch.tensor([4.0, -3.0, 0.5, -0.0]), 2.0).tolist() == [2.0, -2.0, 0.5, 0.0]


def test_clip_keeps_every_sign_and_raises_no_magnitude():
    x = heavy_tailed(1000)
    c = clip(x, clip_threshold([x], 0.3))
    assert torch.equal(c.sign(), x.sign()) and bool((c.abs() <= x.abs()).all()) and not torch.equal(c, x)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_is_exact_in_every_precision(small_sample, dtype, fraction):
    tensors = [heavy_tailed(40, 50, dtype=dtype), heavy_tailed(3333, seed=1, dtype=dtype)]
    assert clip_threshold(tensors, fraction) == by_sorting(tensors, fraction)


@pytest.mark.parametrize("size", [7, 4000])
def test_magnitudes_that_only_float64_tells_apart_are_ranked(small_sample, size):
    values = 1 + 1e-12 * torch.randperm(size, generator=torch.Generator().manual_seed(0)).double()
    for fraction in FRACTIONS:
        assert clip_threshold([values], fraction) == by_sorting([values], fraction)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_bracket_finds_the_threshold_without_the_slow_selection(small_sample, count_selections, fraction):
    tensors = [heavy_tailed(5000, seed=s) for s in range(4)]
    assert clip_threshold(tensors, fraction) == by_sorting(tensors, fraction)
    assert not count_selections


STRUCTURED = {
    "constant": torch.full((5000,), 3.0),
    "all zero": torch.zeros(5000),
    "mostly zero": torch.cat([torch.zeros(4000), torch.rand(1000, generator=torch.Generator().manual_seed(0))]),
    "rising": torch.arange(5000.0),
    "two values": torch.arange(5000) % 2 + 1.0,
    "few values": (torch.arange(5000) % 7 - 3.0),
    "spikes that the sample misses": torch.where(torch.arange(5000) % 11 == 1, 1e6, 1e-6),
    "period of the sample's stride": torch.where(torch.arange(5000) % 9 == 0, 1.0, torch.arange(5000.0)),
    "infinite": torch.where(torch.arange(5000) % 3 == 0, -math.inf, torch.arange(5000.0)),
}


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("values", STRUCTURED.values(), ids=STRUCTURED)
def test_threshold_is_exact_on_structured_and_repeated_values(small_sample, values, fraction):
    assert clip_threshold([values], fraction) == by_sorting([values], fraction)


@pytest.mark.parametrize("name", ["constant", "all zero", "two values"])
def test_repeated_values_need_no_slow_selection(small_sample, count_selections, name):
    clip_threshold([STRUCTURED[name]], 0.25)
    assert not count_selections


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "channels last"])
def test_memory_layout_does_not_matter(small_sample, layout):
    x = heavy_tailed(6, 10, 20, 5)
    laid_out = {
        "transposed": x.permute(3, 1, 0, 2),
        "strided": x[:, ::2, 1::3],
        "expanded": x[:1].expand(4, -1, -1, -1),
        "channels last": x.to(memory_format=torch.channels_last),
    }[layout]
    assert clip_threshold([laid_out], 0.1) == by_sorting([laid_out], 0.1)


def test_all_tensors_are_ranked_together_whatever_their_size_and_precision(small_sample):
    tensors = [heavy_tailed(3000), torch.tensor(0.25), torch.empty(0, 3), heavy_tailed(1), heavy_tailed(700).half()]
    tensors += [heavy_tailed(900, seed=2).double() / 3, heavy_tailed(50, 2).bfloat16()]
    for fraction in FRACTIONS:
        assert clip_threshold(tensors, fraction) == by_sorting(tensors, fraction)


@pytest.mark.parametrize("size", [6, 5000])
def test_nan_ranks_last_and_is_never_the_threshold(small_sample, size):
    values = torch.arange(1.0, size + 1)
    values[0] = math.nan  # was 1, the smallest
    assert clip_threshold([values], 0.5) == by_sorting([torch.arange(1.0, size + 1)], 0.5)
    assert clip_threshold([values], 0.9999) == 2.0
    values[: size // 2] = math.nan
    values[size // 2] = math.inf
    assert clip_threshold([values], 0.25) == by_sorting([values.nan_to_num(nan=0.0, posinf=1e9)], 0.25)
    assert math.isfinite(clip_threshold([values], 0.9))


def test_nothing_to_rank_gives_an_infinite_threshold():
    assert clip_threshold([], 0.5) == clip_threshold([torch.empty(0)], 0.5) == math.inf
    assert clip_threshold([torch.full((3,), math.nan)], 0.5) == math.inf


def test_clip_leaves_nan_alone_and_caps_infinities():
    c = clip(torch.tensor([math.nan, math.inf, -math.inf, 1.0]), 2.0)
    assert math.isnan(c[0]) and c[1:].tolist() == [2.0, -2.0, 1.0]


def test_threshold_beyond_a_precision_clips_nothing_in_it():
    x = torch.tensor([60000.0, -1.0], dtype=torch.float16)
    assert torch.equal(clip(x, 1e6), x)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, math.nan])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), got"):
        clip_threshold([torch.ones(3)], fraction)


def test_random_state_and_data_are_left_alone(small_sample):
    x = heavy_tailed(5000)
    state, before = torch.get_rng_state(), x.clone()
    clip(x, clip_threshold([x], 0.1))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_threshold_is_the_same_across_devices(small_sample, fraction):
    tensors = [heavy_tailed(5000, seed=s) for s in range(3)]
    on_gpu = [t.to("cuda") for t in tensors]
    assert clip_threshold(on_gpu, fraction) == clip_threshold(on_gpu[:2] + tensors[2:], fraction)
    assert clip_threshold(on_gpu, fraction) == by_sorting(tensors, fraction)
