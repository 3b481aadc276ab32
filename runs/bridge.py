"""The flags and names of the two papers' released code, and their names here. Data, and two functions that read it.

"There" is the code of Pan & Li (github.com/panyan7/adam-vs-sgd) or of Tomihari & Sato
(github.com/tom4649/gradient-heterogeneity). A parser answers a flag of theirs with the line that fits.
docs/coming_from_the_original.md shows all lines."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runs.tables import markdown_table


class Line(NamedTuple):
    """One flag or value of the original code. Where `there` ends in a word of capitals, that stands for any value, and
    for the same one in `here`. An empty `here` means: leave it out."""

    there: str
    here: str
    note: str = ""


PAN_LI = [
    Line("--task dbg", "--task machine_translation --dataset_size 320", "or --task toy, which downloads nothing"),
    Line("--algorithm_list_id -1", "", "each task has its own list; there it ends in an error"),
    Line("--algorithm_list_id 0", "run_landscape.py --task machine_translation --train_optimizer sgd"),
    Line("--algorithm_list_id 1", "run_landscape.py --task machine_translation --train_optimizer adam"),
    Line("--algorithm_list_id 2", "run_landscape.py --task autoregressive --train_optimizer sgd"),
    Line("--algorithm_list_id 3", "run_landscape.py --task autoregressive --train_optimizer adam"),
    Line("--algorithm_list_id 4", "run_convergence.py --task machine_translation"),
    Line("--algorithm_list_id 5", "run_convergence.py --task autoregressive"),
    Line("--use_test_batch True", "", "a fixed test batch is always used; --test_batch_size sets its size"),
    Line("--use_test_batch False", "", "here a fixed test batch is always used, not the batch of the step"),
    Line(
        "--use_sample_iterations True",
        "--sample_iterations 1 6",
        "these are batches of every test epoch; there they are iterations of the whole run",
    ),
    Line("--use_sample_iterations False", "", "random batches of the test epochs are the default"),
    Line("--momentum True", "--momentum", "it is the default"),
    Line("--momentum False", "--no-momentum", "there the word False counts as True"),
    Line("--save_model True", "--save_model", "a flag without a value"),
    Line("--save_model False", "", "it is the default; there the word False counts as True"),
    Line("--skip_search True", "--skip_search", "a flag without a value"),
    Line("--skip_search False", "", "it is the default; there the word False counts as True"),
]

_TASKS = {
    "rte": "glue/rte",
    "cola": "glue/cola",
    "sst2": "glue/sst2",
    "mrpc": "glue/mrpc",
    "cb": "super_glue/cb",
    "wic": "super_glue/wic",
    "boolq": "super_glue/boolq",
    "fgvc_aircraft": "aircraft",
}
_LABELS = {
    "sgd_momentum": "'sgd, momentum=0.9'",
    "signsgd": "sign_sgd",
    "signsgd_momentum": "'sign_sgd, momentum=0.9'",
}
_MODELS = {
    "roberta-base": "--model FacebookAI/roberta-base",
    "resnet18": "--model microsoft/resnet-18",
    "vit-base": "--model google/vit-base-patch16-224",
}
_NOTES = {
    "resnet18": "the weights are other copies, see docs/papers.md",
    "vit-base": "with --algorithm_list gradient_heterogeneity/vit-flowers or vit-aircraft; the weights are others, see "
    "docs/papers.md",
}

TOMIHARI_SATO = [
    *(Line(f"--task {there}", f"--task {here}") for there, here in _TASKS.items()),
    *(Line(f"--dataset_name {there}", f"--task {here}") for there, here in _TASKS.items()),
    Line("--dataset_name flowers102", "--task flowers102"),
    *(Line(f"--model {there}", here, _NOTES.get(there, "")) for there, here in _MODELS.items()),
    *(Line(f"--model_name {there}", here, _NOTES.get(there, "")) for there, here in _MODELS.items()),
    *(Line(f"--only {there}", f"--only {here}") for there, here in _LABELS.items()),
    *(Line(f"--optimizer_name {there}", f"--only {here}") for there, here in _LABELS.items()),
    Line("--optimizer_name NAME", "--only NAME", "of run_convergence.py; without it all six are trained"),
    Line("--train_optimizer sgd_momentum", "--train_optimizer sgd", "at 10 times the lr: momentum is 0.9 m + 0.1 g"),
    Line("--train_optimizer signsgd", "--train_optimizer sign_sgd --no-momentum"),
    Line("--train_optimizer signsgd_momentum", "--train_optimizer sign_sgd"),
    Line("--lr_scheduler default", "", "each task has its own: linear for texts, epoch_warmup for pictures"),
    Line("--lr_scheduler_type default", "", "each task has its own: linear for texts, epoch_warmup for pictures"),
    Line("--lr_scheduler_type NAME", "--lr_scheduler NAME"),
    Line("--num_train_epochs N", "--num_epochs N"),
    Line("--seed N", "--seeds N", "of run_convergence.py, which takes several"),
    Line("--accumulation_steps N", "", "--batch_size is examples per update, --micro_batch_size those at once"),
    Line("--adam_epsilon X", "", "it is an option of a row in algorithm_list.py: Algorithm('adam', lr=1e-5, eps=1e-8)"),
    Line("--training_mode pretrained", "", "run_hessian.py measures the pretrained model unless --checkpoint is given"),
    Line("--training_mode normal", "--checkpoint FOLDER", "of run_hessian.py: a model that --save_model kept"),
    Line("--domain NAME", "", "the task says it"),
    Line("--script_type NAME", "", "--output_dir names the folder of the results"),
    Line("--arguments FILE", "", "the task's defaults are in tasks/, and every one has a flag"),
    Line("--hyperparameter_config_dir FOLDER", "", "the learning rates are in algorithm_list.py"),
    Line("--tuning_metric NAME", "", "--tune_lr searches for the lowest training loss"),
]

_BY_FLAG: dict[str, list[Line]] = {}
for _line in (*PAN_LI, *TOMIHARI_SATO):
    _BY_FLAG.setdefault(_line.there.split()[0], []).append(_line)


def answer(arguments: Sequence[str], known: Container[str]) -> str | None:
    """One line for the first flag or value of the original code on a command line, or None.

    `known`: the flags that the parser has. Of those, only values that are the original's are answered.
    """
    for flag, value in _given(arguments):
        if flag == "--model" and Path(value).exists():
            continue
        for line in _BY_FLAG.get(flag, ()):
            theirs = line.there.partition(" ")[2]
            if theirs == value or theirs.isupper() and flag not in known:
                return _sentence(line, theirs, value)
    return None


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, value) for every value of every flag; "" is the value of a flag that has none."""
    for place, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        flag, equals, value = word.partition("=")
        values = [value] if equals else []
        for following in arguments[place + 1 :]:
            if following.startswith("--") or equals:
                break
            values.append(following)
        for value in values or [""]:
            yield flag, value


def _sentence(line: Line, theirs: str, value: str) -> str:
    there, here = line.there, line.here
    if theirs.isupper():
        there = there.removesuffix(theirs) + (value or theirs)
        here = " ".join((value or theirs) if word == theirs else word for word in here.split(" "))
    does = f"is written {here} here" if here else "is left out here"
    return f"{there} of the original code {does}" + (f": {line.note}" if line.note else "")


def table(lines: Sequence[Line]) -> str:
    """The lines as a Markdown table, for docs/coming_from_the_original.md."""
    rows = ((f"`{line.there}`", f"`{line.here}`" if line.here else "(leave it out)", line.note) for line in lines)
    return markdown_table(("there", "here", "note"), rows) + "\n"
