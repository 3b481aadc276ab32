"""Loading a task from every source, the loss of each example, and the answer to each bad input."""

import copy
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.func import functional_call

from algorithm_list import ALGORITHM_LISTS
from tasks import TASKS, load_task, task_defaults
from tasks.loading.encoding import encode
from tasks.loading.rows import load_splits
from tasks.machine_translation import PREFIX
from tasks.toy.tokenizer import train_tokenizer

pytestmark = pytest.mark.usefixtures("own_cache")
ROOT = Path(__file__).parent.parent
PAIRS = [
    ("Hello.", "Bonjour."),
    ("The cat sleeps.", "Le chat dort."),
    ("We eat bread.", "Nous mangeons du pain."),
]
ROWS = [{"id": str(i), "translation": {"en": en, "fr": fr}} for i, (en, fr) in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def toy():
    return load_task("toy", dataset_size=48)


def write(path: Path, rows=ROWS) -> str:
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text(text)
    return str(path)


def from_file(source, size=3, **options):
    return load_task("machine_translation", dataset=str(source), model="toy", dataset_size=size, **options)


def test_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'machine_translatoin'.*known: .*toy.*did you mean 'machine_translation'"):
        load_task("machine_translatoin")
    with pytest.raises(ValueError, match="unknown task"):
        task_defaults("nonsense")


@pytest.mark.parametrize("options, message", [
    ({"dataset_size": 0}, "dataset_size .* at least 1, got 0"),
    ({"max_length": 1}, "max_length .* 2 or more, got 1"),
])  # fmt: skip
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_task("toy", **options)


def test_hub_defaults_are_the_papers_protocol():
    defaults = task_defaults("machine_translation")
    assert (defaults.dataset_size, defaults.batch_size, defaults.test_batch_size) == (10_240, 1_024, 1_024)
    assert (defaults.num_epochs, defaults.test_epochs, defaults.num_sample_sharpness) == (
        20,
        (2, 5, 10, 20),
        5,
    )
    assert defaults.learning_rates == {"sgd": 1e-3, "adam": 1e-4}


@pytest.mark.parametrize("name", TASKS)
def test_defaults_of_every_task_fit_together(name):
    for defaults in (task_defaults(name), task_defaults(name, "toy", "toy")):
        assert max(defaults.test_epochs) <= defaults.num_epochs
        assert defaults.algorithm_list in ALGORITHM_LISTS
        if defaults.dataset_size is not None:  # None: all there is
            assert defaults.test_batch_size <= defaults.dataset_size
            assert defaults.num_sample_sharpness <= defaults.dataset_size // defaults.batch_size


def test_importing_tasks_imports_no_slow_library():
    slow = {"transformers", "datasets", "sentencepiece"}
    code = f"import sys, tasks; print(sorted({slow} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_toy_has_the_promised_size_and_types(toy):
    assert len(toy.examples) == 48
    assert toy.model.training
    assert {p.dtype for p in toy.model.parameters()} == {torch.float32}
    assert toy.length(5) == len(toy.examples[5]["input_ids"]) + len(toy.examples[5]["labels"])


def test_same_seed_same_task_and_another_seed_another(toy):
    again, other = load_task("toy", dataset_size=48), load_task("toy", dataset_size=48, seed=1)
    assert list(again.examples) == list(toy.examples)
    assert list(other.examples) != list(toy.examples)
    weights, weights_again = toy.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_task("toy", dataset_size=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_input_starts_with_the_prefix_and_ends_with_the_end_of_sequence(toy):
    for example in toy.examples:
        assert toy.processor.decode(example["input_ids"]).startswith("translate English to French: ")
        assert example["input_ids"][-1] == example["labels"][-1] == toy.processor.eos_token_id


def test_texts_are_cut_at_the_limit_of_the_tokenizer_too(toy):
    tokenizer = copy.deepcopy(toy.processor)
    tokenizer.model_max_length = 4
    ids = [
        row["input_ids"] for row in encode(tokenizer, ["one two three four five six seven"], cached=False, max_length=9)
    ]
    assert [len(row) for row in ids] == [4]


def test_targets_are_encoded_as_targets(toy, monkeypatch):
    tokenizer = copy.deepcopy(toy.processor)
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *texts, **options: {"input_ids": [sorted(options)]})
    (plain,), (target,) = (encode(tokenizer, ["a"], cached=False, target=each) for each in (False, True))
    assert set(target["input_ids"]) - set(plain["input_ids"]) == {"text_target"}


def test_the_length_limit_keeps_the_end_of_sequence_token(toy):
    short = load_task("toy", dataset_size=48, max_length=7)
    for cut, full in zip(short.examples, toy.examples, strict=True):
        for field in ("input_ids", "labels"):
            eos = [toy.processor.eos_token_id]
            assert cut[field] == (full[field] if len(full[field]) <= 7 else full[field][:6] + eos)


def test_an_examples_loss_does_not_depend_on_its_company_or_padding(toy):
    toy.model.eval().double()
    examples = toy.examples[:6]
    together = toy.losses(toy.model, toy.collate(examples))
    alone = torch.cat([toy.losses(toy.model, toy.collate([example])) for example in examples])
    wide = {name: torch.nn.functional.pad(t, (0, 9), value=-100 if name == "labels" else 0)
            for name, t in toy.collate(examples).items()}  # fmt: skip
    toy.model.train().float()
    torch.testing.assert_close(alone, together.to(alone), rtol=1e-12, atol=0)
    with torch.no_grad():
        toy.model.eval().double()
        torch.testing.assert_close(toy.losses(toy.model, wide), together, rtol=1e-12, atol=0)
        toy.model.train().float()


def test_losses_equal_the_models_own_loss_of_one_example(toy):
    toy.model.eval()
    for example in toy.examples[:3]:
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
        own = toy.model(input_ids=ids, labels=labels).loss  # the library's: mean over the tokens of one example
        torch.testing.assert_close(toy.losses(toy.model, toy.collate([example]))[0], own, rtol=1e-5, atol=0)
    toy.model.train()


def test_scored_tokens_are_the_real_target_tokens(toy):
    batch = toy.collate(toy.examples[:20])
    assert (batch["labels"] != -100).sum() == sum(len(example["labels"]) for example in toy.examples[:20])
    assert batch["attention_mask"].sum() == sum(len(example["input_ids"]) for example in toy.examples[:20])
    assert max(map(len, (e["input_ids"] for e in toy.examples[:20]))) == batch["input_ids"].shape[1]


def test_losses_work_through_a_functional_call_and_bend_twice(toy):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    toy.model.eval()
    batch = toy.collate(toy.examples[:2])
    params = {name: p.detach().requires_grad_() for name, p in toy.model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        loss = toy.losses(lambda **inputs: functional_call(toy.model, params, (), inputs), batch).mean()
        grads = torch.autograd.grad(loss, params.values(), create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in grads), params["shared.weight"])[0]
    toy.model.train()
    assert torch.isfinite(second).all()
    assert second.abs().sum() > 0


def test_saved_model_gives_identical_losses(toy, tmp_path):
    toy.save_model(tmp_path / "model")
    again = load_task("toy", model=str(tmp_path / "model"), dataset_size=48)
    assert list(again.examples) == list(toy.examples)
    for task in (toy, again):
        assert task.model.training
        task.model.eval()
    batch = toy.collate(toy.examples[:4])
    assert torch.equal(toy.losses(toy.model, batch), again.losses(again.model, batch))
    toy.model.train()


def test_tokenizer_loses_nothing_of_the_texts_it_learned_from():
    texts = [f"{PREFIX}{en}" for en, _ in PAIRS] * 5 + ["L'élève mange de la crème brûlée."]
    tokenizer = train_tokenizer(texts)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.unk_token_id not in ids
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_frequent_words_stay_whole(toy):
    words = toy.processor.convert_ids_to_tokens(toy.examples[0]["input_ids"])
    assert words[:3] == ["▁translate", "▁English", "▁to"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "with [brackets].jsonl"])
