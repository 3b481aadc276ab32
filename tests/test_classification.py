"""Splits, labels, heads and scores of the classification tasks, of text and of pictures."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import run_convergence
from runs.tables import read_table
from tasks import image_classification, load_task, task_defaults, text_classification
from tasks.classification import LABEL_FIELDS, assign_splits, official_test, partition, rows_for, score
from tasks.image_classification import decode, middle, random_part, random_view
from tasks.loading.rows import Refused
from tasks.toy.labeled import pictures, reviews, sentence_pairs
from tests.helpers.hub_repositories import REPOSITORIES
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


class Counted:
    """As much of a `datasets.Dataset` as is needed to assign it: its size and its labels."""

    column_names = ("label",)

    def __init__(self, rows: int, label: int = 0):
        self.rows, self.label = rows, label

    def __len__(self):
        return self.rows

    def __getitem__(self, field):
        return [self.label] * self.rows


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_rows_of_the_hubs_data_sets_are_used_as_in_the_papers(name):
    """Counted at the real sizes; those of training, evaluation and test were worked out by hand."""
    repository, asked = REPOSITORIES[name], task_defaults(name).dataset_size
    assert task_defaults(name).dataset == repository.source
    if len(repository.used) == 1:  # all tasks without labels take the first rows of the training split
        assert repository.used == (asked,) and asked <= repository.splits["train"]
        return
    splits = {split: Counted(n, -1 if split in repository.unlabeled else 1) for split, n in repository.splits.items()}
    test_split = text_classification.SPECS[name].test_split if name in text_classification.SPECS else "test"
    training, test = assign_splits("a/b", splits, test_split)
    share = image_classification.SPECS[name].evaluation_share if name in image_classification.SPECS else 0.1
    for size, expected in ((asked, repository.used), (None, repository.all_used)):
        parts = partition("a/b", sum(map(len, training)), size, share, 0, with_test=False)
        tested = official_test(len(test), parts, size, 0)
        assert (len(parts.train), len(parts.evaluation), len(tested)) == expected


@pytest.mark.parametrize("name, alias", [("validation", "val"), ("validation", "valid"), ("validation", "dev")])
def test_a_validation_split_is_known_by_each_of_its_names(name, alias):
    train, held_out, test = Counted(6), Counted(3), Counted(2)
    assert assign_splits("a/b", {"train": train, alias: held_out, "test": test}, "test") == ([train, held_out], test)
    assert assign_splits("a/b", {"train": train, alias: held_out, "test": test}, "validation") == ([train], held_out)
    assert assign_splits("a/b", {"train": train, alias: held_out}, "test") == ([train, held_out], None)


@pytest.mark.parametrize("splits, message", [
    ({"train": 5, "extra": 2}, "a/b has the splits train, extra; it is not known whether extra"),
    ({"train": 5, "val": 2, "dev": 2}, "a/b has the splits train, val, dev; it is not known whether dev"),
    ({"test": 5}, "a/b has the splits test; one of them must be called train"),
])  # fmt: skip
def test_a_split_of_unknown_use_is_refused_by_name(splits, message):
    with pytest.raises(Refused, match=message):
        assign_splits("a/b", {name: Counted(rows) for name, rows in splits.items()}, "test")


def test_what_is_left_out_is_said(caplog):
    splits = {"train": Counted(9_000), "dev": Counted(30), "test": Counted(20), "unsupervised": Counted(7, label=-1)}
    with caplog.at_level(logging.INFO, "tasks"):
        assign_splits("a/b", splits, "validation")
    assert caplog.messages == [
        "a/b: training and evaluation on train (9,000 rows); test on dev (30 rows); "
        "left out: unsupervised (7 rows) without labels, test (20 rows)"
    ]


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


def test_an_examples_loss_is_the_negative_log_probability_of_its_label():
    task = toy("glue/rte")
    batch = task.collate(examples_of(task)[:5])
    task.model.eval()
    with torch.no_grad():
        scores = task.model(batch["input_ids"], batch["attention_mask"]).logits.double()
        losses = task.losses(task.model, batch)
    chosen = scores.exp()[torch.arange(5), batch["labels"]] / scores.exp().sum(1)
    assert losses.tolist() == pytest.approx((-chosen.log()).tolist(), rel=1e-5)


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


def test_scores_are_taken_without_dropout_and_the_mode_is_restored():
    task = toy("glue/rte", size=40)
    for module in task.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    task.model.eval()
    with torch.no_grad():
        batch = task.collate(task.evaluation["test"])
        right = task.model(batch["input_ids"], batch["attention_mask"]).logits.argmax(-1) == batch["labels"]
    for training in (True, False):
        task.model.train(training)
        accuracy = task.scores(task.model, "test", micro_batch_size=1)["accuracy"]
        assert accuracy == pytest.approx(right.float().mean().item())
        assert task.model.training is training


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


@pytest.mark.parametrize("field", LABEL_FIELDS)
def test_a_label_is_known_by_each_of_its_names(field, tmp_path):
    texts = [{"text": r["text"], field: r["label"]} for r in reviews(40, 0)]
    task = load_task("glue/sst2", dataset=write(tmp_path / "a.jsonl", texts), model="toy", max_length=32)
    known = [example["label"] for part in (examples_of(task), *task.evaluation.values()) for example in part]
    assert sorted(known) == sorted(row[field] for row in texts)
    task = load_task("aircraft", dataset=picture_file(tmp_path / "b.parquet", "image", label=field), model="toy")
    assert [e["label"] for e in examples_of(task)] == [pictures(30, 0)[e["index"]]["label"] for e in examples_of(task)]


def test_a_label_of_another_name_is_refused_with_the_names_there_are(tmp_path):
    path = picture_file(tmp_path / "a.parquet", "image", label="manufacturer")
    with pytest.raises(Refused, match=r"a.parquet has the fields image, manufacturer; expected label \(or labels, "):
        load_task("aircraft", dataset=path, model="toy")


def test_a_word_in_context_is_asked_about_after_both_sentences(tmp_path):
    """Tomihari & Sato's template, as one text; without a word it is a pair of texts."""
    pairs = sentence_pairs(20, 0, 2)
    texts = {}
    for name, extra in (("word", {"word": "tree"}), ("plain", {})):
        path = write(tmp_path / f"{name}.jsonl", [row | extra for row in pairs])
        task = load_task("super_glue/wic", dataset=path, model="toy", max_length=80)
        texts[name] = task.processor.decode(task.examples[3]["input_ids"])
    first, second = pairs[3]["sentence1"], pairs[3]["sentence2"]
    assert texts["word"] == f"<s>{first} {second} Does tree have the same meaning in both sentences?</s>"
    assert texts["plain"] == f"<s>{first}</s></s>{second}</s>"
    some = [row | ({"word": "tree"} if i < 9 else {}) for i, row in enumerate(pairs)]
    missing = write(tmp_path / "missing.jsonl", some)
    with pytest.raises(ValueError, match="row 10: field word is missing"):
        load_task("super_glue/wic", dataset=missing, model="toy")


