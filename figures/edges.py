"""How near every row's own step comes to its edge: edge numbers, critical learning rates, and what the training
optimizer's step is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, geometric_mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.run_tables import Row, RunTables, seeds_of
from figures.style import PALETTE, Style, key, label_outside, new_figure, readable_decades, whole_numbers
from runs.tables import TEST, TRAINING, first_batch, on_batch

QUADRATIC = {"linestyle": "-", "linewidth": 1.1}
REALIZED = {"linestyle": "", "marker": "x", "color": "black", "markersize": 4.5, "markeredgewidth": 0.9, "zorder": 5}
ON_TRAINING = {"linestyle": ":", "linewidth": 1.4, "alpha": 0.75}
EDGE = {"color": "black", "linewidth": 0.9, "zorder": 1}
BEST = {"color": "black", "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}
BAND = {"alpha": 0.15, "linewidth": 0}
BEYOND = {"facecolor": "#D55E00", "alpha": 0.08, "linewidth": 0}
AVERAGED = ("iteration", "sharpness", "learning_rate", "edge_quadratic", "edge_realized", "critical_lr")
ITERATION = "iteration (one update each)"


def edge_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Edge numbers over training; learning rates beside the critical ones; the training row beside 2 / lr."""
    rows = run.table("sharpness", "iteration algorithm sharpness")
    rows = [{"measured_on": TEST, **row} for row in rows if "edge_quadratic" in row]  # earlier versions lack both
    for stem, draw in (
        ("edge_numbers", _edge_numbers),
        ("critical_learning_rates", _critical_learning_rates),
        ("training_step", _training_step),
    ):
        figure = draw(run, rows)
        if figure is not None:
            yield stem, figure


def _over_seeds(rows: Sequence[Row], averaged: Sequence[str] = AVERAGED) -> list[Row]:
    """Of several seeds, one row per epoch, batch and algorithm or matrix: of each number the mean over the seeds of
    their means, in `band` the lowest and the highest seed's quadratic edge. Rows of one seed stay as they are."""
    if len(seeds_of(rows)) < 2:
        return list(rows)
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        place = tuple((name, row[name]) for name in ("epoch", "algorithm", "matrix", "measured_on") if name in row)
        cells.setdefault(place, []).append(row)
    pooled_rows = []
    for place, cell in sorted(cells.items()):
        by_seed = [[row for row in cell if row["seed"] == seed] for seed in seeds_of(cell)]
        means = [{name: _mean(row[name] for row in of_one) for name in averaged} for of_one in by_seed]
        mean = {name: _mean(of_one[name] for of_one in means) for name in averaged}
        edges = [edge for of_one in means if (edge := of_one.get("edge_quadratic")) is not None]
        pooled_rows.append({**dict(place), **mean, "band": (min(edges), max(edges)) if edges else None})
    return pooled_rows


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _by_label(run: RunTables, rows: Iterable[Row]) -> dict[str, list[Row]]:
    rows_of = {label: [row for row in rows if row["algorithm"] == label] for label in run.styles}
    return {label: of_one for label, of_one in rows_of.items() if of_one}


# ---- edge numbers over training ------------------------------------------------------------------------------


def _edge_numbers(run: RunTables, rows: Sequence[Row]) -> Figure | None:
    """Both edge numbers of every row over training, one panel per row, with lines at 1 and 1/2."""
    seeds, rows = len(seeds_of(rows)), _over_seeds(rows)
    labels = _by_label(run, [row for row in rows if row["edge_quadratic"] is not None])
    if not labels:
        return None
    main = first_batch(rows)
    both = any(row["measured_on"] != main for of_one in labels.values() for row in of_one)
    handles = [
        key(f"quadratic model, {main} batch", color="0.35", marker="o", markersize=4, **QUADRATIC),
        key(f"from the loss itself, {main} batch", **REALIZED),
        *([key("quadratic model, training batch", color="0.35", **ON_TRAINING)] if both else []),
        key("1: the edge", **EDGE),
        key("1/2: the best step", **BEST),
        Patch(label="beyond 1 the loss rises", **BEYOND),
        *([Patch(label="lowest to highest seed", facecolor="0.35", **BAND)] if seeds > 1 else []),
    ]
    columns = min(3, len(labels))
    panels = math.ceil(len(labels) / columns)
    figure, axes = new_figure(panels, columns, handles, max(3.0 * columns, 6), height=1.75)
    scale = _scale([v for of_one in labels.values() for row in of_one for v in _edges(row) if v is not None])
    for ax, (label, of_one) in zip(axes, labels.items(), strict=False):
        _edge_panel(ax, run, label, of_one, main)
        ax.set_yscale(**scale)
        ax.xaxis.set_major_locator(whole_numbers())
    low, high = _limits([ax.get_ylim() for ax in axes[: len(labels)]])
    for i, ax in enumerate(axes):
        if i >= len(labels):
            ax.set_axis_off()
            continue
        ax.set_ylim(low, high)
        ax.axhspan(1, high, **BEYOND)
        ax.tick_params(labelbottom=i + columns >= len(labels))
        if scale["value"] == "log":
            readable_decades(ax.yaxis)
    label_outside(axes[: len(labels)], columns, ITERATION, "")
    figure.supylabel("edge number of the row's own step $s = \\eta v$", fontsize=9)
    over = f" (means over {seeds} seeds and the points of an epoch)" if seeds > 1 else ""
    figure.suptitle(f"{run.title}: how near each row's own step comes to its edge{over}")
    return figure


