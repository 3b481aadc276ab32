"""The figures: drawn from tables alone, the same each time, and saying what the tables say."""

import logging
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import plotting
from plotting import draw_all, open_run, scan_figures, styles_of, zoom_limits
from results import Table, create_run_folder, write_config

POINT = ["epoch", "batch", "iteration", "algorithm"]
# label, name, options, sharpness relative to SGD's, best distance along the unit direction (None: uphill), log10 step
ALGORITHMS = [
    ("sgd", "sgd", {}, 1.0, 0.03, -5),
    ("sgd, coordinate_clip=0.1", "sgd", {"coordinate_clip": 0.1}, 0.4, 0.05, -5.5),
    ("normalized_sgd", "normalized_sgd", {}, 0.2, 0.1, -1),
    ("normalized_sgd, coordinate_clip=0.1", "normalized_sgd", {"coordinate_clip": 0.1}, 0.07, 0.2, -1.2),
    ("sign_sgd", "sign_sgd", {}, -0.02, None, 0),
    ("adam", "adam", {}, 0.04, 0.6, -0.5),
    ("adam, coordinate_clip=0.5", "adam", {"coordinate_clip": 0.5}, 0.01, 1.5, -0.9),
    ("adam, clip_update=0.5", "adam", {"clip_update": 0.5}, 0.02, 1.0, -0.7),
    ("adafactor", "adafactor", {}, 1e-5, 60.0, -2),
    ("adafactor, coordinate_clip=0.5", "adafactor", {"coordinate_clip": 0.5}, 6e-6, 90.0, -2.4),
    ("lion", "lion", {}, 0.015, 1.2, 0),
    ("lion, clip_update=0.5", "lion", {"clip_update": 0.5}, 0.008, 1.8, -3)]


def believable_run(folder, epochs=(2, 5, 10), seed=0):
    """A run folder with every table, as a measured run of the 12 rows would leave it."""
    draw = random.Random(seed)
    create_run_folder(folder)
    write_config(folder, {"seed": seed, "task": "machine_translation", "train_optimizer": "adam"},
                 [{"label": label, "name": name, "options": options} for label, name, options, *_ in ALGORITHMS])
    training = Table(folder / "training.csv", ["epoch", "iteration", "loss"])
    for i in range(10 * max(epochs)):
        training.append(epoch=1 + i // 10, iteration=1 + i, loss=2 + 4 * math.exp(-i / 30) + draw.gauss(0, 0.08))
    sharpness = Table(folder / "sharpness.csv", POINT + ["loss", "slope", "sharpness"])
    scan = Table(folder / "scan.csv", POINT + ["distance", "loss"])
    histogram = Table(folder / "histogram.csv", POINT + ["bin_low", "bin_high", "count"])
    ratios = Table(folder / "ratios.csv", ["epoch", "algorithm", "mean_ratio", "std", "count"])
    for epoch in epochs:
        point = {"epoch": epoch, "batch": 6, "iteration": 10 * epoch - 4}
        for label, name, _, ratio, best, size in ALGORITHMS:
            row, start = {**point, "algorithm": label}, 2 + 4 * math.exp(-epoch / 3)
            bend = 40.0 * ratio * draw.uniform(0.7, 1.4)
            slope = 0.3 if best is None else -bend * best
            sharpness.append(row, loss=start, slope=slope, sharpness=bend)
            for i in range(21):
                s = i * (0.02 if best is None else best / 8)
                loss = start + slope * s + bend * s**2 / 2 + (0 if best is None else 0.12 * bend * s**3 / best)
                scan.append(row, distance=s, loss=loss)
                if loss > start:
                    break
            mean = ratio * draw.uniform(0.5, 2) if label != "sgd" else 1.0
            ratios.append(epoch=epoch, algorithm=label, mean_ratio=mean, count=5,
                          std=0.0 if label == "sgd" else abs(mean) * draw.uniform(0.2, 1.3))
            edges = [0.0] + [10 ** (-15 + 16 * k / 30) for k in range(31)]
            for low, high in zip(edges, edges[1:], strict=False):
                middle = math.log10(low * high) / 2 if low else -15
                sign_like = name in ("lion", "sign_sgd") and size == 0
                share = abs(middle) < 0.27 if sign_like else math.exp(-(middle - size) ** 2 / 3) + 0.15 * (low == 0)
                histogram.append(row, bin_low=low, bin_high=high, count=int(60000 * share))
    for table in (training, sharpness, scan, histogram, ratios):
        table.save()
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = believable_run(tmp_path_factory.mktemp("runs") / "run")
    return folder, draw_all(folder)