def test_imdb_is_shuffled_because_its_file_is_sorted_by_label(tmp_path):
    """By the seed; the tasks of GLUE keep the order of their file, as Tomihari & Sato do."""
    rows = [{"text": f"film number {i}", "label": int(i >= 20)} for i in range(40)]
    path = write(tmp_path / "sorted.jsonl", rows)
    options = dict(dataset=path, model="toy", dataset_size=32, max_length=32)
    tasks = [load_task("binary_classification", **options, seed=seed) for seed in (0, 0, 1)]
    numbers = [[e["input_ids"] for e in task.examples] for task in tasks]
    assert numbers[0] == numbers[1] != numbers[2]
    labels = [e["label"] for e in tasks[0].examples]
    assert {0, 1} == set(labels[:8]) == set(labels[-8:]) and labels != sorted(labels)
    same_rows = [{"sentence": row["text"], "label": row["label"]} for row in rows]
    kept = load_task("glue/sst2", **options | {"dataset": write(tmp_path / "s.jsonl", same_rows)})
    assert [e["label"] for e in kept.examples] == [row["label"] for row in rows[:32]]
    texts = [kept.processor.decode(e["input_ids"], skip_special_tokens=True) for e in kept.examples]
    assert texts == [row["text"] for row in rows[:32]]


def test_each_part_of_a_file_holds_its_own_rows(tmp_path):
    """Training first, then evaluation, then test; with fewer to train on, the others are as few."""
    rows = [{"sentence1": f"one {i}", "sentence2": f"two {i}", "label": i % 3} for i in range(40)]
    path = write(tmp_path / "rows.jsonl", rows)
    for size, expected in (
        (None, (range(32), range(32, 36), range(36, 40))),
        (3, (range(3), range(32, 35), range(36, 39))),
    ):
        task = load_task("glue/mrpc", dataset=path, model="toy", dataset_size=size, max_length=64)
        parts = examples_of(task), task.evaluation["evaluation"], task.evaluation["test"]
        for examples, numbers in zip(parts, expected, strict=True):
            texts = [task.processor.decode(e["input_ids"]) for e in examples]
            assert texts == [f"<s>one {i}</s></s>two {i}</s>" for i in numbers]
            assert [e["label"] for e in examples] == [i % 3 for i in numbers]


