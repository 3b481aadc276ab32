"""Every wrong input is answered before any work: one line that names the culprit, exit status 2, nothing written."""

import gzip
import io
import json
import re
import shlex
import shutil

import pytest
import safetensors.torch
import torch

import run_convergence
import run_hessian
import run_landscape
from algorithm_list import ALGORITHM_LISTS
from tasks import task_defaults
from tests.helpers.task_examples import toy, write
from torch_optimizer import Algorithm

pytestmark = pytest.mark.usefixtures("own_cache")
SCRIPTS = {"landscape": run_landscape, "convergence": run_convergence, "hessian": run_hessian}

# ---- flags --------------------------------------------------------------------------------------------------------

FLAGS = [
    ("landscape", "--task machine_translatoin",
     "unknown task 'machine_translatoin'; did you mean 'machine_translation'"),
    ("landscape", "--task ''", "unknown task ''; known: toy, machine_translation"),
    ("landscape", "--algorithm_list workshp", "unknown algorithm list 'workshp'; did you mean 'workshop'"),
    ("landscape", "--train_optimizer adm", "unknown optimizer 'adm'; did you mean 'adam'"),
    ("landscape", "--num_epochs 0", r"--num_epochs: expected int in \[1, 1000000000\], got '0'"),
    ("landscape", "--num_epochs two", "--num_epochs: expected int"),
    ("landscape", "--batch_size -3", "--batch_size: expected int"),
    ("landscape", "--dataset_size 100000000", "dataset_size of generated data is at most 1,000,000, got 100000000"),
    ("landscape", "--task flowers102 --max_length 64", "--max_length has no effect on the task flowers102; leave it"),
    ("convergence", "--task autoregressive --dataset toy --zipf 1",
     "--zipf has no effect on the task autoregressive; leave it out"),
    ("landscape", "--task machine_translation --zipf 1",
     r"--zipf has no effect with data that are not generated \(--dataset toy\); leave it out"),
    ("hessian", "--zipf -1", r"expected float in \[0, 10\], got '-1'"),
    ("landscape", "--windows_per_file 2", "--windows_per_file has no effect on the task toy; leave it out"),
    ("landscape", "--max_length 1", "max_length is a number of tokens, 2 or more, got 1"),
    ("landscape", "--lr 0", r"--lr: expected float in \[1e-30, 1e\+30\], got '0'"),
    ("landscape", "--lr nan", "--lr: expected float"),
    ("landscape", "--lr inf", "--lr: expected float"),
    ("landscape", "--seed -1", "--seed: expected int"),
    ("landscape", "--test_seed x", "--test_seed: expected int"),
    ("landscape", "--step_size 0", r"--step_size: expected float in \[1e-30, 1e\+30\], got '0'"),
    ("landscape", "--dtype float16", "unknown dtype 'float16'; did you mean 'float64'"),
    ("landscape", "--device gpu", "device 'gpu' cannot be used"),
    ("landscape", "--device cuda:77", "device 'cuda:77' cannot be used"),
    ("landscape", "--optimizer_device ''", "device '' cannot be used"),
    ("landscape", "--num_epochs 3 --test_epochs 4", "--test_epochs 4 is after the last epoch, --num_epochs 3"),
    ("landscape", "--test_epochs 0", "--test_epochs: expected int"),
    ("landscape", "--test_batch_size 641", "--test_batch_size 641 is more than the 640 examples"),
    ("landscape", "--sample_iterations 11", "--sample_iterations 11 is past the last batch: an epoch has 10"),
    ("landscape", "--skip_search --skip_sharpness", "leaves nothing to measure"),
    ("landscape", "--train_optimizer adam --momentum", "--momentum is for sgd, normalized_sgd and sign_sgd, not adam"),
    ("landscape", "--epochs 3", "unrecognized arguments: --epochs 3"),
    ("landscape", "--checkpoint_every 0", "--checkpoint_every: expected int"),
    ("landscape", "--allow_changes", "--allow_changes is for --resume, which is not given"),
    ("landscape", "--resume {dir}/absent", "is not a run folder: it has no config.json"),
    ("landscape", "--resume {dir} --overwrite", "leave out --overwrite and --output_dir"),
    ("landscape", "--from_points {dir}/absent", "is not a run folder: it has no config.json"),
    ("landscape", "--output_dir {dir}/file", "is a file"),
    ("landscape", "--output_dir {dir}", "is not empty; replace that run with --overwrite"),
    ("landscape", "--output_dir {dir} --overwrite", "is not a run folder"),
    ("landscape", "--output_dir ''", "--output_dir: expected a name, got nothing"),
    ("landscape", "--output_dir /dev/null/run", "cannot create output folder /dev/null/run: Not a directory"),
    ("landscape", "--batch_size=--", "--batch_size: '--' is not a value"),
    ("landscape", "--test_epochs 1 -- 2", "'--' is not a value"),
    ("landscape", f"--num_epochs 1{'0' * 400}", r"--num_epochs: expected int in .*, got '10{59}\.\.\.'"),
    ("landscape", "--seed 2147483648", r"--seed: expected int in \[0, 2147483647\]"),
    ("landscape", "--lr 1e308", r"--lr: expected float in \[1e-30, 1e\+30\], got '1e308'"),
    ("landscape", "--step_size 1e-300", "--step_size: expected float"),
    ("landscape", "--device meta", "device 'meta' cannot be used .known are cpu, cuda, cuda:N, mps"),
    ("landscape", "--optimizer_device hpu", "--optimizer_device: device 'hpu' cannot be used"),
    ("landscape", "--dataset '~nobody-of-that-name/x'",
     "--dataset: '~nobody-of-that-name/x' names the home of no user of this machine"),
    ("landscape", "--output_dir '~nobody-of-that-name/x'", "--output_dir: .*names the home of no user"),
    ("landscape", "--from_points ''", "--from_points: expected a name, got nothing"),
    ("landscape", "--resume ''", "--resume: expected a name, got nothing"),
    ("landscape", "--hf_key ''", "--hf_key: expected a name, got nothing"),
    ("convergence", "--max_grad_norm 1e31", "--max_grad_norm: expected float"),
    ("hessian", "--checkpoint ''", "--checkpoint: expected a name, got nothing"),
    ("hessian", "--checkpoint '~nobody-of-that-name/x'", "--checkpoint: .*names the home of no user"),
    ("hessian", "--parameters ''", "--parameters: expected a name, got nothing"),
    ("hessian", "--tolerance 1e-300", r"--tolerance: expected float in \[1e-30, 0.5\]"),
    ("convergence", "--task tyo", "unknown task 'tyo'; did you mean 'toy'"),
    ("convergence", "--only sgd adm",
     "--only 'adm' is not a label of the list; its labels are sgd; sgd, coordinate_clip=0.1"),
    ("convergence", "--only", "--only: expected at least one argument"),
    ("convergence", "--seeds 1 2 1", "--seeds names a seed twice: 1 2 1"),
    ("convergence", "--seeds -1", r"--seeds: expected int in \[0, 2147483647\], got '-1'"),
    ("convergence", "--batch_size many", "--batch_size: expected int"),
    ("convergence", "--micro_batch_size 0", "--micro_batch_size: expected int"),
    ("convergence", "--lr_scheduler step", "unknown schedule 'step'; known: constant, linear"),
    ("convergence", "--warmup_ratio 1.5", r"--warmup_ratio: expected float in \[0, 1\], got '1.5'"),
    ("convergence", "--max_grad_norm -1", "--max_grad_norm: expected float"),
    ("convergence", "--dtype float64", "unknown dtype 'float64'; .*known: float32, bfloat16"),
    ("convergence", "--device cpu --dtype bfloat16", "--dtype bfloat16 is for CUDA devices, not cpu"),
    ("convergence", "--tune_lr --lr_grid 1 0", r"--lr_grid: expected float in \[1e-30, 1e\+30\], got '0'"),
    ("convergence", "--tune_lr --lr_grid nan", "--lr_grid: expected float"),
    ("convergence", "--lr_grid 1 3", "--lr_grid has no effect without --tune_lr; leave it out"),
    ("convergence", "--tune_epochs 1", "--tune_epochs has no effect without --tune_lr"),
    ("convergence", "--only adafactor --lr_scheduler linear",
     "--lr_scheduler has no effect on rows that set their own learning rate"),
    ("convergence", "--only adafactor --tune_lr", "--tune_lr has no effect on rows that set their own learning rate"),
    ("convergence", "--hf_key x", "--hf_key has no effect with generated data and a new model"),
    ("landscape", "--dataset toy --model toy --task autoregressive --hf_key x", "--hf_key has no effect with generat"),
    ("landscape", "--step_size 1 --skip_search", "--step_size has no effect with --skip_search"),
    ("landscape", "--num_sample_sharpness 2 --sample_iterations 1",
     "--num_sample_sharpness has no effect with --sample_iterations"),
    ("landscape", "--num_sample_sharpness 2 --skip_sharpness", "has no effect with --skip_sharpness"),
    ("landscape", "--reference adam --skip_sharpness", "--reference has no effect with --skip_sharpness"),
    ("convergence", "--warmup_ratio 0.3 --lr_scheduler cosine", "--warmup_ratio is for schedules with a warm-up, not"),
    ("convergence", "--tune_lr --tune_epochs 0", "--tune_epochs: expected int"),
    ("convergence", "--num_epochs 2 --num_epoch_to_save 3", "--num_epoch_to_save 3 is after the last epoch"),
    ("convergence", "--lr 0.1", "unrecognized arguments: --lr 0.1"),
    ("hessian", "--parameters nothing", "--parameters 'nothing' chooses no tensor; they are called shared.weight"),
    ("hessian", "--parameters '('", r"--parameters '\(' is not a regular expression"),
    ("hessian", "--batch_size 400", "--num_batches 2 of --batch_size 400 take 800 examples; there are 640"),
    ("hessian", "--tolerance 0", r"--tolerance: expected float in \[1e-30, 0.5\]"),
    ("hessian", "--max_iterations 0", r"--max_iterations: expected int in \[1, 1000000000\]"),
    ("hessian", "--checkpoint . --model toy", "--checkpoint and --model both say which model"),
    ("hessian", "--checkpoint {dir}", "holds no saved model; --save_model keeps one"),
    ("hessian", "--checkpoint {dir}/absent", "is not a folder; it takes a run with --save_model"),
    ("hessian", "--task tooy", "unknown task 'tooy'; did you mean 'toy'"),
]  # fmt: skip

