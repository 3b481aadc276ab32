"""Everything that is to be measured on a machine with a GPU, by one command.

    python -m benchmarks.gpu                       # about 20 minutes on an H200-class card; `make gpu`
    python -m benchmarks.gpu --parts agreement t5-small

Each part runs in a process of its own, for less than eight minutes, and the others go on if it fails. Failed parts are
named at the end, with exit status 1. The models have random weights, so neither the network nor the package `datasets`
is needed. Each part writes its table to benchmarks/results/<gpu>/, and summary.md and summary.csv hold the main
numbers. A table that is there already is kept under another name.

Without a GPU the same runs on the CPU at a tiny size, which says nothing about speed, into output/gpu_tiny/."""

import argparse
import csv
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks._machine import RESULTS, machine
from benchmarks.gpu import checks, protocol
from runs.files import write_whole
from runs.machine import prepare_machine
from runs.tables import markdown_table

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 480  # seconds per part
ABOUT = (
    "updates", "points", "finished", "rate_tflops", "peak_gb", "kernels_per_direction", "measuring_over_training"
)  # fmt: skip
Rows = list[dict]


def of_model(name: str) -> Callable[[torch.device, bool], Rows]:
    def measured(device: torch.device, tiny: bool) -> Rows:
        with tempfile.TemporaryDirectory() as folder:
            return protocol.run(name, device, tiny, Path(folder))

    return measured


def other_benchmarks(device: torch.device, tiny: bool) -> Rows:
    """Rows (benchmark, seconds, passed). Their own tables go to results/<machine>/."""
    size = ["--rounds", "1"] if tiny else []
    commands = {
        "clipping": ["--device", device.type, *size],
        "launches": ["--models", "distilroberta"] if tiny else [],
    }
    rows = []
    for name, flags in commands.items():
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags], cwd=ROOT)
        rows.append(dict(benchmark=name, seconds=time.perf_counter() - start, passed=done.returncode == 0))
    return rows


PARTS: dict[str, Callable[[torch.device, bool], Rows]] = {
    "correctness": checks.correctness,
    "agreement": checks.agreement,
    "benchmarks": other_benchmarks,
    "t5-small": of_model("t5-small"),
    "distilroberta": of_model("distilroberta"),
    "ResNet-18": of_model("ResNet-18"),
}


# ---- one part -------------------------------------------------------------------------------------------------------


def run_part(name: str, device: torch.device, tiny: bool, folder: Path) -> bool:
    """Run it and write its table. Returns: whether everything in it is as it should be."""
    rows = PARTS[name](device, tiny)
    path = folder / f"gpu_{name}.csv"
    keep_earlier(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, as_csv([row | {"machine": machine()} for row in rows]))
    return all(row.get("passed", True) and row.get("finished", True) for row in rows)


def as_csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def keep_earlier(path: Path) -> None:
    """Give a file of that name another one: NAME.1.csv, NAME.2.csv, ..."""
    if path.exists():
        number = 1
        while (other := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(other)
        print(f"{path} of an earlier run is now {other.name}")


# ---- all of them ----------------------------------------------------------------------------------------------------


def in_a_process(name: str, device: torch.device, tiny: bool, folder: Path) -> str | None:
    """What went wrong with the part; None if nothing did."""
    flags = ["--part", name, "--device", str(device), "--output", str(folder), *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *flags], cwd=ROOT, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"took more than {LIMIT} s"
    return None if done.returncode == 0 else f"exit status {done.returncode}"


def in_this_process(name: str, device: torch.device, tiny: bool, folder: Path) -> str | None:
    """As `in_a_process`, for tests: an error is told in words."""
    try:
        return None if run_part(name, device, tiny, folder) else "not as it should be"
    except Exception as error:  # the other parts go on
        return f"{type(error).__name__}: {error}"


def run(parts: Sequence[str], device: torch.device, tiny: bool, folder: Path, how=in_a_process) -> dict[str, str]:
    """part -> what went wrong, of the parts that failed. Writes the summary of all parts that have a table."""
    failed = {}
    for name in parts:
        print(f"== {name}", flush=True)
        trouble = how(name, device, tiny, folder)
        if trouble is not None:
            failed[name] = trouble
    for name, text in summary(folder, failed, tiny).items():
        keep_earlier(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text)
    return failed


# ---- the summary ----------------------------------------------------------------------------------------------------


def table(folder: Path, part: str) -> Rows:
    path = folder / f"gpu_{part}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(folder: Path, failed: dict[str, str], tiny: bool) -> dict[str, str]:
    """{"summary.md": text, "summary.csv": text} of the tables in the folder."""
    rows = [dict(part=part, what="failed", value=trouble, goal="", met="no") for part, trouble in failed.items()]
    for part in ("correctness", "agreement", "benchmarks"):
        if lines := table(folder, part):
            passed = sum(line["passed"] == "True" for line in lines)
            met = "yes" if passed == len(lines) else "no"
            rows.append(dict(part=part, what="passed", value=f"{passed} of {len(lines)}", goal="all", met=met))
    for part in protocol.FLAGS:
        rows += of_a_run(part, table(folder, part), tiny)
    rows = rows or [dict(part="", what="no part has a table", value="", goal="", met="")]
    note = "At tiny size on a CPU: this says nothing about speed." if tiny else "Seconds are wall time."
    head = ["part", "what", "value", "goal", "met"]
    cells = markdown_table(head, ([row[name] for name in head] for row in rows))
    return {"summary.md": f"# {machine()}\n\n{note}\n\n{cells}\n", "summary.csv": as_csv(rows)}


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
    folder = args.output or (ROOT / "output" / "gpu_tiny" if tiny else RESULTS)
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