def test_a_label_that_only_the_official_test_has_is_a_class_of_the_model(tmp_path, monkeypatch):
    import datasets

    def split(labels):
        return datasets.Dataset.from_list([{"sentence": f"text {i}", "label": y} for i, y in enumerate(labels)])

    splits = {"train": split([0, 1] * 10), "validation": split([0, 1, 2])}
    monkeypatch.setattr("tasks.loading.own.load_splits", lambda *_: dict(splits))
    task = load_task("glue/sst2", dataset="a/b", model="toy", max_length=32)
    assert task.model.config.num_labels == 3 and [e["label"] for e in task.evaluation["test"]] == [0, 1, 2]


def test_boolq_asks_before_the_passage_answers(tmp_path):
    rows = [{"passage": f"passage {i}", "question": f"question {i}", "label": i % 2} for i in range(20)]
    task = load_task("super_glue/boolq", dataset=write(tmp_path / "b.jsonl", rows), model="toy", max_length=64)
    assert task.processor.decode(task.examples[3]["input_ids"]) == "<s>question 3</s></s>passage 3</s>"


def test_pairs_longer_than_the_limit_are_cut_and_keep_both_ends(tmp_path):
    rows = [{"sentence1": "word " * 50, "sentence2": "other " * (i + 1), "label": i % 2} for i in range(40)]
    task = load_task("glue/rte", dataset=write(tmp_path / "long.jsonl", rows), model="toy", max_length=16)
    ids = [e["input_ids"] for e in examples_of(task)]
    assert {len(row) for row in ids} == {16}
    assert all(row[0] == 0 and row[-1] == 2 and row.count(2) == 3 for row in ids)  # <s> one </s></s> two </s>


def test_what_is_padded_is_masked_and_segments_are_kept():
    task = toy("glue/rte")
    examples = [{"input_ids": [0, 5, 2], "label": 1}, {"input_ids": [0, 6, 7, 8, 2], "label": 0}]
    batch = task.collate(examples)
    assert batch["input_ids"].tolist() == [[0, 5, 2, 1, 1], [0, 6, 7, 8, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0] and "token_type_ids" not in batch
    segments = [e | {"token_type_ids": [0] + [1] * (len(e["input_ids"]) - 1)} for e in examples]
    assert task.collate(segments)["token_type_ids"].tolist() == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]


def test_the_papers_heads_and_metrics():
    metrics = {"glue/cola": "matthews_correlation", "glue/mrpc": "f1", "super_glue/cb": "f1"}
    for name in text_classification.SPECS:
        assert text_classification.SPECS[name].metric == metrics.get(name, "accuracy")
    head = toy("glue/rte").model.classifier
    assert head.dropout.p == 0.1
    features = torch.ones(64, 3, 96)
    head.train()
    assert head(features).std(0).max() > 0, "dropout acts in training"


# ---- pictures -----------------------------------------------------------------------------------------------------


def picture_file(path: Path, field: str, count: int = 30, label: str = "label") -> str:
    import datasets
    import PIL.Image

    rows = [{field: PIL.Image.fromarray(row["image"]), label: row["label"]} for row in pictures(count, 0)]
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


def test_a_photograph_that_was_taken_sideways_stands_upright():
    import io

    import PIL.Image

    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    exif, file = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    PIL.Image.fromarray(pixels).save(file, "png", exif=exif)
    upright = np.array(decode({"image": file.getvalue()}))
    assert upright.shape == (3, 2, 3) and np.argwhere(upright[:, :, 0]).tolist() == [[0, 1]]


