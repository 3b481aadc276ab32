"""`python -m study`: make every run of the study that is not finished yet.

A run that was stopped is resumed. A run that fails is named at the end, and the others go on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from runs.config import CONFIG_FILE, is_finished
from study.encoders import fresh_copy
from study.plan import FULL, SMALL, Run, missing, runs

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="a folder that holds en_fr_tatoeba/, imdb/, snli/ and cifar10/"
    )
    parser.add_argument("--small", action="store_true", help="tiny runs on generated data, in minutes")
    parser.add_argument(
        "--encoder",
        metavar="MODEL",
        help="a pretrained encoder of the hub, such as FacebookAI/roberta-base, or a folder: make only the runs that "
        "fine-tune it, and the same from fresh weights; give it an --output_dir of its own",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("output/study"),
        metavar="FOLDER",
        help="where the run folders go (default: output/study)",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="make only the runs whose name contains this text")
    parser.add_argument("--list", action="store_true", help="print the names of the runs, and make none")
    settings = parser.parse_args()
    if not settings.small and settings.data is None:
        parser.error("--data FOLDER is needed, the folder of the real data; --small makes the runs on generated data")
    data = None if settings.small else settings.data.resolve()
    planned = runs(SMALL if settings.small else FULL, data, settings.encoder)
    chosen = [run for run in planned if settings.only in run.name]
    if settings.list:
        print("\n".join(run.name for run in chosen))
        return 0
    for file in missing(data):
        print(f"{file} is not there: the runs on it are left out", flush=True)
    if settings.encoder:
        try:
            fresh_copy(settings.encoder, settings.output_dir)
        except ValueError as error:
            parser.error(str(error))
    failed = [run.name for run in chosen if not finish(run, settings.output_dir.resolve())]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def finish(run: Run, study: Path) -> bool:
    """Make the run, or what is missing of it. Whether it is complete then."""
    folder, start = study / run.name, time.monotonic()
    if is_finished(folder):
        return True
    try:
        flags = run.flags(study)
    except (LookupError, OSError, ValueError) as error:
        print(f"{run.name}: {error}", file=sys.stderr, flush=True)
        return False
    if (folder / CONFIG_FILE).exists():  # a file of Python is named again, never taken from the folder
        place = flags.index("--algorithm_list") if "--algorithm_list" in flags else len(flags)
        flags = ["--resume", str(folder), *flags[place : place + 2]]
    else:
        flags += ["--output_dir", str(folder)]
    ended = subprocess.run([sys.executable, run.script, *flags], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    print(f"{run.name}: status {ended.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
