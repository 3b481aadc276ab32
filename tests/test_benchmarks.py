"""A benchmark that compares with other packages says which of them are missing."""

import json
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from PIL import Image

from benchmarks import heterogeneity_study
from benchmarks._machine import require
from runs.tables import read_table


def test_missing_packages_are_named_in_one_line_before_anything_is_measured(capsys):
    require({"torch": "torch"}, "benchmarks.some")
    with pytest.raises(SystemExit) as ended:
        require({"torch": "torch", "no_such_module": "no-such-package"}, "benchmarks.some")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert "benchmarks.some" in said and said.rstrip().endswith("pip install --no-deps no-such-package")


@pytest.mark.slow
def test_the_heterogeneity_study_runs_from_data_to_its_table(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    words = [" ".join(draw.choice(["a", "dog", "runs", "sleeps", "here", "now"], 5)) for _ in range(96)]
    pairs = [dict(sentence1=words[i], sentence2=words[i + 48], label=i % 3) for i in range(48)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    pictures = [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(60)]
    rows = Dataset.from_dict({"img": pictures, "label": [i % 10 for i in range(60)]})
    rows.cast_column("label", ClassLabel(num_classes=10)).to_parquet(tmp_path / "pictures.parquet")
    monkeypatch.setattr(heterogeneity_study, "RESULTS", tmp_path)
    monkeypatch.setattr(heterogeneity_study, "SIZE", {**heterogeneity_study.SIZE, "num_hidden_layers": 1})
    flags = "--num_sentences 32 --num_images 32 --sentence_epochs 1 --image_epochs 1 --seeds 0"
    files = ["--sentences", tmp_path / "pairs.jsonl", "--images", tmp_path / "pictures.parquet"]
    monkeypatch.setattr(sys, "argv", ["study", *map(str, files), *flags.split(), "--output_dir", str(tmp_path / "out")])
    heterogeneity_study.main()
    table = read_table(tmp_path / "heterogeneity.csv")
    assert {row["model"] for row in table} == {*heterogeneity_study.TEXT, *heterogeneity_study.IMAGES}
    assert len(table) == 16 and all(0 <= row["gini_gradient"] <= 1 for row in table)