# ---- files --------------------------------------------------------------------------------------------------------

REVIEWS = [{"text": f"film number {i} was good", "label": i % 2} for i in range(40)]
LINE = json.dumps(REVIEWS[0]).encode() + b"\n"
PAIR = {"sentence1": "one thing", "sentence2": "another", "label": 0}


def picture(data: bytes | None = None) -> dict:
    import PIL.Image

    png = io.BytesIO()
    PIL.Image.new("RGB", (32, 32)).save(png, "PNG")
    return {"img": {"bytes": png.getvalue() if data is None else data, "path": None}, "label": 1}


FILES = [  # task, name, rows or bytes, answer
    ("binary_classification", "empty.jsonl", b"", "empty.jsonl is empty"),
    ("binary_classification", "blank.jsonl", b"\n\n", "blank.jsonl: it holds no rows"),
    ("binary_classification", "cut.jsonl.gz", gzip.compress(LINE * 99)[:40], r"cut short or damaged after line \d+"),
    ("binary_classification", "plain.jsonl.gz", LINE, "not a gzip file"),
    ("binary_classification", "latin.jsonl", LINE + b'{"text": "\xe9t\xe9", "label": 1}\n', "line 2 is not UTF-8"),
    ("binary_classification", "nul.jsonl", LINE * 3 + b'{"text": "\x00"}\n', "line 4 is not JSON"),
    ("binary_classification", "twice.jsonl", b'{"text": "a", "text": "b", "label": 1}\n' * 30, "specified twice"),
    ("binary_classification", "object.json", json.dumps({"data": REVIEWS}).encode(), "has the fields data; wanted"),
    ("binary_classification", "huge.jsonl", [*REVIEWS, {"text": "x", "label": 10**9}],
     "row 41: field label is int 1000000000, expected 0, 1, 2, ... below 100,000"),
    ("binary_classification", "minus.jsonl", [*REVIEWS, {"text": "x", "label": -1}], "row 41: field label is int -1"),
    ("binary_classification", "half.jsonl", [{"text": "x", "label": 0.5}] * 40, "row 1: field label is 0.5: regr"),
    ("binary_classification", "null.jsonl", [*REVIEWS, {"text": None, "label": 1}], "row 41: field text is missing"),
    ("binary_classification", "list.jsonl", [{"text": ["x"], "label": 1}] * 40, "row 1: field text is list"),
    ("binary_classification", "mixed.jsonl", [*REVIEWS, {"text": 5, "label": 1}], "row 41: field text is int 5"),
    ("binary_classification", "spaces.jsonl", [*REVIEWS, {"text": " ", "label": 1}], "row 41: field text is empty"),
    ("binary_classification", "few.jsonl", REVIEWS[:9], "has 9 rows, 7 of them for training .*--dataset_size 7 would"),
    ("binary_classification", "table.csv", b"text,label\n", "table.csv holds no rows"),
    ("binary_classification", "table.xml", b"<x/>", "no data file; expected a file ending in .jsonl"),
    ("binary_classification", "broken.parquet", b"PAR1nothing", "broken.parquet: "),
    ("glue/rte", "reviews.jsonl", REVIEWS, "wanted premise, hypothesis or sentence1, sentence2, and"),
    ("super_glue/cb", "unlabelled.jsonl", [{**PAIR, "label": -1}] * 40, "row 1: field label is int -1"),
    ("masked_language_modeling", "code.jsonl", [{"content": "x"}] * 40,
     "row 1: field text is missing; there is content"),
    ("autoregressive", "program.jsonl", [{"program": "x"}] * 40, r"row 1: field content .or text. is missing"),
    ("machine_translation", "flat.jsonl", [{"en": "x", "fr": "y"}] * 40,
     "row 1: field translation is missing; there is en, fr"),
    ("image_classification", "reviews.jsonl", REVIEWS,
     r"has the fields text, label; expected image .or img., and label"),
    ("image_classification", "damaged.parquet", [*[picture()] * 7, picture(b"no picture"), *[picture()] * 30],
     "damaged.parquet: the picture in row 8 cannot be decoded"),
    ("image_classification", "path.parquet", [{"img": "picture.png", "label": 1}] * 40,
     "path.parquet: the picture in row 1 cannot be read: .*No such file"),
    ("flowers102", "unlabelled.parquet", [{"img": "x"}] * 40, "has the fields img; expected label"),
]  # fmt: skip

