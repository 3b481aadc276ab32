"""The rows of blocks.csv and heterogeneity.csv, as mappings from column to value; the script writes them down."""

import math
import statistics
from collections.abc import Sequence

from hessian.blocks import BlockCurvature
from hessian.heterogeneity import heterogeneity_by_group, resolved
from hessian.tensor_names import kind_of, layer_of

BLOCKS = [
    "batch", "block", "kind", "layer", "numel", "gradient_norm", "eigenvalue", "residual", "converged",
    "magnitude_eigenvalue", "magnitude_residual", "magnitude_converged", "products",
]  # fmt: skip
HETEROGENEITY = [
    "batch", "grouping", "group", "blocks", "parameters", "gini_gradient", "gini_gradient_rms", "gini_eigenvalue",
    "complexity_gradient", "complexity_sign", "complexity_ratio", "spearman", "spearman_low", "spearman_high",
    "log_log_pearson", "log_log_low", "log_log_high", "log_log_blocks",
]  # fmt: skip
MEASURED = BLOCKS[BLOCKS.index("numel") :]  # a BlockCurvature's fields of the same names
AVERAGED = ("gradient_norm", "eigenvalue", "residual", "magnitude_eigenvalue", "magnitude_residual")
MEAN = "mean"  # in the column batch: the average over the batches


def block_row(block: BlockCurvature, batch: int) -> dict:
    """One tensor on one batch, as a row of blocks.csv."""
    measured = {column: getattr(block, column) for column in MEASURED}
    return dict(batch=batch, block=block.name, kind=kind_of(block.name), layer=layer_of(block.name)) | measured


def mean_rows(rows: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """Per tensor, averaged over the batches: one row of blocks.csv each, in the order of `names`.

    The mean eigenvalue is not an eigenvalue of the mean Hessian. The mean residual bounds the mean's error.
    `converged` if every batch is; `products` is their sum. A number that one batch lacks is None.
    """
    by_name: dict[str, list[dict]] = {name: [] for name in names}
    for row in rows:
        by_name[row["block"]].append(row)
    return [_mean_row(rows_of_block) for rows_of_block in by_name.values()]


def _mean_row(rows: list[dict]) -> dict:
    mean = rows[0] | dict(batch=MEAN, products=sum(row["products"] for row in rows))
    for column in AVERAGED:
        values = [row[column] for row in rows]
        mean[column] = None if None in values else statistics.fmean(values)
    for column in ("converged", "magnitude_converged"):
        mean[column] = all(row[column] for row in rows)
    return mean


def heterogeneity_rows(rows: Sequence[dict], batch: int | str, seed: int) -> list[dict]:
    """The measures of one batch's blocks (or of their means), as rows of heterogeneity.csv: of all blocks together,
    by kind and by layer. `seed`: of the bootstrap. An eigenvalue that its residual does not tell from 0 counts as 0."""
    eigenvalues = [
        math.nan if row["eigenvalue"] is None else resolved(row["eigenvalue"], row["residual"]) for row in rows
    ]
    measures = heterogeneity_by_group(
        [row["block"] for row in rows], [row["gradient_norm"] for row in rows], eigenvalues,
        [row["numel"] for row in rows], seed,
    )  # fmt: skip
    return [dict(batch=batch) | row for row in measures]
