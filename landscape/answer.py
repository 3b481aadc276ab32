"""What a landscape run prints at its end."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from landscape.seed_means import over_seeds, pooled
from runs.tables import TEST, TRAINING, first_batch, format_table, on_batch, read_table


def answer(folder: Path, labels: Iterable[str], reference: str | None, trained_by: str = "") -> str:
    """What a run prints at its end: the mean ratio of every algorithm in every test epoch, the paper's tables 3 to 6;
    without a reference, the mean directional sharpness. `trained_by` names the optimizer of the row `training`."""
    points = read_table(folder / "sharpness.csv")
    if not points:
        return "The loss was scanned; no sharpness was asked for."
    of_reference = "" if reference is None else f" / |directional sharpness of {reference}|"
    title = f"Mean over the measured points of an epoch of directional sharpness{of_reference}"
    where = "" if first_batch(points) == TEST else ", on the training batches"
    seeds = len({row.get("seed") for row in points})
    over = f"; mean over {seeds} seeds with its 95 % interval" if seeds > 1 else ""
    parts = [f"{title}{where}{over}\n{ratio_table(folder, labels, reference, trained_by)}"]
    if rows := read_table(folder / "ratios.csv"):
        parts.append(last_epoch(rows, reference, trained_by))
    return "\n\n".join(parts)


def shown_name(label: str, trained_by: str) -> str:
    return f"{label} ({trained_by})" if label == TRAINING and trained_by else label


def last_epoch(rows: list[dict], reference: str | None, trained_by: str = "") -> str:
    """The ratio, and what it leaves open: how steep the direction is, how far the loss could fall along it, and how
    near the row's own step is to its edge."""
    epoch, seeds = max(row["epoch"] for row in rows), len({row.get("seed") for row in rows})
    rows = pooled(row for row in rows if row["epoch"] == epoch)
    batches = [first_batch(rows)]
    batches += [TRAINING] if batches[0] == TEST and on_batch(rows, TRAINING) else []
    shown = [
        {
            "algorithm": shown_name(row["algorithm"], trained_by),
            "batch": batch,
            "ratio": row["mean_ratio"],
            "std": row["std"],
            "slope": row["mean_slope"],
            "predicted decrease": row["mean_predicted_decrease"],
            "edge": row["mean_edge_quadratic"],
            "realized edge": row["mean_edge_realized"],
            "n": row["count"],
        }
        for batch in batches
        for row in on_batch(rows, batch)
    ]
    columns = [column for column in shown[0] if column != "batch" or len(batches) > 1]
    title = f"Epoch {epoch}: the ratio beside slope, the quadratic model's decrease and the edge of the row's own step"
    title += f"; means over {seeds} seeds, std over them" if seeds > 1 else ""
    return "\n".join([title, format_table(shown, columns), verdict(epoch, rows, reference, trained_by)])


def verdict(epoch: int, rows: list[dict], reference: str | None, trained_by: str = "") -> str:
    """One sentence on the last epoch, and one on the step that the run itself takes."""
    first = [row for row in on_batch(rows, first_batch(rows)) if row["algorithm"] != TRAINING]
    flattest = min((row for row in first if row["mean_ratio"] is not None), key=lambda row: row["mean_ratio"])
    said = f"{flattest['algorithm']} is flattest ({flattest['mean_ratio']:.2g} of {reference})"
    falling = [row for row in first if row["mean_predicted_decrease"] is not None]
    if falling:
        best = max(falling, key=lambda row: row["mean_predicted_decrease"])
        said += f", {best['algorithm']} could fall furthest ({best['mean_predicted_decrease']:.2g})"
    stepped = [row for row in first if row["mean_edge_realized"] is not None]
    beyond = [row["algorithm"] for row in stepped if row["mean_edge_realized"] > 1]
    if stepped:
        whose = f" ({', '.join(beyond)})" if beyond else ""
        said += f"; {len(beyond)} of {len(stepped)} rows step beyond their edge{whose}"
    own = {
        batch: row["mean_edge_realized"]
        for batch in (TEST, TRAINING)
        for row in on_batch(rows, batch)
        if row["algorithm"] == TRAINING and row["mean_edge_realized"] is not None
    }
    edges = ", ".join(f"{edge:.2g} on the {batch} batch" for batch, edge in own.items())
    by = f" ({trained_by})" if trained_by else ""
    return f"In epoch {epoch}, {said}." + (
        f" The step that the run takes{by} has a realized edge of {edges}." * bool(own)
    )


def ratio_table(folder: Path, labels: Iterable[str], reference: str | None, trained_by: str = "") -> str:
    """A row per algorithm, a column per test epoch; "~" marks what rounding blurs."""
    points = read_table(folder / "sharpness.csv")
    points = on_batch(points, first_batch(points))
    blurred = blurred_cells(points)
    column = "sharpness" if reference is None else "ratio"
    values = defaultdict(lambda: defaultdict(list))
    for row in points:
        if row[column] is not None:
            values[row["algorithm"], row["epoch"]][row.get("seed")].append(row[column])
    cells = {}
    for cell, by_seed in values.items():
        means = [statistics.fmean(numbers) for numbers in by_seed.values()]
        if len(means) == 1:
            cells[cell] = f"~{means[0]:.4g}" if cell in blurred else means[0]
        else:
            mean, low, high, _ = over_seeds(column, means)
            cells[cell] = f"{'~' * (cell in blurred)}{mean:.3g} ({low:.2g} to {high:.2g})"
    epochs = sorted({row["epoch"] for row in points})
    labels = [*labels, *([TRAINING] if any(row["algorithm"] == TRAINING for row in points) else [])]
    rows = [
        {"algorithm": shown_name(label, trained_by), **{f"epoch {e}": cells.get((label, e)) for e in epochs}}
        for label in labels
    ]
    table = format_table(rows, ["algorithm", *(f"epoch {e}" for e in epochs)])
    notes = []
    if TRAINING in labels:
        notes.append(f"{shown_name(TRAINING, trained_by)}: the step that the run itself takes")
    if blurred:
        notes.append("~: rounding errors may exceed 10 %; --dtype float64 avoids them")
    below = sorted({row["epoch"] for row in points if row["algorithm"] == reference and (row["sharpness"] or 0) < 0})
    if below:
        where = ", ".join(map(str, below))
        notes.append(f"{reference} itself has a negative sharpness in epoch {where}: ratios there are to its size")
    return "\n".join([table, *notes])


def blurred_cells(rows: list[dict]) -> set[tuple[str, int]]:
    """(algorithm, epoch) where the bound on the rounding errors of sharpness is more than 10 % of it."""
    sizes = defaultdict(float)
    for row in rows:
        if row["sharpness_error"] is not None:
            sizes[row["algorithm"], row["epoch"]] += row["sharpness_error"] - 0.1 * abs(row["sharpness"])
    return {cell for cell, excess in sizes.items() if excess > 0}