# ---- model folders ------------------------------------------------------------------------------------------------


def replace_weights(folder, change):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def demand_remote_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForSeq2SeqLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(folder / 'code has run')!r}, 'w')\n")


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])


def remove(name):
    return lambda folder: (folder / name).unlink()


def pickle_weights(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weights": print}, folder / "pytorch_model.bin")


FOLDERS = [  # task, what happens to a saved toy translation model, answer
    ("toy", shutil.rmtree, "no such model folder"),
    ("toy", remove("config.json"), "holds no configuration; expected config.json"),
    ("toy", remove("model.safetensors"), "holds no weights; expected model.safetensors"),
    ("toy", lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "holds no tokenizer; expected"),
    ("toy", cut("model.safetensors"), "cannot be loaded as AutoModelForSeq2SeqLM: Error while deserializing"),
    ("toy", lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
    ("toy", lambda folder: (folder / "config.json").write_text("{}"), "Should have a `model_type`"),
    ("toy", lambda folder: (folder / "tokenizer.json").write_text("{}"), "its tokenizer is damaged"),
    ("toy", lambda folder: replace_weights(folder, lambda w: w | {"shared.weight": torch.zeros(3, 3)}),
     "those of another model than its config.json describes: .*shared.weight"),
    ("toy", lambda folder: replace_weights(folder, lambda w: {"x": torch.zeros(1)}), "those of another model"),
    ("toy", pickle_weights, "cannot be loaded as AutoModelForSeq2SeqLM: Weights only load failed"),
    ("toy", demand_remote_code, "can only be loaded with Python code of its own, which is never run here"),
    ("autoregressive", lambda folder: None, "cannot be loaded as AutoModelForCausalLM: .*T5Config"),
    ("image_classification", lambda folder: None, "holds no image processor; expected preprocessor_config.json"),
]  # fmt: skip


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    toy("toy").save_model(folder)
    return folder


# ---- the one claim ------------------------------------------------------------------------------------------------


def state(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def refused(script, flags, answer, folder, capfd):
    before = state(folder)
    if "--output_dir" not in flags and "--resume" not in flags:
        flags = [*flags, "--output_dir", str(folder / "run")]
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit:
        SCRIPTS[script].main(flags)
    error = capfd.readouterr().err
    assert exit.value.code == 2
    assert error.count("\n") == 1, error
    assert re.search(answer, error), error
    assert state(folder) == before


@pytest.mark.parametrize(("script", "flags", "answer"), FLAGS, ids=[f"{s} {flags}" for s, flags, _ in FLAGS])
def test_a_wrong_flag_is_answered_in_one_line(script, flags, answer, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    refused(script, [word.replace("{dir}", str(tmp_path)) for word in shlex.split(flags)], answer, tmp_path, capfd)


@pytest.mark.parametrize("script", ["landscape", "convergence"])
@pytest.mark.parametrize("row, answer", [
    (Algorithm("adam", lr=-1.0), "algorithm list 'mine', row 2: adam cannot be used: lr must be"),
    (Algorithm("adam", lr=1.0, beta=1.0), "row 2: adam has no option 'beta'; did you mean 'betas'"),
    ("adam", "row 2: expected Algorithm"),
])  # fmt: skip
def test_a_wrong_row_is_answered_in_one_line(script, row, answer, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(ALGORITHM_LISTS, "mine", [Algorithm("sgd", lr=1.0), row])
    monkeypatch.setattr(SCRIPTS[script], "load_task", None)  # must not be reached
    refused(script, ["--algorithm_list", "mine"], answer, tmp_path, capfd)


@pytest.mark.parametrize(("task", "name", "content", "answer"), FILES, ids=[f"{f[0]} {f[1]}" for f in FILES])
def test_a_wrong_data_file_is_answered_in_one_line(task, name, content, answer, tmp_path, capfd):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(content).to_parquet(str(path))
    else:
        write(path, content)
    flags = ["--task", task, "--dataset", str(path), "--model", "toy", "--dataset_size", "16"]
    flags += [] if task_defaults(task).max_length is None else ["--max_length", "16"]
    refused("landscape", flags, answer, tmp_path, capfd)


@pytest.mark.parametrize(("task", "change", "answer"), FOLDERS, ids=[answer for *_, answer in FOLDERS])
def test_a_wrong_model_folder_is_answered_in_one_line(task, change, answer, saved_model, tmp_path, capfd):
    folder = shutil.copytree(saved_model, tmp_path / "model")
    change(folder)
    flags = ["--task", task, "--dataset", "toy", "--model", str(folder), "--dataset_size", "32"]
    refused("hessian", flags, answer, tmp_path, capfd)
    assert not (folder / "code has run").exists()


@pytest.mark.parametrize("flag", ["--dataset /nowhere/pairs.jsonl", "--model /nowhere/model", "--dataset ''"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_of_nothing_is_answered_in_one_line(script, flag, tmp_path, capfd):
    refused(script, shlex.split(flag), "/nowhere/|expected a name", tmp_path, capfd)