def _edges(row: Row) -> tuple[float | None, float | None]:
    return row["edge_quadratic"], row["edge_realized"]


def _edge_panel(ax: Axes, run: RunTables, label: str, rows: Sequence[Row], main: str) -> None:
    style = run.styles[label]
    first, other = on_batch(rows, main), [row for row in rows if row["measured_on"] != main]
    for of_batch, look in ((first, QUADRATIC | style.points()), (other, ON_TRAINING)):
        if of_batch:
            x, y = [row["iteration"] for row in of_batch], [row["edge_quadratic"] for row in of_batch]
            ax.plot(x, y, color=style.color, **look)
    if bands := [(row["iteration"], *row["band"]) for row in first if row.get("band")]:
        ax.fill_between(*zip(*bands, strict=True), facecolor=style.color, **BAND)
    realized = [row for row in first if row["edge_realized"] is not None]
    ax.plot([row["iteration"] for row in realized], [row["edge_realized"] for row in realized], **REALIZED)
    ax.axhline(1, **EDGE)
    ax.axhline(0.5, **BEST)
    by = run.settings.get("train_optimizer")
    ax.set_title(f"{label} ({by})" if label == TRAINING and by else label)


def _scale(values: Sequence[float]) -> dict:
    """Logarithmic; where a number is not positive, linear from -1/10 to 1/10 and logarithmic beyond."""
    return {"value": "log"} if min(values) > 0 else {"value": "symlog", "linthresh": 0.1}


def _limits(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in limits), max(max(high for _, high in limits), 2.0)


# ---- learning rates beside the critical ones -----------------------------------------------------------------


def _critical_learning_rates(run: RunTables, rows: Sequence[Row]) -> Figure | None:
    """Every row's learning rate against the rate that brings its quadratic model back to its start, on equal scales."""
    rows = [row for row in on_batch(rows, first_batch(rows)) if row["learning_rate"] and row["critical_lr"]]
    labels = _by_label(run, rows)
    if not labels:
        return None
    handles = [key(label, **_point(run.styles[label])) for label in labels]
    handles += [
        key("critical rate: edge number 1", **EDGE),
        key("best rate: edge number 1/2", **BEST),
    ]
    rates, critical = ([row[column] for row in rows] for column in ("learning_rate", "critical_lr"))
    low, right, top = min(rates + critical) / 2.5, max(critical) * 2.5, max(rates) * 4
    shape = math.log(top / low) / math.log(right / low)
    figure, (ax,) = new_figure(1, 1, handles, width=6.4, height=min(max(5.4 * shape, 1.8), 5.4) + 0.3)
    for label, of_one in labels.items():
        x, y = [row["critical_lr"] for row in of_one], [row["learning_rate"] for row in of_one]
        ax.plot(x, y, alpha=0.45, zorder=3, **_point(run.styles[label], 2.6))
        ax.plot(geometric_mean(x), geometric_mean(y), zorder=4, **_point(run.styles[label], 8))
    far = max(right, top)
    ax.plot([low, far], [low, far], **EDGE)
    ax.plot([low, far], [low / 2, far / 2], **BEST)
    ax.fill_between([low, far], [low, far], [far, far], zorder=0, **BEYOND)
    ax.set(xscale="log", yscale="log", xlim=(low, right), ylim=(low, top), aspect="equal")
    for text, place, align in (("stepped too far", (0.03, 0.95), "left"), ("stepped too short", (0.97, 0.05), "right")):
        ax.text(*place, text, transform=ax.transAxes, ha=align, va="center", color="0.3", fontsize=9)
    ax.set_xlabel("critical learning rate $\\eta_c = 2\\,(-g^T v) \\,/\\, v^T H v$")
    ax.set_ylabel("learning rate $\\eta$ of the row")
    ax.set_title(f"{run.title}: small: one point each, large: geometric mean")
    return figure


