"""Fine-tuning of the study starts from a pretrained encoder, its own or one of the hub, and from its fresh copy."""

import re
import shutil

import pytest
import torch

from study import __main__ as runner
from study.encoders import FRESH_COPY, fresh_copy
from study.plan import FULL, SMALL, runs
from tasks import load_task
from tests.helpers.study_runs import PARSERS, tuned
from tests.helpers.task_examples import same, toy


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A saved toy encoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder") / "kept"
    toy("masked_language_modeling", model_seed=5).save_model(folder)
    return str(folder)


def test_an_encoder_is_fine_tuned_with_its_weights_and_with_fresh_ones(encoder, tmp_path):
    by_name = {run.name: run for run in runs(FULL, None, encoder)}
    kinds = ("convergence", "adam")
    starts = {"pretrained": encoder, "fresh": str(tmp_path / FRESH_COPY)}
    assert set(by_name) == {f"{start}-{name}-{kind}" for start in starts for name in ("snli", "imdb") for kind in kinds}
    for name, run in by_name.items():
        if run.script == "run_convergence.py":
            tuned(tmp_path / name, sgd=0.5, adam=0.25)
        settings = PARSERS[run.script]().parse_args(run.flags(tmp_path))
        assert settings.model == starts[name.split("-")[0]]
        assert settings.algorithm_list == "study/lists.py:FINE_TUNING"
        assert name.endswith("convergence") or settings.lr == 0.25


def loaded(folder):
    return load_task("binary_classification", model=str(folder), dataset="toy", dataset_size=8)


def weights(folder):
    return torch.cat([p.detach().flatten() for p in loaded(folder).model.base_model.parameters()])


def test_a_fresh_copy_has_the_architecture_and_words_but_weights_of_its_seed(encoder, tmp_path):
    first = fresh_copy(encoder, tmp_path / "a")
    again, other = fresh_copy(encoder, tmp_path / "b"), fresh_copy(encoder, tmp_path / "c", seed=1)
    assert torch.equal(weights(first), weights(again)) and weights(first).shape == weights(encoder).shape
    assert not any(torch.allclose(weights(first), weights(folder)) for folder in (other, encoder))
    assert same(*(loaded(folder).examples[0] for folder in (first, encoder)))
    assert fresh_copy(encoder, tmp_path / "a", seed=1) == first and torch.equal(weights(first), weights(again))


def test_the_studys_own_fresh_encoder_is_its_pretrained_one_before_training(tmp_path):
    drawn, kept = tmp_path / "drawn", tmp_path / "encoder-pretrained/model/seed0-1-adam"
    task = toy("masked_language_modeling", model_seed=0)
    task.save_model(drawn)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 1.0  # trained
    task.save_model(kept)
    flags = {run.name: run.flags for run in runs(FULL, None) if run.name.endswith("snli-convergence")}
    pretrained, fresh = (flags[f"{start}-snli-convergence"](tmp_path)[-1] for start in ("pretrained", "fresh"))
    assert pretrained == str(kept) and torch.equal(weights(kept), weights(drawn) + 1)
    assert torch.equal(weights(fresh), weights(drawn))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda model: shutil.rmtree(model), "No such file or directory: '.*encoder-pretrained/model'"),
        (lambda model: (model / "kept/config.json").write_text("{"), "kept"),
    ],
)
def test_a_fresh_copy_that_cannot_be_made_fails_that_run_alone(broken, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner.subprocess, "run", None)  # no run begins
    model = tmp_path / "encoder-pretrained/model"
    (model / "kept").mkdir(parents=True)
    broken(model)
    (run,) = (run for run in runs(SMALL, None) if run.name == "fresh-imdb-convergence")
    assert not runner.finish(run, tmp_path)
    assert re.fullmatch(f"fresh-imdb-convergence: .*{message}.*\n", capsys.readouterr().err)
    assert not (tmp_path / FRESH_COPY).exists()
