"""Splits, labels, heads and scores of the classification tasks, of text and of pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import run_convergence
from runs.tables import read_table
from tasks import load_task
from tasks.classification import official_test, partition, rows_for, score
from tasks.image_classification import decode, random_view
from tasks.toy.labeled import pictures, reviews, sentence_pairs
from tests.helpers.task_examples import examples_of, toy, write

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_the_official_test_is_used_whole_unless_less_is_asked_for():
    parts = partition("f", 20, None, 0.1, None, with_test=False)  # 18 to train
    assert official_test(50, parts, None, None) == list(range(50))
    assert official_test(50, parts, 18, None) == list(range(18))
    assert sorted(official_test(50, parts, None, 3)) == list(range(50)) != official_test(50, parts, None, 3)


def test_too_few_rows_are_answered_with_what_would_do():
    with pytest.raises(ValueError, match="f has 20 rows, 16 of them .* size of 17; --dataset_size 16 would do"):
        partition("f", 20, 17, 0.1, None, with_test=True)
    with pytest.raises(ValueError, match="f has 2 rows, too few to train"):
        partition("f", 2, None, 0.1, None, with_test=True)


def test_scores_are_the_textbook_ones():
    labels, predicted = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]  # tp 2, fn 1, fp 1, tn 4
    assert score("accuracy", labels, predicted, 2) == pytest.approx(6 / 8)
    assert score("f1", labels, predicted, 2) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert score("matthews_correlation", labels, predicted, 2) == pytest.approx((2 * 4 - 1) / (3 * 3 * 5 * 5) ** 0.5)
    assert score("f1", [0, 1, 2, 2], [0, 1, 2, 1], 3) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)  # mean over classes
    assert score("f1", [0, 1, 1, 0], [0, 1, 0, 0], 3) == pytest.approx((4 / 5 + 2 / 3) / 2), "though one is not there"


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


def test_a_picture_that_cannot_be_decoded_ends_a_run_in_one_line(tmp_path, monkeypatch, capfd):
    """Those of a local file are looked at before; one from the hub may come up in the middle of the run."""
    task = toy("image_classification", 8)
    task.examples.rows[task.examples.indices[3]]["image"] = {"bytes": b"no picture", "path": None}
    monkeypatch.setattr(run_convergence, "load_task", lambda *args, **options: task)
    flags = ["--task", "image_classification", "--dataset", "toy", "--model", "toy", "--num_epochs", "1"]
    assert run_convergence.main([*flags, "--output_dir", str(tmp_path / "run")]) == 1
    error = capfd.readouterr().err
    assert re.search("stopped: the picture in row [0-9]+ cannot be decoded", error) and "Traceback" not in error


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


def test_a_random_view_is_stretched_to_the_models_size_and_keeps_its_margins(monkeypatch):
    import PIL.Image
    from transformers import ConvNextImageProcessor

    bordered = PIL.Image.new("RGB", (64, 40), "black")
    bordered.paste((255, 255, 255), (8, 8, 56, 32))
    task = toy("aircraft")
    task.tokenizer = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)  # as ResNet's
    monkeypatch.setattr("tasks.image_classification.random_view", lambda *_: bordered)
    (pixels,) = task.training_collate(examples_of(task)[:1], 0)["pixel_values"]  # [3, 32, 32]
    edge = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]])
    assert pixels.shape == (3, 32, 32) and edge.max() < pixels[:, 16, 16].min()


def test_flowers_are_turned_as_well():
    image = decode(examples_of(toy("flowers102"))[0])
    turned, straight = (random_view(image, np.random.default_rng(5), rotation) for rotation in (45.0, 0.0))
    assert turned.size == straight.size and turned.tobytes() != straight.tobytes()
    assert toy("flowers102").rotation == 45.0 and toy("aircraft").rotation == 0.0


def test_an_epochs_scores_are_those_of_the_model_at_its_end(tmp_path):
    """Batch norm averages every batch that it sees in training: none of the next epoch may be among them."""
    flags = "--task image_classification --dataset toy --model toy --dataset_size 20 --batch_size 5 --num_epochs 2"
    flags += " --only adam --num_epoch_to_save 1 --output_dir"
    assert run_convergence.main([*flags.split(), str(tmp_path / "run")]) == 0
    rows = read_table(tmp_path / "run" / "scores.csv")
    for epoch in (1, 2):
        folder = tmp_path / "run" / "model" / "seed0-1-adam" / f"epoch{epoch}"
        task = load_task("image_classification", "toy", str(folder), 20)
        tracked = {n: int(b) for n, b in task.model.named_buffers() if n.endswith("num_batches_tracked")}
        assert tracked and set(tracked.values()) == {4 * epoch}
        scores = task.scores(task.model, "evaluation", 4)
        assert scores == {r["metric"]: r["value"] for r in rows if (r["epoch"], r["split"]) == (epoch, "evaluation")}
