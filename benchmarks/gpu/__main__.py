"""Everything that is to be measured on a machine with a GPU, by one command.

    python -m benchmarks.gpu                       # `make gpu`; less than 25 minutes on an H200-class card
    python -m benchmarks.gpu --parts agreement t5-small

Each part runs in a process of its own, for less than eight minutes, and the others go on if it fails. Failed parts are
named at the end, with exit status 1. The models have random weights, so neither the network nor the package `datasets`
is needed. Each part writes its table to benchmarks/results/<gpu>/, and summary.md and summary.csv hold the main
numbers. A table that is there already is kept under another name. The parts "measuring", "training" and "memory" are
the other benchmarks (benchmarks/gpu/others.py), each with its own table.

Without a GPU the same runs on the CPU at a tiny size, which says nothing about speed, into output/gpu_tiny/."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks._machine import ROOT, Machine, as_csv, in_a_process, keep_earlier, read, write
from benchmarks.gpu import checks, others, protocol
from runs.files import write_whole
from runs.machine import prepare_machine
from runs.tables import markdown_table

LIMIT = 480  # seconds per part
ABOUT = (
    "updates", "points", "finished", "rate_tflops", "peak_gb", "kernels_per_direction", "measuring_over_training"
)  # fmt: skip
Rows = list[dict]
Measure = Callable[[torch.device, bool, Path], Rows]  # device, whether tiny, folder of further tables


def of_model(name: str) -> Measure:
    def measured(device: torch.device, tiny: bool, _: Path) -> Rows:
        with tempfile.TemporaryDirectory() as folder:
            return protocol.run(name, device, tiny, Path(folder))

    return measured


PARTS: dict[str, Measure] = {
    "correctness": lambda device, tiny, _: checks.correctness(device, tiny),
    "agreement": lambda device, tiny, _: checks.agreement(device, tiny),
    "t5-small": of_model("t5-small"),
    "measuring": partial(others.rows_of, others.MEASURING),
    "training": partial(others.rows_of, others.TRAINING),
    "memory": others.memory,
    "distilroberta": of_model("distilroberta"),
    "ResNet-18": of_model("ResNet-18"),
}


# ---- one part -------------------------------------------------------------------------------------------------------


def run_part(name: str, device: torch.device, tiny: bool, folder: Path) -> bool:
    """Run it and write its table. Returns: whether everything in it is as it should be."""
    rows = PARTS[name](device, tiny, folder)
    path = folder / f"gpu_{name}.csv"
    keep_earlier(path)
    write(path, [row | {"machine": str(Machine(device))} for row in rows])
    return all(row.get("passed", True) and row.get("finished", True) for row in rows)


# ---- all of them ----------------------------------------------------------------------------------------------------


def by_command(name: str, device: torch.device, tiny: bool, folder: Path) -> str | None:
    """What went wrong with the part; None if nothing did."""
    flags = ["--part", name, "--device", str(device), "--output", str(folder), *(["--tiny"] if tiny else [])]
    try:
        done = in_a_process(["benchmarks.gpu", *flags], timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"took more than {LIMIT} s"
    return None if done.returncode == 0 else f"exit status {done.returncode}"


def in_this_process(name: str, device: torch.device, tiny: bool, folder: Path) -> str | None:
    """As `by_command`, for tests: an error is told in words."""
    try:
        return None if run_part(name, device, tiny, folder) else "not as it should be"
    except Exception as error:  # the other parts go on
        return f"{type(error).__name__}: {error}"


def run(parts: Sequence[str], device: torch.device, tiny: bool, folder: Path, how=by_command) -> dict[str, str]:
    """part -> what went wrong, of the parts that failed. Writes the summary of all parts that have a table."""
    failed = {}
    for name in parts:
        print(f"== {name}", flush=True)
        trouble = how(name, device, tiny, folder)
        if trouble is not None:
            failed[name] = trouble
    for name, text in summary(folder, failed, device, tiny).items():
        keep_earlier(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text)
    return failed


# ---- the summary ----------------------------------------------------------------------------------------------------


def summary(folder: Path, failed: dict[str, str], device: torch.device, tiny: bool) -> dict[str, str]:
    """{"summary.md": text, "summary.csv": text} of the tables in the folder."""
    tables = {part: read(folder / f"gpu_{part}.csv") for part in PARTS}
    rows = [dict(part=part, what="failed", value=trouble, goal="", met="no") for part, trouble in failed.items()]
    for part, lines in tables.items():
        if lines and "passed" in lines[0]:
            passed = sum(line["passed"] == "True" for line in lines)
            met = "yes" if passed == len(lines) else "no"
            rows.append(dict(part=part, what="passed", value=f"{passed} of {len(lines)}", goal="all", met=met))
            rows += [
                dict(part=part, what=line["benchmark"], value=line["trouble"] or line["tables"], goal="", met="")
                for line in lines
                if "benchmark" in line
            ]
    if lines := tables.get("memory"):
        value, met = others.about_memory(lines)
        what, goal = "predicted over counted memory", f"{1 - others.WITHIN:.2g} to {1 + others.WITHIN:.2g}"
        rows.append(dict(part="memory", what=what, value=value, goal=goal, met="yes" if met else "no"))
    for part in protocol.FLAGS:
        rows += of_a_run(part, tables.get(part, []), tiny)
    rows = rows or [dict(part="", what="no part has a table", value="", goal="", met="")]
    note = "At tiny size on a CPU: this says nothing about speed." if tiny else "Seconds are wall time."
    head = ["part", "what", "value", "goal", "met"]
    cells = markdown_table(head, ([row[name] for name in head] for row in rows))
    return {"summary.md": f"# {Machine(device)}\n\n{note}\n\n{cells}\n", "summary.csv": as_csv(rows)}


def of_a_run(part: str, lines: Rows, tiny: bool) -> Rows:
    """The rows of the summary for the run of one model."""

    def say(what: str, value: str, goal: str = "", met: str = "") -> dict:
        return dict(part=part, what=what, value=value, goal=goal, met=met)

    rows = [say(f"seconds: {line['stage']}", f"{float(line['seconds']):.4g}") for line in lines]
    rows += [
        say(f"share of the chip's rate: {line['stage']}", f"{float(line['share_of_rate']):.3g}")
        for line in lines
        if line["share_of_rate"]
    ]
    rows += [say(name, line[name]) for line in lines[:1] for name in ABOUT]
    if lines and part == "t5-small" and not tiny:
        goals = protocol.goals(lines)
        rows += [say("goal", value, goal, "yes" if met else "no") for goal, value, met in goals]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small models; always so without a GPU")
    parser.add_argument("--output", type=Path, help="where the tables go; default: benchmarks/results/<gpu>")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in the process of that part
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    tiny = args.tiny or device.type == "cpu"
    folder = args.output or (ROOT / "output" / "gpu_tiny" if tiny else Machine(device).folder)
    prepare_machine()
    if args.part:
        return 0 if run_part(args.part, device, tiny, folder) else 1
    failed = run(args.parts, device, tiny, folder)
    print((folder / "summary.md").read_text())
    for name, trouble in failed.items():
        print(f"failed: {name}: {trouble}")
    print(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
