"""Run folders for the tests of figures: tables written by hand, believable whole runs, and what was drawn of them."""

import math
import random
from pathlib import Path

import matplotlib

from figures.run_tables import read_run
from figures.style import RC
from runs.config import write_config
from runs.folder import create_run_folder
from runs.tables import Table

COLUMNS = {
    "training": "epoch iteration loss",
    "sharpness": "epoch batch iteration algorithm measured_on loss slope sharpness learning_rate edge_quadratic "
    "edge_realized critical_lr",
    "ratios": "epoch algorithm mean_ratio std count",
    "scan": "epoch batch iteration algorithm distance loss",
    "histogram": "epoch batch iteration algorithm bin_low bin_high count",
    "decomposition": "epoch batch iteration algorithm measured_on grouping group slope within cross",
    "losses": "algorithm seed epoch iteration examples loss lr seconds",
    "summary": "algorithm lr final_loss_mean final_loss_std best_loss steps_to_sgd_loss diverged",
    "tuned_learning_rates": "algorithm lr final_loss diverged chosen",
    "scores": "algorithm seed epoch split metric value",
    "eigenvalues": "epoch batch iteration measured_on matrix eigenvalue learning_rate stability_threshold",
    "blocks": "batch block kind layer numel gradient_norm eigenvalue residual converged products",
}


# ---- writing -------------------------------------------------------------------------------------------------


def config_row(label, name=None, **options):
    """A row of config.json: of a label such as "adam, coordinate_clip=0.5" the name and options, unless given."""
    first, *rest = label.split(", ")
    texts = dict(part.split("=") for part in rest)
    return {"label": label, "name": name or first, "options": {o: float(v) for o, v in texts.items()} | options}


def write_run(folder, labels, settings=None, **tables):
    """A run folder with rows of these labels and these tables, each a list of dicts; cells that are left out are empty.

    `epoch`, `batch` and `iteration` default to the point 2, 6, 16, and `measured_on` to the test batch.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = [config_row(label) if isinstance(label, str) else label for label in labels]
    write_config(folder, {"task": "toy"} | (settings or {}), rows)
    for name, cells in tables.items():
        write_table(folder, name, cells)
    return folder


def write_table(folder, name, rows):
    columns = COLUMNS[name].split()
    table = Table(Path(folder) / f"{name}.csv", columns)
    for row in rows:
        point = {
            column: value for column, value in (("epoch", 2), ("batch", 6), ("iteration", 16)) if column in columns
        }
        point |= {"measured_on": "test"} if "measured_on" in columns else {}
        table.append(dict.fromkeys(columns) | point | row)
    table.save()


# ---- drawn ---------------------------------------------------------------------------------------------------


def figures_of(figures, folder):
    """File name -> figure of this kind."""
    with matplotlib.rc_context(RC):
        return dict(figures(read_run(folder)))


def one_figure(figures, folder):
    """The only figure of this kind."""
    (figure,) = figures_of(figures, folder).values()
    return figure


def points(line):
    """[(x, y), ...] of a line."""
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def labels_of(figure):
    """The legend's texts."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def look_of(line):
    """(color, marker, filled or hollow) of a line or a legend's entry."""
    filled = line.get_markerfacecolor() == line.get_color()
    assert filled or line.get_markerfacecolor() == "white"
    return line.get_color(), line.get_marker(), "filled" if filled else "hollow"


def legend_looks(figure):
    """Label -> (color, marker, filled or hollow) in the legend."""
    return dict(zip(labels_of(figure), map(look_of, figure.legends[0].legend_handles), strict=True))


def assert_legend_is_clear(figure, entries):
    """The legend names everything, covers no axes and stays on the page."""
    with matplotlib.rc_context(RC):
        figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert len(labels_of(figure)) >= entries
    assert not any(legend.overlaps(ax.get_tightbbox()) for ax in figure.axes)
    assert legend.x0 >= 0 and legend.y0 >= 0 and legend.x1 <= figure.bbox.width


# ---- believable runs -----------------------------------------------------------------------------------------

TWELVE = [
    "sgd",
    "sgd, coordinate_clip=0.1",
    "normalized_sgd",
    "normalized_sgd, coordinate_clip=0.1",
    "sign_sgd",
    "adam",
    "adam, coordinate_clip=0.5",
    "adam, clip_update=0.5",
    "adafactor",
    "adafactor, coordinate_clip=0.5",
    "lion",
    "lion, clip_update=0.5",
]
# Of each: sharpness relative to SGD's, best distance along the unit direction (None: uphill), log10 of the step.
RATIOS = (1.0, 0.4, 0.2, 0.07, -0.02, 0.04, 0.01, 0.02, 1e-5, 6e-6, 0.015, 0.008)
BEST = (0.03, 0.05, 0.1, 0.2, None, 0.6, 1.5, 1.0, 60.0, 90.0, 1.2, 1.8)
SIZES = (-5, -5.5, -1, -1.2, 0, -0.5, -0.9, -0.7, -2, -2.4, 0, -3)
# Of each: learning rate (None: relative step), loss lost per update; and the seeds that diverge, and when.
RATES = (1e-3, 5e-3, 5e-4, 6e-4, 2e-3, 2e-3, 3e-3, 3e-3, None, 3e-2, 2e-3, 2e-3)
SPEEDS = (0.002, 0.006, 0.004, 0.007, 0.008, 0.02, 0.024, 0.018, 0.015, 0.012, 0.016, 0.021)
ENDS = {"sign_sgd": {0: 21, 1: 25, 2: 34}, "adafactor, coordinate_clip=0.5": {1: 90}}