def test_pictures_are_read_from_the_folder_of_the_data_and_from_nowhere_else(tmp_path):
    """A data file could name any file of this machine, or an address that its author listens at."""
    import PIL.Image

    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    paths = [tmp_path / "secret.png", *[folder / f"{i}.png" for i in range(19)]]
    for row, path in zip(pictures(20, 0), paths, strict=True):
        PIL.Image.fromarray(row["image"]).save(path)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")

    def load(name: str):
        rows = [{"image": f"{i}.png", "label": i % 2} for i in range(19)] + [{"image": name, "label": 0}]
        path = write(folder / "rows.jsonl", rows)
        return load_task("image_classification", dataset=path, model="toy", dataset_size=12)

    for name in ("0.png", "pictures/../0.png", str(folder / "0.png")):
        task = load(name)
        assert len(task.examples) == 12
    row = pictures(20, 0)[1 + task.examples[0]["index"]]
    assert np.array_equal(np.array(decode(task.examples[0])), row["image"])
    elsewhere = [str(tmp_path / "secret.png"), "../secret.png", "pictures/../../secret.png", "link.png", "",
                 "http://127.0.0.1:1/x.png", "https://a.b/x.png", f"file://{folder}/0.png", "hf://datasets/a/b/x.png",
                 "zip://0.png::http://a.b/x.zip"]  # fmt: skip
    for name in elsewhere:
        with pytest.raises(ValueError, match="row 20 is given as .*; expected its bytes, or the name of a file in the"):
            load(name)
    for name in ("absent.png", "pictures", "."):
        with pytest.raises(ValueError, match="row 20 cannot be read"):
            load(name)


def test_the_length_of_texts_has_no_effect_on_pictures_and_is_refused():
    for name in ("image_classification", "flowers102", "aircraft"):
        with pytest.raises(ValueError, match=f"--max_length has no effect on the task {name}; leave it out"):
            toy(name, max_length=32)
    with pytest.raises(ValueError, match="--windows_per_file has no effect on the task glue/rte; leave it out"):
        toy("glue/rte", windows_per_file=1)


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
    twins = [examples[0], examples[0] | {"index": 99}]
    assert not torch.equal(*task.training_collate(twins, 1)["pixel_values"]), "the same picture in another row"
    plain = task.collate(examples)["pixel_values"]
    assert not torch.equal(first, plain) and torch.equal(plain, task.collate(examples)["pixel_values"])
    assert not torch.equal(toy("aircraft").training_collate(examples, 1)["pixel_values"], plain)
    unchanged = toy("image_classification")
    assert torch.equal(
        unchanged.training_collate(examples, 1)["pixel_values"], unchanged.collate(examples)["pixel_values"]
    )


class Drawn:
    """In place of a random generator: gives the numbers that it was made with, in turn."""

    def __init__(self, *numbers):
        self.numbers, self.ranges = list(numbers), []

    def _next(self, *low_high):
        self.ranges.append(low_high)
        return self.numbers.pop(0)

    uniform = integers = random = _next


def test_a_view_is_turned_then_cut_out_then_mirrored():
    """A picture of 40 by 40, red on the left and blue on the right, white in the upper half."""
    import PIL.Image

    image = PIL.Image.new("RGB", (40, 40), "white")
    image.paste((255, 0, 0), (0, 20, 20, 40))
    image.paste((0, 0, 255), (20, 20, 40, 40))
    whole = (1.0, 0.0, 0, 0)  # all of the area, ratio e^0, from the upper left corner
    upright = random_view(image, 40, Drawn(*whole, 0.9))
    assert upright.tobytes() == image.tobytes()
    mirrored = random_view(image, 40, Drawn(*whole, 0.4))
    assert mirrored.getpixel((5, 35)) == (0, 0, 255) and mirrored.getpixel((35, 35)) == (255, 0, 0)
    turned = random_view(image, 40, Drawn(90.0, *whole, 0.9), rotation=90.0)  # against the clock
    assert turned.getpixel((35, 35)) == (255, 0, 0) and turned.getpixel((35, 5)) == (0, 0, 255)
    random = Drawn(45.0, *whole, 0.9)
    corners = random_view(image, 40, random, rotation=45.0)
    assert random.ranges[0] == (-45.0, 45.0)
    assert corners.getpixel((0, 0)) == corners.getpixel((39, 39)) == (0, 0, 0), "turned first, so the corners are black"
    quarter = random_view(image, 16, Drawn(0.25, 0.0, 0, 20, 0.9))
    assert quarter.size == (16, 16) and set(quarter.get_flattened_data()) == {(255, 0, 0)}


def test_a_random_part_has_the_papers_area_and_ratio():
    random = np.random.default_rng(0)
    parts = np.array([random_part(500, 400, random) for _ in range(2_000)])
    left, top, width, height = parts.T
    assert (left >= 0).all() and (top >= 0).all() and (left + width <= 500).all() and (top + height <= 400).all()
    area, ratio = width * height / (500 * 400), width / height
    assert 0.079 < area.min() < 0.09 and 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    assert 0.4 < np.mean(np.log(ratio) > 0) < 0.6
    assert left.std() > 50 and top.std() > 50
    never = Drawn(*[1.0, np.log(4 / 3)] * 10)  # the whole area at 4:3 does not fit into a picture of 1:2
    assert random_part(30, 60, never) == (0, 10, 30, 40)
    assert random_part(60, 30, Drawn(*[1.0, np.log(3 / 4)] * 10)) == (10, 0, 40, 30)


