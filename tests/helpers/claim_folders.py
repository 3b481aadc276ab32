"""Small run folders, written by hand, in which every claim of both papers holds; and edits of their tables."""

import csv
from pathlib import Path

from claims.paper import paper_tables
from runs.tables import read_table
from tests.helpers.run_folders import write_run

SEEDS = (0, 1, 2)
EPOCHS = (2, 5)
# The paper's seven rows: label, ratio to SGD's sharpness, lowest loss along the step, final loss. All start at 5.
ROWS = {
    "sgd": (1.0, 4.0, 3.0),
    "sgd, coordinate_clip=0.1": (0.4, 3.9, 2.9),
    "adam": (0.05, 3.5, 2.0),
    "adafactor": (1e-3, 3.6, 2.2),
    "adafactor, coordinate_clip=0.1": (5e-4, 3.4, 2.1),
    "normalized_sgd": (0.2, 3.8, 2.8),
    "normalized_sgd, coordinate_clip=0.1": (0.1, 3.7, 2.7),
}
# Model: how the names of its tensors begin, a kind of tensor, Gini coefficient of its gradient norms.
MODELS = {
    "post_norm": ("roberta.encoder", "attention", 0.8),
    "pre_norm": ("roberta_prelayernorm.encoder", "attention", 0.7),
    "resnet": ("resnet.encoder", "convolution", 0.5),
}


def write_rows(folder, name, rows):
    """A table with the columns of its first row."""
    with (Path(folder) / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def edit(folder, name, change, **where):
    """Change the rows of a table whose cells are as in `where`; how many there are."""
    rows = read_table(Path(folder) / f"{name}.csv")
    matching = [row for row in rows if all(row[column] == value for column, value in where.items())]
    for row in matching:
        row.update(change)
    write_rows(folder, name, rows)
    return len(matching)


def landscape(folder, seeds=SEEDS, epochs=EPOCHS, settings=None, ratios=None):
    """`ratios`: (label, epoch) -> ratio, instead of those of ROWS."""
    settings = dict(task="machine_translation", dataset="pairs", model="small", train_optimizer="sgd") | (
        settings or {}
    )
    sharpness, scan = [], []
    for seed in seeds:
        for epoch in epochs:
            for label, (ratio, lowest, _) in ROWS.items():
                at = dict(seed=seed, epoch=epoch, batch=3, iteration=9, algorithm=label, measured_on="test")
                ratio = ratio if ratios is None else ratios[label, epoch]
                sharpness.append(at | dict(sharpness=10 * ratio, ratio=ratio, sharpness_error=1e-9 * ratio))
                losses = (5.0, lowest, 5.5)
                scan += [at | dict(distance=0.1 * i, loss=loss, evaluated=1) for i, loss in enumerate(losses)]
    write_run(folder, list(ROWS), settings)
    write_rows(folder, "sharpness", sharpness)
    write_rows(folder, "scan", scan)
    return folder


def paper_as_a_run(folder, task, by):
    """The paper's own table as if it were measured here, at a batch per epoch."""
    table = paper_tables()[task, by]
    clipped = {0: "", 1: ", coordinate_clip=0.1"}
    ratios = {
        (name + clipped[clip], epoch): ratio
        for (name, clip), of_row in table.ratios.items()
        for epoch, ratio in of_row.items()
    }
    settings = dict(task=task, train_optimizer=by)
    return landscape(folder, (0,), (2, 5, 10, 20), settings, ratios)


def convergence(folder, seeds=SEEDS):
    losses, tuned = [], []
    for label, (_, _, final) in ROWS.items():
        for seed in seeds:
            for iteration, loss in enumerate((5.0, 4.0, final - 0.1, final + 0.1), start=1):
                at = dict(algorithm=label, seed=seed, epoch=(iteration + 1) // 2, iteration=iteration)
                losses.append(at | dict(examples=4, loss=loss, lr=0.1))
        tuned.append(dict(task="toy", algorithm=label, lr=0.1, final_loss=final, diverged=0, chosen=1))
    write_run(folder, list(ROWS), dict(seeds=list(seeds), dataset="pairs", model="small"))
    write_rows(folder, "losses", losses)
    write_rows(folder, "tuned_learning_rates", tuned)
    write_rows(folder, "summary", [dict(algorithm=label, lr=0.1, diverged=0) for label in ROWS])
    return folder


def hessian(folder, model, seed=0, **settings):
    tensors, kind, gini = MODELS[model]
    write_run(
        folder, [], dict(task="glue/rte", dataset="sentences", model=model, seed=seed, checkpoint=None) | settings
    )
    measures = dict(gini_gradient=gini, gini_gradient_rms=gini / 2, spearman=0.9, spearman_low=0.6)
    groups = [("all", "all"), ("kind", kind), ("kind", "head")]
    write_rows(folder, "heterogeneity", [
        dict(batch=batch, grouping=grouping, group=group) | measures
        for batch in (1, "mean")
        for grouping, group in groups
    ])  # fmt: skip
    write_rows(folder, "blocks", [dict(batch=1, block=f"{tensors}.weight"), dict(batch=1, block="classifier.weight")])
    return folder


def every_claim_holds(place):
    """Folder by name: landscape, convergence, and run_hessian.py's of three models from three seeds."""
    folders = {"landscape": landscape(place / "landscape"), "convergence": convergence(place / "convergence")}
    for model in MODELS:
        for seed in SEEDS:
            folders[f"{model}{seed}"] = hessian(place / f"{model}{seed}", model, seed)
    return folders