def test_every_local_format_loads_the_same_rows(name, tmp_path):
    task = from_file(write(tmp_path / name))
    decoded = [task.processor.decode(e["labels"], skip_special_tokens=True) for e in task.examples]
    assert decoded == [fr for _, fr in PAIRS]


def test_the_first_rows_are_used_and_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    first = from_file(write(path), size=2)
    assert len(first.examples) == 2
    assert first.processor.decode(first.examples[0]["labels"], skip_special_tokens=True) == "Bonjour."
    second = from_file(write(path, ROWS[::-1]), size=2)
    assert second.processor.decode(second.examples[0]["labels"], skip_special_tokens=True) == PAIRS[2][1]


GOOD = json.dumps(ROWS[0]).encode() + b"\n"
BAD_FILES = [
    ("empty.jsonl", b"", "empty.jsonl is empty"),
    ("cut.jsonl.gz", gzip.compress(GOOD * 99)[:50], r"cut short or damaged after line \d+"),
    ("plain.jsonl.gz", GOOD, "not a gzip file"),
    ("latin.jsonl", GOOD * 2 + b'{"translation": {"en": "\xe9t\xe9", "fr": "x"}}\n', "line 3 is not UTF-8"),
    ("syntax.jsonl", GOOD * 2 + b'{"translation": \n', "line 3 is not JSON"),
    ("list.json", b"[" + GOOD + b",\n]", "line [23] is not JSON"),
    ("text.jsonl", GOOD + b'"hello"\n', "line 2 is not a JSON object"),
    ("broken.parquet", b"PAR1nothing", "broken.parquet: .*"),
    ("table.xml", b"en,fr\n", "no data file; expected a file ending in .jsonl, "),
    ("missing.jsonl", GOOD + b'{"translation": {"en": "x"}}\n' * 2, "row 2: .*translation.fr is missing"),
    ("flat.jsonl", b'{"en": "x", "fr": "y"}\n' * 3, "row 1: field translation is missing"),
    ("string.jsonl", b'{"translation": "x"}\n' * 3, "row 1: .* is str 'x', expected an object"),
    ("number.jsonl", GOOD + b'{"translation": {"en": 5, "fr": "x"}}\n' * 2, "row 2: .*en is int 5"),
    ("blank.jsonl", GOOD + b'{"translation": {"en": "x", "fr": " "}}\n' * 2, "row 2: .*fr is empty"),
    ("few.jsonl", GOOD * 2, "has 2 rows, fewer than the dataset size of 3; --dataset_size 2 would do"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, message", BAD_FILES, ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_is_answered_in_one_line_that_names_it(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        from_file(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_answered_with_what_would_do(tmp_path):
    with pytest.raises(ValueError, match=r"no such file: .*nothing.jsonl; --dataset takes a file .* or toy"):
        from_file(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match=r"no such file: nothing.jsonl"):
        from_file("nothing.jsonl")
    with pytest.raises(ValueError, match="is a folder"):
        from_file(tmp_path)


@pytest.mark.parametrize("missing, what", [("config.json", "configuration"), ("model.safetensors", "weights"),
                                           ("tokenizer", "tokenizer")])  # fmt: skip
def test_an_incomplete_model_folder_is_refused_by_name(missing, what, toy, tmp_path):
    toy.save_model(tmp_path / "model")
    for path in (tmp_path / "model").glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"model folder .*model holds no {what}; expected {missing}"):
        load_task("toy", model=str(tmp_path / "model"), dataset_size=4)


def test_missing_model_folder_is_refused():
    with pytest.raises(ValueError, match="no such model folder: absent"):
        load_task("toy", model="./absent", dataset_size=4)


@pytest.mark.parametrize("options, message", [
    ({"dataset": "data/pairs.jsonl"}, "no such file: data/pairs.jsonl; "),
    ({"dataset": "data/pairs"}, "no such file: data/pairs; "),
    ({"dataset": "pairs.csv"}, "no such file: pairs.csv; "),
    ({"dataset": "table.xml"}, "table.xml is no data file; expected a file ending in .jsonl, "),
    ({"dataset": "~nobody/pairs.jsonl"}, "~nobody/pairs.jsonl: this machine has no user 'nobody'"),
    ({"dataset": "toy", "model": "data/absent"}, "no such model folder: data/absent; "),
    ({"dataset": "toy", "model": "data/runs/absent"}, "no such model folder: data/runs/absent; "),
    ({"dataset": "toy", "model": "~nobody/model"}, "~nobody/model: this machine has no user 'nobody'"),
])  # fmt: skip
def test_what_is_not_there_is_said_at_once(options, message, tmp_path, monkeypatch):
    """`data` is a folder here, so nothing below it is looked for on the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/nobody")
    monkeypatch.setattr("pwd.getpwnam", {}.__getitem__)
    monkeypatch.setattr("tasks.machine_translation.load_rows", None)  # must not be reached
    monkeypatch.setattr("tasks.machine_translation.toy_corpus", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "table.xml").write_text("en,fr\n")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_task("machine_translation", **{"model": "toy"} | options, dataset_size=4)
    assert "\n" not in str(caught.value)


def test_of_data_in_very_many_files_the_first_rows_are_streamed(monkeypatch):
    import datasets

    rows = [{"text": f"row {i}"} for i in range(9)]
    files = {"train": [f"{i}.json" for i in range(1000)]}
    builder = SimpleNamespace(config=SimpleNamespace(data_files=files))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.IterableDataset.from_generator(lambda: iter(rows))
    )
    splits = load_splits("a/b", count=4)
    assert splits["train"]["text"][:] == ["row 0", "row 1", "row 2", "row 3"]


def test_a_file_without_rows_is_said_to_hold_none(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "empty.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), path)
    for name in ("machine_translation", "masked_language_modeling", "binary_classification", "flowers102"):
        with pytest.raises(ValueError, match=re.escape(f"{path} holds no rows")):
            load_task(name, dataset=str(path), model="toy")


@pytest.mark.parametrize("damaged, part", [("config.json", "configuration"), ("tokenizer.json", "tokenizer")])
def test_the_damaged_part_of_a_model_folder_is_named(damaged, part, toy, tmp_path):
    toy.save_model(tmp_path / "model")
    (tmp_path / "model" / damaged).write_text("{ no JSON")
    with pytest.raises(ValueError, match=f"model folder .*model cannot be used: its {part} is damaged: ") as caught:
        load_task("toy", model=str(tmp_path / "model"), dataset_size=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_neither_run_nor_asked_for(place, toy, tmp_path, monkeypatch):
    folder, trace = tmp_path / "model", tmp_path / "it_ran"
    toy.save_model(folder)
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nEvilConfig = EvilModel = EvilTokenizer = object\n")
    settings = json.loads((folder / place).read_text())
    code = {"AutoConfig": "evil.EvilConfig", "AutoModelForSeq2SeqLM": "evil.EvilModel"}
    evil = {
        "config.json": {"model_type": "evil", "auto_map": code},
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}},
    }
    (folder / place).write_text(json.dumps(settings | evil[place]))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    if place == "config.json":
        with pytest.raises(ValueError, match="can only be loaded with Python code of its own, which is never run") as e:
            load_task("toy", model=str(folder), dataset_size=4)
        assert "\n" not in str(e.value)
    else:  # transformers has a tokenizer of its own for this model
        assert len(load_task("toy", model=str(folder), dataset_size=4).examples) == 4
    assert not asked and not trace.exists()


@pytest.mark.parametrize(
    "options, kind",
    [
        ("dataset_size=4, model='toy'", "dataset 'Helsinki-NLP/opus_books'"),
        ("dataset_size=4, dataset='toy'", "model 'google-t5/t5-small'"),
    ],
)
def test_offline_a_hub_name_is_answered_with_the_alternatives(options, kind, tmp_path):
    code = f"""
try:
    import tasks
    tasks.load_task("machine_translation", {options})
except ValueError as error:
    print(error)"""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(kind)
    assert "HF_HUB_OFFLINE" in run.stdout
    assert "toy" in run.stdout.splitlines()[0]
    assert len(run.stdout.splitlines()) == 1


def test_real_pairs_load_whole():
    path = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / "en_fr_tatoeba" / "train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}: set SHARED_DATA to the folder that holds en_fr_tatoeba")
    task = from_file(path, size=256)
    assert len(task.examples) == 256
    text = task.processor.decode(task.examples[0]["input_ids"], skip_special_tokens=True)
    assert text == PREFIX + "All that you have to do is to wait for his reply."


@pytest.mark.parametrize("name", ["text_classification", "binary_classification", "glue/rte"])
def test_an_encoder_that_was_trained_on_masked_words_becomes_a_classifier(name, tmp_path):
    """Its weights and its tokenizer are kept; the head alone is new, and comes from the seed."""
    masked = load_task("masked_language_modeling", dataset="toy", model="toy", dataset_size=16)
    with torch.no_grad():
        for p in masked.model.parameters():
            p.add_(0.01)  # as training would leave it: no longer the weights of any seed
    masked.save_model(tmp_path / "model")
    found = [
        load_task(name, dataset="toy", model=str(tmp_path / "model"), dataset_size=16, model_seed=seed).model
        for seed in (0, 0, 1)
    ]
    trained = dict(masked.model.roberta.named_parameters())
    for model in found:
        assert all(torch.equal(p, trained[key]) for key, p in model.roberta.named_parameters())
        assert model.config.vocab_size == masked.model.config.vocab_size
    heads = [torch.cat([p.flatten() for p in model.classifier.parameters()]) for model in found]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