def test_elsewhere_the_model_sees_the_middle_of_a_picture():
    """As torchvision's Resize(256) and CenterCrop(224): 1/16 of the shorter edge is cut off at each of its ends."""
    import PIL.Image

    image = PIL.Image.new("RGB", (640, 320), "black")
    image.paste((255, 255, 255), (200, 40, 440, 280))
    small = middle(image, 224)  # 640 by 320 becomes 512 by 256; (512 - 224) / 2 = 144 and 16 are cut off
    assert small.size == (224, 224)
    white = np.array(small)[..., 0] > 127
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    assert (rows[0], rows[-1]) == (40 * 0.8 - 16, 280 * 0.8 - 16 - 1)
    assert (columns[0], columns[-1]) == (200 * 0.8 - 144, 440 * 0.8 - 144 - 1)
    task = toy("aircraft")
    example = examples_of(task)[0]
    pixels = torch.tensor(np.array(middle(decode(example), 32))).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(task.collate([example])["pixel_values"][0], pixels, rtol=0, atol=1e-5)


def test_views_are_resized_with_the_papers_filter():
    """Bilinear: of a step from black to white no pixel is darker than black or lighter than white, as bicubic ones are
    before they are cut off; between the two the values are those of a straight line."""
    import PIL.Image

    step = PIL.Image.fromarray(np.repeat(np.array([[0, 0, 100, 100]], np.uint8), 4, 0)).convert("RGB")
    row = np.array(random_view(step, 8, Drawn(1.0, 0.0, 0, 0, 0.9)))[0, :, 0]
    assert row.tolist() == [0, 0, 0, 25, 75, 100, 100, 100]


def test_a_processors_own_crop_does_not_cut_the_margins_of_a_view(monkeypatch):
    from transformers import ConvNextImageProcessor

    task = toy("aircraft")
    task.processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)  # as ResNet's
    bordered = np.zeros((32, 32, 3), np.uint8)
    bordered[4:-4, 4:-4] = 255
    monkeypatch.setattr("tasks.image_classification.random_view", lambda *_: decode({"image": bordered}))
    (pixels,) = task.training_collate(examples_of(task)[:1], 0)["pixel_values"]  # [3, 32, 32]
    edge = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]])
    assert pixels.shape == (3, 32, 32) and edge.max() < pixels[:, 16, 16].min()
    task.processor.crop_pct = 0.5  # of a smaller side it would cut off half
    kept = task._batch([decode({"image": bordered})], examples_of(task)[:1])["pixel_values"]
    assert torch.equal(kept[0], pixels)


def test_the_official_test_pictures_are_the_test(tmp_path, monkeypatch):
    """Of the hub: train and validation are joined and parted at random, and the test split stays as it is."""
    import datasets
    import PIL.Image

    def split(seed: int, count: int):
        rows = [{"image": PIL.Image.fromarray(r["image"]), "label": r["label"]} for r in pictures(count, seed)]
        return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())

    splits = {"train": split(0, 12), "val": split(1, 8), "test": split(2, 9)}
    monkeypatch.setattr("tasks.loading.own.load_splits", lambda *_: dict(splits))
    task = load_task("aircraft", dataset="a/b", model="toy")
    assert [len(task.examples), *(len(part) for part in task.evaluation.values())] == [16, 4, 9]
    pixels = {np.array(row["image"]).tobytes() for name in ("train", "val") for row in splits[name]}
    held_out = [np.array(decode(e)).tobytes() for e in task.evaluation["evaluation"]]
    trained = [np.array(decode(e)).tobytes() for e in examples_of(task)]
    assert set(held_out) | set(trained) == pixels and not set(held_out) & set(trained)
    tests = {np.array(decode(e)).tobytes() for e in task.evaluation["test"]}
    assert tests == {np.array(row["image"]).tobytes() for row in splits["test"]}
    few = load_task("aircraft", dataset="a/b", model="toy", dataset_size=3)
    assert [len(few.examples), *(len(part) for part in few.evaluation.values())] == [3, 3, 3]


def test_flowers_alone_are_turned():
    assert (toy("flowers102").rotation, toy("aircraft").rotation) == (45.0, 0.0)


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
