"""Scans from few evaluations beside full ones, at the saved points of a run.

    python run_landscape.py --save_points --output_dir output/points
    python -m benchmarks.sparse_scan output/points

Both kinds are made again from the saved points (--from_points). There is one row per folder, with the evaluations per
downhill scan. It also has the largest difference of the losses over each scan, relative to the depth of the full one.
The columns say the median, the 90th percentile and the maximum over scans. `other_distances` counts scans that ended
elsewhere; they are compared where both have points. A GPU has no rows of its own: the numbers follow from the curves,
which are the same there. Prints one table and writes it to results/<machine>/sparse_scan.csv."""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import run_landscape
from benchmarks._machine import add_flags, start
from runs.tables import read_table


def scans_of(folder: Path, kind: str, target: Path, flags: list[str]) -> dict[tuple, list[dict]]:
    """(epoch, batch, algorithm) -> the rows of its scan, made from the points of `folder`."""
    run_landscape.main(["--from_points", str(folder), "--scan", kind, "--output_dir", str(target), *flags])
    scans = defaultdict(list)
    for row in read_table(target / "scan.csv"):
        scans[row["epoch"], row["batch"], row["algorithm"]].append(row)
    return scans


def compare(full: dict[tuple, list[dict]], few: dict[tuple, list[dict]]) -> dict[str, float]:
    """The numbers of one folder."""
    counts, counts_full, errors, others = [], [], [], 0
    for at, rows in full.items():
        losses = [row["loss"] for row in rows]
        depth = losses[0] - min(losses)
        loss_at = {row["distance"]: row["loss"] for row in few[at]}
        others += list(loss_at) != [row["distance"] for row in rows]
        if depth > 0:
            difference = max(abs(row["loss"] - loss_at[row["distance"]]) for row in rows if row["distance"] in loss_at)
            errors.append(100 * difference / depth)
            counts.append(sum(row["evaluated"] for row in few[at]) - 1)  # the start is evaluated once for all
            counts_full.append(len(rows) - 1)
    return dict(
        scans=len(errors),
        evaluations=statistics.fmean(counts),
        most=max(counts),
        evaluations_full=statistics.fmean(counts_full),
        error_median_percent=statistics.median(errors),
        error_p90_percent=sorted(errors)[int(0.9 * (len(errors) - 1))],
        error_max_percent=max(errors),
        other_distances=others,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="runs with --save_points")
    add_flags(parser, rounds=None, device=False)
    parser.add_argument("--flags", default="", help="more flags of run_landscape.py, such as --test_batch_size 256")
    args = parser.parse_args(arguments)
    machine = start(args)
    rows = []
    for folder in args.folders:
        with tempfile.TemporaryDirectory() as place:
            kinds = [scans_of(folder, kind, Path(place, kind), args.flags.split()) for kind in ("full", "few")]
        rows.append(dict(run=folder.name, **compare(*kinds)))
    machine.report("sparse_scan", rows, "saved points of " + ", ".join(folder.name for folder in args.folders))


if __name__ == "__main__":
    main()
