"""All claims, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from claims import landscape
from claims.folder import RunFolder, read_folder
from claims.result import Check, summed_up


def check(folders: Sequence[str | Path]) -> list[Check]:
    """Every claim in these run folders together, the first paper's before the second's.

    A claim that none of them measures gets a check with `of` 0, whose note says what would measure it.

    Raises: ValueError, in one line, if a folder is not a run folder or one of its tables does not fit.
    """
    return checks_of([read_folder(folder) for folder in folders])


def checks_of(runs: Sequence[RunFolder]) -> list[Check]:
    """As `check`, of folders that are read already."""
    columns = {run.name: landscape.columns_of(run) for run in runs}
    found = [
        summed_up(claim, [trial for run in runs for trial in trials_of(run, columns[run.name])])
        for claim, trials_of in (
            (landscape.CLIPPING_LOWERS_SHARPNESS, landscape.clipping_lowers_sharpness),
            (landscape.ADAM_BELOW_SGD, landscape.adam_below_sgd),
            (landscape.CLIPPED_ADAFACTOR_LOWEST, landscape.clipped_adafactor_lowest),
        )
    ]
    scanned = [trial for run in runs for trial in landscape.clipped_scans_go_lower(run)]
    return [*found, summed_up(landscape.CLIPPED_SCANS_GO_LOWER, scanned)]
