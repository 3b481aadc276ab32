"""Whatever stands in a local file or in a row of an algorithm list: it works, or one line says why not."""

import gzip
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tasks.loading.rows import load_rows, load_splits, require_label, require_text
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.rows import check_rows

pytestmark = pytest.mark.usefixtures("own_cache")
MANY = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
REVIEW = st.fixed_dictionaries({"text": st.text(max_size=20), "label": st.integers(-2, 5)})
ROWS = st.lists(REVIEW | st.fixed_dictionaries({}, optional={"text": JSON, "label": JSON}) | JSON, max_size=6)


def check_review(row):
    require_text(row, "text")
    require_label(row)


def read(path: Path):
    """The rows, each as it was promised; or None, where one line that names the file said what is wrong."""
    try:
        rows = load_rows(str(path), 1_000, check_review, lambda: load_splits(str(path)), fewest=1)
    except ValueError as error:
        message = str(error)
        assert message.strip() and "\n" not in message and path.name in message
        return None
    for row in rows:
        assert isinstance(row["text"], str) and row["text"].strip()
        assert type(row["label"]) is int and row["label"] >= 0
    return rows


@settings(max_examples=60, **MANY)
@given(rows=ROWS)
def test_a_file_of_any_rows_is_read_or_answered(rows, tmp_path):
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    found = read(tmp_path / "rows.jsonl")
    if found is not None:
        assert [(row["text"], row["label"]) for row in found] == [(row["text"], row["label"]) for row in rows]


@settings(max_examples=60, **MANY)
@given(
    data=st.data(), kind=st.sampled_from(["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"]),
    count=st.integers(1, 20), cuts=st.booleans(),
)  # fmt: skip
def test_a_damaged_file_is_read_or_answered(data, kind, count, cuts, tmp_path, good_files):
    content = bytearray(good_files[kind])
    place = data.draw(st.integers(0, len(content) - 1))
    if cuts:
        del content[place:]
    else:
        content[place : place + count] = data.draw(st.binary(min_size=count, max_size=count))
    (tmp_path / kind).write_bytes(content)
    read(tmp_path / kind)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """file name -> bytes of the same hundred reviews in each format."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("good")
    rows = [{"text": f"film {i} was good", "label": i % 2} for i in range(100)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return {
        "rows.jsonl": text, "rows.jsonl.gz": gzip.compress(text), "rows.json": json.dumps(rows).encode(),
        "rows.parquet": (folder / "rows.parquet").read_bytes(),
    }  # fmt: skip


OPTIONS = ["lr", "momentum", "dampening", "nesterov", "betas", "eps", "weight_decay", "coordinate_clip", "clip_update",
           "threshold_scale", "relative_step", "maximize", "amsgrad", "foreach", "alpha", "lrr"]  # fmt: skip
VALUES = SCALARS | st.floats(0, 1) | st.tuples(st.floats(-1, 2), st.floats(-1, 2)) | st.lists(st.floats(0, 1))


@settings(max_examples=300, **MANY)
@given(
    name=st.sampled_from(list(OPTIMIZERS)) | st.text(max_size=6), step_size=st.just(None) | st.floats(),
    options=st.dictionaries(st.sampled_from(OPTIONS), VALUES, max_size=4),
)  # fmt: skip
def test_any_row_takes_a_step_or_is_answered(name, step_size, options):
    row = Algorithm(name, step_size=step_size, **options)
    try:
        check_rows("mine", [row])
    except ValueError as error:
        assert str(error).startswith("algorithm list 'mine', row 1: ") and "\n" not in str(error)
        return
    weight, bias = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))
    for p in (weight, bias):
        p.grad = torch.full_like(p, 0.5)
    optimizer = row.build({"weight": weight, "bias": bias})
    for _ in range(2):
        optimizer.step()
