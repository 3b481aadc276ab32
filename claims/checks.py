"""All claims, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from claims import convergence, heterogeneity, landscape
from claims.folder import RunFolder, read_folder
from claims.result import Check, Claim, summed_up

CLAIMS: tuple[Claim, ...] = (
    landscape.CLIPPING_LOWERS_SHARPNESS,
    landscape.ADAM_BELOW_SGD,
    landscape.CLIPPED_ADAFACTOR_LOWEST,
    landscape.CLIPPED_SCANS_GO_LOWER,
    convergence.CLIPPED_TRAINS_LOWER,
    heterogeneity.GRADIENT_AND_CURVATURE,
    heterogeneity.TRANSFORMER_ABOVE_RESNET,
    heterogeneity.POST_NORM_ABOVE_PRE_NORM,
)


def check(folders: Iterable[str | Path]) -> list[Check]:
    """Every claim in these run folders together, the first paper's before the second's.

    A claim that none of them measures gets a check with `of` 0, whose note says what would measure it.

    Raises: ValueError, in one line, if a folder is not a run folder, is given twice, or has a table that does not fit.
    """
    return checks_of(read_folders(folders))


def read_folders(folders: Iterable[str | Path]) -> list[RunFolder]:
    """Raises: as `check`, but for the tables."""
    runs: list[RunFolder] = []
    for folder in folders:
        if Path(folder).resolve() in [run.path.resolve() for run in runs]:
            raise ValueError(f"{folder} is given twice; its trials would count twice")
        runs.append(read_folder(folder))
    return runs


def checks_of(runs: Sequence[RunFolder]) -> list[Check]:
    """As `check`, of folders that are read already."""
    checks = [*_of_landscapes(runs), *_of_training(runs), *_of_blocks(runs)]
    return sorted(checks, key=lambda check: [claim.name for claim in CLAIMS].index(check.name))


def _of_landscapes(runs: Sequence[RunFolder]) -> list[Check]:
    columns = [(run, landscape.columns_of(run)) for run in runs]
    checks = [
        summed_up(claim, [trial for run, of_run in columns for trial in trials_of(run, of_run)])
        for claim, trials_of in (
            (landscape.CLIPPING_LOWERS_SHARPNESS, landscape.clipping_lowers_sharpness),
            (landscape.ADAM_BELOW_SGD, landscape.adam_below_sgd),
            (landscape.CLIPPED_ADAFACTOR_LOWEST, landscape.clipped_adafactor_lowest),
        )
    ]
    scanned = [trial for run in runs for trial in landscape.clipped_scans_go_lower(run)]
    return [*checks, summed_up(landscape.CLIPPED_SCANS_GO_LOWER, scanned)]


def _of_training(runs: Sequence[RunFolder]) -> list[Check]:
    trials = {run.name: list(convergence.clipped_trains_lower(run)) for run in runs}
    notes = [note for run in runs if trials[run.name] and (note := convergence.untuned(run)) is not None]
    return [
        summed_up(convergence.CLIPPED_TRAINS_LOWER, [trial for of_run in trials.values() for trial in of_run], notes)
    ]


def _of_blocks(runs: Sequence[RunFolder]) -> list[Check]:
    measured = [one for run in runs for one in heterogeneity.unevenness_of(run)]
    together = list(heterogeneity.gradient_and_curvature_correlate(measured))
    checks = [summed_up(heterogeneity.GRADIENT_AND_CURVATURE, together)]
    for claim, pairs_of in (
        (heterogeneity.TRANSFORMER_ABOVE_RESNET, heterogeneity.transformer_above_resnet),
        (heterogeneity.POST_NORM_ABOVE_PRE_NORM, heterogeneity.post_norm_above_pre_norm),
    ):
        pairs = pairs_of(measured)
        checks.append(summed_up(claim, list(heterogeneity.compared(pairs)), heterogeneity.notes_on(pairs)))
    return checks
