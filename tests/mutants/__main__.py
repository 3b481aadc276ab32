"""`python -m tests.mutants`: try every mutant, print how many the tests of its file notice, and name the survivors.

Works on a copy of the tree in a temporary folder. The libraries are imported once; every mutant is a fork of that
process, so that it costs its tests alone. A mutant is noticed when a test fails, or computes for LIMIT seconds.
"""

import argparse
import gc
import importlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.mutants import AREAS, ROOT, Mutant, mutants

LIMIT = 120  # seconds of processor time for the tests of one mutant
WANTED = 0.9  # share that is noticed, in every area
LIBRARIES = ("torch", "torch._dynamo", "transformers", "datasets", "sklearn.metrics", "matplotlib.pyplot", "hypothesis")
NOTICED, SURVIVED, BROKEN = "noticed", "survived", "broken"  # broken: the tests could not be run at all
OF_STATUS = {0: SURVIVED, 1: NOTICED}  # pytest's exit status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this text in area, file or claim")
    parser.add_argument("--list", action="store_true", help="print them and try none")
    parser.add_argument(
        "--output", type=Path, help="keep a line per mutant in this file; those in it are not tried again"
    )
    parser.add_argument("--trust", action="store_true", help="take for granted that the tests pass without a mutant")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in mutants() if arguments.only in str(mutant)]
    if arguments.list or not chosen:
        print("\n".join(map(str, chosen)) or "there is no such mutant")
        return 0 if chosen else 2
    output = arguments.output.resolve() if arguments.output else None
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        copy = copied_tree(Path(folder))
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        if tested(tests, copy, 3600, *["--collect-only"] * arguments.trust)[0] != SURVIVED:
            print(f"the tests fail without any mutant:\n{(copy.parent / 'pytest.out').read_text()[-3000:]}")
            return 1
        return report(campaign(chosen, copy, output))


def campaign(chosen: Sequence[Mutant], copy: Path, output: Path | None) -> dict[Mutant, str]:
    """Mutant -> verdict, each said as it is known."""
    lines = output.read_text().splitlines() if output and output.exists() else []
    known = {line[19:]: line.split()[0] for line in lines}
    verdicts = {}
    for mutant in chosen:
        verdicts[mutant] = known.get(str(mutant), "")
        if not verdicts[mutant]:
            path = copy / mutant.file
            text = path.read_text()
            path.write_text(text.replace(mutant.old, mutant.new))
            verdicts[mutant], seconds = tested(mutant.tests, copy) if text.count(mutant.old) == 1 else (BROKEN, 0.0)
            path.write_text(text)
            shutil.copystat(ROOT / mutant.file, path)  # its compiled file is right again
            line = f"{verdicts[mutant]:9}{seconds:6.1f} s  {mutant}"
            print(line, flush=True)
            if output:
                with output.open("a") as file:
                    file.write(f"{line}\n")
    return verdicts


def report(verdicts: Mapping[Mutant, str]) -> int:
    """Print a line per area and the mutants that were not noticed. The exit status: 0 if enough were in every area."""
    counts = Counter((mutant.area, verdict) for mutant, verdict in verdicts.items())
    print(f"\n{'area':12}{'mutants':>9}{NOTICED:>9}{SURVIVED:>9}{BROKEN:>9}")
    enough = True
    for area in AREAS:
        numbers = [counts[area, verdict] for verdict in (NOTICED, SURVIVED, BROKEN)]
        if any(numbers):
            print(f"{area:12}" + "".join(f"{number:9}" for number in (sum(numbers), *numbers)))
            enough = enough and numbers[0] >= WANTED * sum(numbers)
    for mutant, verdict in verdicts.items():
        if verdict != NOTICED:
            print(f"{verdict}: {mutant}\n    {mutant.old!r} -> {mutant.new!r}")
    return 0 if enough else 1


# ---- one process per mutant -----------------------------------------------------------------------------------------


def copied_tree(folder: Path) -> Path:
    """A copy of what git knows of the tree, as it is now, with the times of its files."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            target = folder / "tree" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder / "tree"


def prepare_process() -> None:
    """Import the libraries, and forget the project: every fork imports the modules of the copy."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # no fork looks through the libraries for garbage


def tested(tests: Sequence[str], copy: Path, limit: int = LIMIT, *options: str) -> tuple[str, float]:
    """(verdict, seconds of processor time) of these tests on the copy. A signal ends those that exceed the limit."""
    child = os.fork()
    if child == 0:
        run_tests(tests, copy, limit, options)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return OF_STATUS.get(code, BROKEN if code > 0 else NOTICED), used.ru_utime + used.ru_stime


def run_tests(tests: Sequence[str], copy: Path, limit: int, options: Sequence[str]) -> None:
    """In the child: run pytest in the copy and end. Compiled files of a mutant are not kept, those of the copy are."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = limit == LIMIT
    if sys.dont_write_bytecode:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    said = os.open(copy.parent / "pytest.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    temporary = f"--basetemp={copy.parent / 'temporary'}"
    os._exit(pytest.main(["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", temporary, *options, *tests]))


if __name__ == "__main__":
    sys.exit(main())