def _point(style: Style, size: float = 4.5) -> dict:
    """A marker alone. Without a line, half a filling tells the second clipped row of an optimizer from the first."""
    half = {"fillstyle": "left", "markerfacecolor": style.color, "markerfacecoloralt": "white"}
    return {"linestyle": "", "color": style.color} | style.points(size) | (half if style.variant > 1 else {})


# ---- the training row ----------------------------------------------------------------------------------------

ALONG = {"color": PALETTE[0], "marker": "o", "markersize": 4.5}
ALONG_TRAINING = {"color": PALETTE[1], "marker": "^", "markersize": 4.5, "linestyle": ":"}
LARGEST = {"color": PALETTE[2], "marker": "D", "markersize": 5, "linestyle": "-."}
TWO_OVER_LR = {"color": "black", "linewidth": 1.1, "linestyle": (0, (4, 2))}
THRESHOLD = {"color": "0.45", "linewidth": 1.8}


def _training_step(run: RunTables, rows: Sequence[Row]) -> Figure | None:
    """The curvature along the training optimizer's step beside largest eigenvalues and thresholds.

    Left per squared length of the step, right per unit of decrease, v'Hv / (-g'v). The latter is 2 / lr where the
    quadratic model is back at its start, whatever the optimizer. Without a preconditioner H's eigenvalue has both
    units."""
    own = [row for row in _over_seeds(rows) if row["algorithm"] == TRAINING and row["sharpness"] is not None]
    if not own:
        return None
    largest = run.table("eigenvalues", "iteration matrix eigenvalue stability_threshold")
    largest = _over_seeds(largest, ("iteration", "eigenvalue", "stability_threshold"))
    of_h, of_ph = ([row for row in largest if row["matrix"] == matrix] for matrix in ("H", "P^-1 H"))
    rates = {row["iteration"]: 2 / row["learning_rate"] for row in own if row["learning_rate"]}
    thresholds = {
        "2 / learning rate": (rates, TWO_OVER_LR),
        "largest stable eigenvalue, momentum included": (_column(largest, "stability_threshold"), THRESHOLD),
    }
    left, right = {}, {}
    for batch, look in ((TEST, ALONG), (TRAINING, ALONG_TRAINING)):
        on = on_batch(own, batch)
        left[f"along the step, {batch} batch"] = _column(on, "sharpness"), look
        per_decrease = {row["iteration"]: 2 / row["critical_lr"] for row in on if row["critical_lr"]}
        right[f"along the step, {batch} batch"] = per_decrease, look
    left["largest eigenvalue, $H$ left, $P^{-1}H$ right" if of_ph else "largest eigenvalue of $H$"] = (
        _column(of_h, "eigenvalue"), LARGEST)  # fmt: skip
    right["largest"] = _column(of_ph or of_h, "eigenvalue"), LARGEST
    right |= thresholds
    if largest and not of_ph or run.settings.get("train_optimizer") == "sgd":
        left |= thresholds
    return _curvature_panels(run, left, right, thresholds)


def _column(rows: Iterable[Row], column: str) -> dict[int, float]:
    return {row["iteration"]: row[column] for row in rows if row[column] is not None}


Series = Mapping[str, tuple[Mapping[int, float], Mapping]]  # name -> (iteration -> value, look)


def _curvature_panels(run: RunTables, left: Series, right: Series, thresholds: Series) -> Figure:
    handles = [key(name, **look) for name, (values, look) in {**left, **thresholds}.items() if values]
    figure, axes = new_figure(1, 2, handles, width=7.6, height=3.0)
    ylabels = ("per squared length, $v^T H v / \\|v\\|^2$", "per decrease, $v^T H v \\,/\\, (-g^T v)$")
    for ax, series, ylabel in zip(axes, (left, right), ylabels, strict=True):
        for values, look in series.values():
            if values:
                ax.plot(list(values), list(values.values()), **look)
        drawn = [value for values, _ in series.values() for value in values.values()]
        ax.set(xlabel=ITERATION, ylabel=f"curvature {ylabel}")
        if drawn and min(drawn) > 0:
            ax.set_yscale("log")
            readable_decades(ax.yaxis)
        elif drawn:
            ax.set_yscale("symlog", linthresh=_smallest(drawn))
        ax.xaxis.set_major_locator(whole_numbers())
    figure.suptitle(f"{run.title}: curvature along the step that the run takes")
    return figure


def _smallest(values: Sequence[float]) -> float:
    """A power of ten that no value but 0 is below."""
    return 10.0 ** math.floor(math.log10(min((abs(value) for value in values if value), default=1.0)))
