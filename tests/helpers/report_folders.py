"""Run folders whose page has something to say of every kind: tables written by hand, with the csv module alone."""

import csv
import math
import random

from tests.helpers.run_folders import config_row, write_run


def write_csv(folder, name, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# Of each row: sharpness at the two points of the last epoch, realized edge number, slope, learning rate.
LANDSCAPE = {
    "sgd": ((8.0, 10.0), 0.57, -2.0, 0.1),
    "sgd, coordinate_clip=0.1": ((7.9, 10.1), 0.4, -1.5, 0.2),
    "adam": ((2.0, 2.4), 0.31, -0.7, 0.001),
    "lion": ((20.0, 33.0), 1.31, -0.8, 0.0003),
    "sign_sgd": ((-0.5, -0.3), -0.12, -0.4, 0.002),
    "nadam": ((0.4, -0.1), 0.0521, -0.2, 0.0125),
    "radam": ((3.0, 5.0), None, 0.25, 0.01),  # uphill
    "adafactor": ((0.00021, 0.00019), 0.0042, -0.01, 0.01),
    "muon": (None, None, None, None),  # its step has length zero
    "rmsprop": (None, None, None, None),  # not finite: it was dropped
    "training": ((2.1, 2.2), 0.05, -0.7, 0.0005),
}


def landscape(folder, labels=tuple(LANDSCAPE), reference="sgd", changes=None, settings=None):
    """A run_landscape.py folder with epochs 1 and 3, two points each."""
    rows, scan = [], []
    table = LANDSCAPE | (changes or {})
    for epoch, scale in ((1, 5.0), (3, 1.0)):
        for point, batch in enumerate((2, 7)):
            at = dict(epoch=epoch, batch=batch, iteration=10 * (epoch - 1) + batch)
            base = table.get(reference, ((None, None),))[0][point]
            for label in labels:
                sharpness, edge, slope, lr = table[label]
                bend = None if sharpness is None else sharpness[point] * scale
                row = at | dict(
                    algorithm=label, measured_on="test", loss="" if label == "rmsprop" else 4.5, slope=slope
                )
                row |= dict(sharpness=bend, learning_rate=lr, edge_realized=edge, edge_quadratic=edge)
                row |= dict(ratio=None if None in (bend, base) else bend / abs(base * scale), critical_lr=None)
                row |= dict(sharpness_error=0.2 * abs(bend) if bend and label == "nadam" and point else 1e-9)
                rows.append({name: "" if cell is None else cell for name, cell in row.items()})
                if point == 0 and bend is not None:
                    for i in range(5):
                        loss = 4.5 + slope * i / 10 + bend * (i / 10) ** 2 / 2
                        scan.append(at | dict(algorithm=label, measured_on="test", distance=i / 10, loss=loss))
    write_run(
        folder, [label for label in labels if label != "training"], {"train_optimizer": "adam"} | (settings or {})
    )
    write_csv(folder, "sharpness", rows)
    write_csv(folder, "scan", scan)
    if reference in labels:
        write_csv(folder, "ratios", ratios_of(rows))
    return folder


def ratios_of(rows):
    found = []
    for epoch, label in dict.fromkeys((row["epoch"], row["algorithm"]) for row in rows):
        own = [r["ratio"] for r in rows if (r["epoch"], r["algorithm"]) == (epoch, label) and r["ratio"] != ""]
        if own:
            at = dict(epoch=epoch, algorithm=label, measured_on="test", mean_ratio=sum(own) / len(own))
            found.append(at | dict(std=abs(own[0] - own[1]) / math.sqrt(2), count=len(own)))
    return found


def seeds(folder):
    """Three seeds, with the table of means over them. The numbers of seed_means.csv are free, so that nothing but
    reading them gives the page's."""
    landscape(folder, ("sgd", "adam", "lion", "training"))
    table = list(csv.DictReader((folder / "sharpness.csv").open()))
    write_csv(folder, "sharpness", [{"seed": seed} | row for seed in (0, 1, 2) for row in table])
    scans = list(csv.DictReader((folder / "scan.csv").open()))
    write_csv(folder, "scan", [{"seed": seed} | row for seed in (0, 1, 2) for row in scans])
    write_csv(folder, "ratios", [])
    means = []
    for label, ratio, low, high, edge in (
        ("sgd", 1.0, 1.0, 1.0, 0.61),
        ("adam", 1 / 4.1, 1 / 5.0, 1 / 3.2, 0.31),
        ("lion", 1.9, 0.8, 4.4, 1.7),
        ("training", 0.25, 0.2, 0.3, 0.04),
    ):
        for epoch in (1, 3):
            at = dict(epoch=epoch, algorithm=label, measured_on="test", seeds=3)
            of_epoch = at | dict(quantity="ratio", mean=ratio * epoch / 3, low=low * epoch / 3, high=high * epoch / 3)
            means.append(of_epoch | dict(scale="log"))
            means.append(at | dict(quantity="edge_realized", mean=edge, low=edge / 2, high=edge * 2, scale="linear"))
    write_csv(folder, "seed_means", means)
    (folder / "ratios.csv").write_text("seed,epoch,algorithm,measured_on,mean_ratio,std,count\n")
    return folder


def scan_only(folder):
    landscape(folder, ("sgd", "adam"))
    header = (folder / "sharpness.csv").read_text().splitlines()[0]
    (folder / "sharpness.csv").write_text(header + "\n")
    (folder / "ratios.csv").write_text("epoch,algorithm,measured_on,mean_ratio,std,count\n")
    return folder


CONVERGENCE = ("sgd", "sgd, coordinate_clip=0.1", "adam", "lion", "muon")


def convergence(folder, seeds=(0, 1, 2), tuned=True, labels=CONVERGENCE):
    """Four epochs of five updates; of several seeds one of lion diverges; muon diverges from all."""
    losses, summary, trials, best = [], [], [], []
    for place, label in enumerate(labels):
        finals = []
        for seed in seeds:
            draw = random.Random(f"{label} {seed}")
            lost = label == "muon" or (label == "lion" and seed == 1)
            updates = 7 + seed if lost else 20
            own = []
            for i in range(updates):
                loss = 6 - 0.05 * (1 + place) * i + draw.uniform(-0.1, 0.1)
                row = dict(algorithm=label, seed=seed, epoch=1 + i // 5, iteration=1 + i, examples=8 if i % 5 else 4)
                own.append(row | dict(loss=loss, lr=0.1, seconds=i))
            losses += own
            if not lost:
                last = [row for row in own if row["epoch"] == 4]
                finals.append(sum(r["loss"] * r["examples"] for r in last) / sum(r["examples"] for r in last))
            best.append(dict(algorithm=label, seed=seed, epoch=2, evaluation_accuracy=0.5, test_accuracy=draw.random()))
        mean = sum(finals) / len(finals) if finals else ""
        faster = finals and label in ("adam", "lion")
        row = dict(algorithm=label, lr="" if label == "lion" else 0.1 * (1 + place), final_loss_mean=mean)
        row |= dict(final_loss_std="", best_loss=mean, steps_to_sgd_loss=7.5 + place if faster else "")
        summary.append(row | dict(diverged=len(seeds) - len(finals)))
        trials += [dict(task="toy", algorithm=label, lr=lr, final_loss=3, diverged=0, chosen=0) for lr in (0.1, 0.2)]
    write_run(folder, list(labels), {"seeds": list(seeds)})
    write_csv(folder, "losses", losses)
    write_csv(folder, "summary", summary)
    if tuned:
        write_csv(folder, "tuned_learning_rates", trials)
        write_csv(folder, "best_epochs", best)
    return folder


def hessian(folder, low=0.4, high=0.9):
    """Two batches of five tensors, one of which did not converge in one of them."""
    blocks, spread = [], []
    for batch in (1, 2, "mean"):
        for i in range(5):
            row = dict(batch=batch, block=f"h.{i}.weight", kind="attention", layer=f"h.{i}", numel=10 + i)
            row |= dict(gradient_norm=1.5 + i, eigenvalue=0.37 * (i + 1) ** 1.5, residual=1e-4)
            blocks.append(row | dict(converged=int(batch != 2 or i != 3), products=9))
    numbers = dict(
        gini_gradient=0.234, gini_gradient_rms=0.3, gini_eigenvalue=0.456, complexity_gradient=3.0, complexity_sign=1.2
    )
    numbers |= dict(complexity_ratio=2.53, spearman=0.812, spearman_low=low, spearman_high=high)
    for group, grouping in (("all", "all"), ("attention", "kind"), ("h.0", "layer")):
        row = dict(batch="mean", grouping=grouping, group=group, blocks=5, parameters=60)
        spread.append(row | numbers if group == "all" else row | dict.fromkeys(numbers, 0.111))
    write_run(folder, [])
    write_csv(folder, "blocks", blocks)
    write_csv(folder, "heterogeneity", spread)
    smooth = dict(examples=48, coordinates=99, smoothness=123.4, robust_smoothness=1.234, removed_share=0.0123)
    write_csv(folder, "robust_smoothness", [smooth | dict(random_smoothness=120.0)])
    return folder


def hostile(folder):
    """Labels and settings that would be markup, a script or a policy if they were not escaped."""
    bad = '<script>alert("1")</script>'
    landscape(folder, ("sgd", "adam"), settings={"task": f"{bad} & co", "dataset": "\"><img src=x onerror='alert(2)'>"})
    for name in ("sharpness", "scan", "ratios"):
        rows = list(csv.DictReader((folder / f"{name}.csv").open()))
        write_csv(folder, name, [row | {"algorithm": row["algorithm"].replace("adam", bad)} for row in rows])
    write_rows = [config_row("sgd"), {"label": bad, "name": "adam", "options": {"note": "</style><b>"}}]
    write_run(folder, write_rows, {"task": f"{bad} & co", "dataset": "\"><img src=x onerror='alert(2)'>"})
    return folder
