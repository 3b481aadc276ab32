"""The commands in a page of docs/, and the same commands at a size that runs in seconds."""

import re
import shlex
from pathlib import Path

import run_convergence
import run_hessian
import run_landscape
from tasks import task_defaults

ROOT = Path(run_landscape.__file__).parent
SCRIPTS = {"run_landscape.py": run_landscape, "run_convergence.py": run_convergence, "run_hessian.py": run_hessian}
COMMAND = re.compile(r"python (run_\w+\.py[^`\n|#]*)")
SMALL = ["--dataset", "toy", "--model", "toy", "--dataset_size", "16", "--device", "cpu"]
SMALL_RUN = ["--num_epochs", "1", "--batch_size", "8", "--micro_batch_size", "8"]
SMALLER = {
    "run_landscape.py": [*SMALL_RUN, "--test_batch_size", "4", "--test_epochs", "1"],
    "run_convergence.py": [*SMALL_RUN, "--seeds", "1111"],
    "run_hessian.py": ["--batch_size", "4", "--num_batches", "1", "--tolerance", "0.5", "--max_iterations", "3"],
}


def commands(page: str) -> list[list[str]]:
    """Every call of a script in a page, once, as words: script name first."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    command_lines = [shlex.split(match) for match in COMMAND.findall(text)]
    return list(map(list, dict.fromkeys(map(tuple, command_lines))))


def at_toy_size(words: list[str]) -> list[str]:
    """The command's own flags, then those that make it small; a later flag wins over an earlier one. The algorithms
    stay those of the command."""
    script, *flags = words
    if "--checkpoint" in flags:
        return [*flags, *SMALL[4:], *SMALLER[script]]
    if script != "run_hessian.py" and "--algorithm_list" not in flags:
        task = SCRIPTS[script].make_parser().parse_args(flags).task
        flags += ["--algorithm_list", task_defaults(task).algorithm_list]
    few = ["--num_sample_sharpness", "1"] if script == "run_landscape.py" and "--sample_iterations" not in flags else []
    if "--robust_smoothness" in flags:
        few = ["--robust_smoothness", "8"]
    return [*flags, *SMALL, *SMALLER[script], *few]