def believable_landscape(folder, epochs=(2, 5, 10), seed=0, rows=12):
    """A run folder with every table, as a measured run of the first rows would leave it."""
    draw = random.Random(seed)
    create_run_folder(folder)
    tables = {name: [] for name in ("training", "sharpness", "scan", "histogram", "ratios")}
    for i in range(10 * max(epochs)):
        loss = 2 + 4 * math.exp(-i / 30) + draw.gauss(0, 0.08)
        tables["training"].append(dict(epoch=1 + i // 10, iteration=1 + i, loss=loss))
    for epoch in epochs:
        for label, ratio, best, size in list(zip(TWELVE, RATIOS, BEST, SIZES, strict=True))[:rows]:
            row, start = dict(epoch=epoch, algorithm=label), 2 + 4 * math.exp(-epoch / 3)
            bend = 40.0 * ratio * draw.uniform(0.7, 1.4)
            slope = 0.3 if best is None else -bend * best
            tables["sharpness"].append(row | dict(loss=start, slope=slope, sharpness=bend))
            for i in range(21):
                s = i * (0.02 if best is None else best / 8)
                loss = start + slope * s + bend * s**2 / 2 + (0 if best is None else 0.12 * bend * s**3 / best)
                tables["scan"].append(row | dict(distance=s, loss=loss))
                if loss > start:
                    break
            mean = ratio * draw.uniform(0.5, 2) if label != "sgd" else 1.0
            std = 0.0 if label == "sgd" else abs(mean) * draw.uniform(0.2, 1.3)
            tables["ratios"].append(row | dict(mean_ratio=mean, std=std, count=5))
            edges = [0.0] + [10 ** (-15 + 16 * k / 30) for k in range(31)]
            for low, high in zip(edges, edges[1:], strict=False):
                middle = math.log10(low * high) / 2 if low else -15
                share = math.exp(-((middle - size) ** 2) / 3) + 0.15 * (low == 0)
                if size == 0:  # a sign has one size
                    share = abs(middle) < 0.27
                tables["histogram"].append(row | dict(bin_low=low, bin_high=high, count=int(60000 * share)))
    return write_run(folder, TWELVE[:rows], {"task": "machine_translation", "train_optimizer": "adam"}, **tables)


def believable_convergence(folder, epochs=20, seeds=(0, 1, 2), rows=12):
    """A run folder with every table, as a tuned classification run of 10 updates per epoch would leave it."""
    create_run_folder(folder)
    tables = {name: [] for name in ("losses", "summary", "tuned_learning_rates", "scores")}
    for label, lr, speed in list(zip(TWELVE, RATES, SPEEDS, strict=True))[:rows]:
        last, ends = [], ENDS.get(label, {})
        for seed in seeds:
            draw, noise = random.Random(f"{label} {seed}"), random.Random(seed)  # batches are hard for all alike
            speed_here, iterations = speed * draw.uniform(0.85, 1.15), ends.get(seed, 10 * epochs)
            for i in range(iterations):
                smooth = 0.3 + 5.2 * (1 + i) ** -0.1 * math.exp(-speed_here * i)
                loss = smooth + noise.gauss(0, 0.06) + (math.exp(i - iterations + 6) if seed in ends else 0)
                at = dict(algorithm=label, seed=seed, epoch=1 + i // 10)
                tables["losses"].append(at | dict(iteration=1 + i, examples=4, loss=loss))
                for split, gap in (("evaluation", 0.0), ("test", 0.04)) if i % 10 == 9 else ():
                    value = 0.5 + 0.06 * (5.6 - smooth) - gap + draw.gauss(0, 0.01)
                    tables["scores"].append(at | dict(split=split, metric="accuracy", value=value))
            if seed not in ends:
                last.append(loss)
        mean = sum(last) / len(last) if last else None
        diverged = sum(seed in ends for seed in seeds)
        tables["summary"].append(dict(algorithm=label, final_loss_mean=mean, diverged=diverged))
        for k in range(-3, 4) if lr else ():
            final = None if k > 2 else 0.3 + 3 * math.exp(-60 * speed) * (1.3 + k * k * (0.5 if k < 0 else 1.4))
            trial = dict(algorithm=label, lr=lr * 10 ** (k / 2), final_loss=final)
            tables["tuned_learning_rates"].append(trial | dict(diverged=int(final is None), chosen=int(k == 0)))
    return write_run(folder, TWELVE[:rows], {"task": "glue/rte"}, **tables)
