"""One's own data: CSV, TSV, text files and saved folders, columns by other names, labels that are words, test files."""

import csv
import json

import datasets
import pytest

from tasks import TASKS, columns_of, load_task
from tasks.protocols import OWN
from tests.helpers.stored_runs import refused

pytestmark = pytest.mark.usefixtures("tiny_task")
SENTIMENTS = [(f"the film number {i} was {'dull' if i % 2 else 'bright'}, said Q{i}", i % 2) for i in range(60)]
WORDS = ("glad", "angry")


def write_csv(path, header, rows, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return str(path)


def load(task, dataset, **options):
    return load_task(task, dataset=str(dataset), model="toy", max_length=16, **options)


def texts_of(task, count=None):
    """The texts of the training examples, as the tokenizer gives them back."""
    ids = [example["input_ids"] for example in task.examples[:count]]
    return [task.processor.decode(each, skip_special_tokens=True) for each in ids]


@pytest.mark.parametrize("ending, delimiter", [(".csv", ","), (".tsv", "\t")])
def test_a_table_of_texts_and_words_as_labels_is_numbered_alphabetically(ending, delimiter, tmp_path):
    rows = [(text, WORDS[label]) for text, label in SENTIMENTS]
    path = write_csv(tmp_path / f"mine{ending}", ["review", "feeling"], rows, delimiter)
    task = load("text_classification", path, columns=["input=review", "target=feeling"])
    assert task.label_words == ["angry", "glad"]
    assert any("0 is 'angry', 1 is 'glad'" in note for note in task.training_notes(4))
    everything = [*task.examples, *(e for split in task.evaluation.values() for e in split)]
    assert len(everything) == 60 and task.model.config.num_labels == 2
    found = {task.processor.decode(e["input_ids"], skip_special_tokens=True)[:18]: e["label"] for e in everything}
    for text, _ in SENTIMENTS:  # cut at 16 tokens
        assert any(text.startswith(start.strip()) for start in found), text
    assert sorted(found.values()).count(1) == sum(label == 0 for _, label in SENTIMENTS)  # glad is label 0 there


def test_cells_of_a_table_are_texts_as_they_stand(tmp_path):
    rows = [("NA", "0"), ("null", "1"), ("12", "0"), ("1.50", "1"), *(SENTIMENTS[:30])]
    task = load("text_classification", write_csv(tmp_path / "mine.csv", ["text", "label"], rows))
    everything = [*task.examples, *(e for split in task.evaluation.values() for e in split)]
    decoded = {task.processor.decode(e["input_ids"], skip_special_tokens=True).strip() for e in everything}
    assert {"NA", "null", "12", "1.50"} <= decoded and {e["label"] for e in everything} == {0, 1}
    assert task.label_words == []


def test_a_text_file_has_an_example_per_line_that_is_not_blank(tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join(["one line of words here", "", "   ", "another line of words"] * 4))
    task = load("causal_language_modeling", tmp_path / "mine.txt")
    assert len(task.examples) == 8


def test_translation_takes_any_two_columns_and_adds_no_prefix(tmp_path):
    rows = [(f"guten Tag {i}", f"good day {i}", "x") for i in range(12)]
    path = write_csv(tmp_path / "pairs.csv", ["de", "en", "note"], rows)
    task = load("translation", path, columns=["input=de", "target=en"])
    assert len(task.examples) == 12
    assert texts_of(task, 1) == ["guten Tag 0"]
    assert task.processor.decode(task.examples[3]["labels"], skip_special_tokens=True) == "good day 3"
    named = load("machine_translation", path, columns=["input=de", "target=en"], dataset_size=12)
    assert texts_of(named, 1)[0].startswith("translate English to French:")


def test_a_pair_has_two_inputs(tmp_path):
    rows = [{"question": f"is it {i}", "answer": f"it is {i}", "ok": ["no", "yes"][i % 2]} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = ["input=question", "input2=answer", "target=ok"]
    task = load("text_pair_classification", tmp_path / "mine.jsonl", columns=columns)
    first = texts_of(task, 1)[0]
    assert "is it" in first and "it is" in first and task.label_words == ["no", "yes"]


def test_a_column_that_a_role_replaces_is_left_out(tmp_path):
    rows = [("wrong", text, label, 9) for text, label in SENTIMENTS]
    path = write_csv(tmp_path / "mine.csv", ["text", "review", "stars", "label"], rows)
    task = load("text_classification", path, columns=["input=review", "target=stars"])
    assert "wrong" not in texts_of(task) and task.model.config.num_labels == 2


def saved(tmp_path, name="saved", splits=("train", "test")):
    rows = {"text": [t for t, _ in SENTIMENTS], "label": [y for _, y in SENTIMENTS]}
    sets = {split: datasets.Dataset.from_dict(rows) for split in splits}
    sets["test"] = sets["test"].select(range(10)) if "test" in sets else None
    folder = tmp_path / name
    datasets.DatasetDict({k: v for k, v in sets.items() if v is not None}).save_to_disk(str(folder))
    return folder


def test_a_saved_folder_is_read_with_its_splits(tmp_path):
    folder = saved(tmp_path)
    task = load("text_classification", folder)
    assert len(task.evaluation["test"]) == 10 and len(task.examples) == 54
    assert len(load("text_classification", folder, split="test").examples) == 8
    alone = tmp_path / "alone"
    datasets.Dataset.from_dict({"content": ["a few words of text"] * 5}).save_to_disk(str(alone))
    assert len(load("causal_language_modeling", alone).examples) == 5


def test_an_evaluation_file_is_the_test(tmp_path):
    train = write_csv(tmp_path / "train.csv", ["t", "y"], [(t, WORDS[y]) for t, y in SENTIMENTS])
    held_out = write_csv(tmp_path / "test.csv", ["t", "y"], [("held out words", WORDS[i % 2]) for i in range(6)])
    columns = ["input=t", "target=y"]
    task = load("text_classification", train, columns=columns, eval_dataset=held_out)
    assert [len(task.evaluation[split]) for split in ("evaluation", "test")] == [6, 6] and len(task.examples) == 54
    decoded = {task.processor.decode(e["input_ids"], skip_special_tokens=True) for e in task.evaluation["test"]}
    assert decoded == {"held out words"}
    validated = load("glue/cola", train, columns=columns, eval_dataset=held_out)  # whose own test is "validation"
    assert len(validated.evaluation["test"]) == 6


@pytest.mark.parametrize("name", OWN)
def test_a_kind_of_task_runs_on_generated_data_too(name):
    task = load_task(name, dataset="toy", model="toy")
    assert len(task.examples) > 100 and TASKS[name].defaults.dataset_size == 5_120


WRONG = [
    ({"columns": ["input=tekst"]}, "has no column 'tekst'; it has text, label; did you mean 'text'"),
    ({"columns": ["input2=text"]}, "--columns input2=...: no such field in the task text_classification; it has input"),
    ({"columns": ["text"]}, "--columns takes input=COLUMN, input2=COLUMN, target=COLUMN, got 'text'"),
    ({"columns": ["input=a", "input=b"]}, "--columns names input twice, as 'a' and 'b'"),
    ({"split": "train"}, "--split has no effect on .*mine.csv, which is one file"),
    ({"config": "c"}, "--config has no effect on the data set .*mine.csv, that is not on the hub"),
    ({"name": "causal_language_modeling", "eval_dataset": "MINE"}, "--eval_dataset has no effect on the task causal_"),
    ({"eval_dataset": "/nowhere/x.csv"}, "no such file: /nowhere/x.csv"),
]


@pytest.mark.parametrize(("options", "answer"), WRONG, ids=[answer for _, answer in WRONG])
def test_wrong_data_are_answered_in_one_line(options, answer, tmp_path):
    path = write_csv(tmp_path / "mine.csv", ["text", "label"], SENTIMENTS)
    options = {k: path if v == "MINE" else v for k, v in options.items()}
    task = options.pop("name", "text_classification")
    with pytest.raises(ValueError, match=answer) as error:
        load(task, path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "answer"), [
    ("a,b\n1\n", "line 2 has 1 cells; the header has 2"),
    ("a,a\n1,2\n", "line 1 must name every column, each once; it has 'a', 'a'"),
    ("a,b\n", "holds no rows"),
])  # fmt: skip
def test_a_table_that_is_none_is_answered_with_its_line(text, answer, tmp_path):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=answer) as error:
        load("text_classification", tmp_path / "mine.csv")
    assert "mine.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("label, answer", [
    (0.25, "row 1: field label is 0.25: regression is not supported"),
    ([0, 1], "row 1: field label is a list: several labels per example are not supported"),
])  # fmt: skip
def test_labels_of_other_kinds_are_refused_by_name(label, answer, tmp_path):
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps({"text": t, "label": label}) for t, _ in SENTIMENTS))
    with pytest.raises(ValueError, match=answer):
        load("text_classification", tmp_path / "mine.jsonl")


def test_a_label_that_training_has_not_is_refused(tmp_path):
    train = write_csv(tmp_path / "train.csv", ["text", "label"], [(t, WORDS[y]) for t, y in SENTIMENTS])
    held_out = write_csv(tmp_path / "test.csv", ["text", "label"], [("words", "bored")] * 3)
    with pytest.raises(ValueError, match="the split test has the label 'bored'; the labels of train are angry, glad"):
        load("text_classification", train, eval_dataset=held_out)


def test_flags_of_data_have_no_effect_on_generated_ones(tmp_path, capfd):
    for flags in (["--columns", "input=a"], ["--split", "s"], ["--eval_dataset", "x/y"]):
        answer = f"{flags[0]} has no effect on generated data"
        refused([*flags, "--output_dir", tmp_path / "run"], answer, tmp_path, capfd)


def test_columns_are_roles_and_names():
    assert columns_of(["input=a=b", "target= y"]) == {"input": "a=b", "target": " y"}
