"""Every sentence of a page, worked out a second time from the CSV files: with the csv module, and none of our code.

`trace` finds the pattern of a sentence and the function that checks its numbers and names.
"""
# ruff: noqa: E501  a pattern is easier to compare with its sentence in one line

import csv
import math
import re
from html.parser import HTMLParser
from statistics import fmean, stdev

import pytest

T_975 = {1: 12.7062, 2: 4.30265}  # Student's t, from a printed table
NUMBER = r"(−?[\d,]+(?:\.\d+)?(?:e-?\d+)?)"
NAME = r"(“[^”]+”|\w+)"


class Said(HTMLParser):
    """The sentences of a page."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if ("class", "said") in attributes:
            self.found.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = False if tag == "span" else self.inside

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


class Cells:
    """The tables of a folder as text and numbers."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name, **where):
        path = self.folder / f"{name}.csv"
        rows = list(csv.DictReader(path.open())) if path.exists() else []
        return [row for row in rows if all(row[column] == str(value) for column, value in where.items())]

    def numbers(self, name, column, **where):
        return [float(row[column]) for row in self(name, **where) if row[column]]

    def last(self, name="sharpness"):
        return max(int(row["epoch"]) for row in self(name))

    def mean(self, quantity, label):
        """(value, low, high) in the last epoch."""
        if means := self("seed_means", epoch=self.last(), algorithm=label, quantity=quantity):
            return tuple(float(means[0][column]) for column in ("mean", "low", "high"))
        values = self.numbers("sharpness", quantity, epoch=self.last(), algorithm=label)
        return fmean(values), min(values), max(values)


def plain(name):
    return name.strip("“”")


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def same(text, value, digits=2):
    assert number(text) == float(f"{value:.{digits}g}"), f"{text} is not {value}"


# ---- what each sentence claims ------------------------------------------------------------------------------------


def measured_at(cells, algorithms, points, runs, by, epochs):
    name = "sharpness" if cells("sharpness") else "scan"
    rows = cells(name)
    assert number(algorithms) == len({row["algorithm"] for row in rows} - {"training"})
    assert number(points) == len({(row.get("seed"), row["iteration"]) for row in rows})
    assert runs == ("one run" if "seed" not in rows[0] else f"{len({row['seed'] for row in rows})} runs, one per seed,")
    assert by == "adam" and re.findall(r"\d+", epochs) == list(dict.fromkeys(row["epoch"] for row in rows))


def flattest(cells, epoch, label, value, of):
    assert int(epoch) == cells.last()
    quantity = "ratio" if of else "sharpness"
    labels = {row["algorithm"] for row in cells("sharpness", epoch=epoch) if row[quantity]} - {"training"}
    means = {each: cells.mean(quantity, each)[0] for each in labels}
    assert plain(label) == min(means, key=means.get)
    same(value, means[plain(label)])


def own_step(cells, by, edge):
    assert by == "adam"
    same(edge, cells.mean("edge_realized", "training")[0])


def beyond(cells, count, of, names):
    rows = cells("sharpness", epoch=cells.last())
    edges = {row["algorithm"]: cells.mean("edge_realized", row["algorithm"])[0] for row in rows if row["edge_realized"]}
    edges.pop("training", None)
    over = [label for label, edge in edges.items() if edge > 1]
    assert (number(count), number(of)) == (len(over), len(edges))
    assert [plain(name) for name in re.split(", | and ", names)] == over if over else not names


def deepest(cells, epoch, seed, label, start, lowest, distance):
    rows = [row for row in cells("scan", epoch=epoch) if row["algorithm"] != "training"]
    rows = [row for row in rows if seed is None or row["seed"] == seed]
    found = min(rows, key=lambda row: float(row["loss"]))
    assert int(epoch) == cells.last("scan") and plain(label) == found["algorithm"]
    same(start, float(rows[0]["loss"]), 4)
    same(lowest, float(found["loss"]), 4)
    same(distance, float(found["distance"]))


def one_seed(cells):
    assert len({row.get("seed") for row in cells("sharpness") or cells("losses")}) == 1


def several_seeds(cells, count):
    assert number(count) == len({row["seed"] for row in cells("sharpness") or cells("losses")})


def no_reference(cells):
    assert not any(row["ratio"] for row in cells("sharpness"))


def negative_reference(cells, label, count, of):
    values = cells.numbers("sharpness", "sharpness", epoch=cells.last(), algorithm=plain(label))
    assert (number(count), number(of)) == (sum(value < 0 for value in values), len(values))


def row_begins(cells, label):
    assert plain(label) == "sgd"


def compared(cells, label, times, way, low, high, rests):
    mean, *bounds = cells.mean("ratio", plain(label))
    numbers = [mean, *bounds] if way == "sharper" else [1 / mean, 1 / bounds[1], 1 / bounds[0]]
    assert (way == "flatter") == (mean < 1)
    for text, value in zip((times, low, high), numbers, strict=True):
        same(text, value)
    rested(cells, label, rests)


def alike(cells, label, value, low, high, rests):
    for text, number_, digits in zip((value, low, high), cells.mean("ratio", plain(label)), (2, 2, 2), strict=True):
        assert abs(number(text) - number_) < 0.051, digits
    rested(cells, label, rests)


def with_bounds(cells, quantity, label, value, low, high, rests):
    for text, number_ in zip((value, low, high), cells.mean(quantity, plain(label)), strict=True):
        same(text, number_)
    rested(cells, label, rests)


def crossing(cells, label, times, low, high, rests):
    mean, *bounds = cells.mean("ratio", plain(label))
    same(times, 1 / mean)
    same(low, bounds[0])
    same(high, bounds[1])
    assert bounds[0] <= 0
    rested(cells, label, rests)


def rested(cells, label, rests):
    rows = cells("sharpness", epoch=cells.last(), algorithm=plain(label))
    seeds_ = len({row.get("seed") for row in rows})
    assert rests == (f"{seeds_} seeds" if seeds_ > 1 else f"{len(rows)} points")


def edge_of_row(cells, label, rate, edge):
    rows = cells("sharpness", epoch=cells.last(), algorithm=plain(label))
    assert float(rate) == float(f"{float(rows[0]['learning_rate']):.3g}")
    mean = cells.mean("edge_realized", plain(label))[0]
    same(edge, mean)
    return mean


def uphill(cells, label, count, of):
    slopes = cells.numbers("sharpness", "slope", epoch=cells.last(), algorithm=plain(label))
    assert (number(count), number(of)) == (sum(slope > 0 for slope in slopes), len(slopes))


def blurred(cells, label, count, of):
    rows = cells("sharpness", epoch=cells.last(), algorithm=plain(label))
    unsure = [row for row in rows if float(row["sharpness_error"]) > 0.1 * abs(float(row["sharpness"]))]
    assert (number(count), number(of)) == (1 if count == "one" else len(unsure), len(rows)) and unsure


def nothing(cells, label, epoch, lost):
    rows = cells("sharpness", epoch=epoch, algorithm=plain(label))
    assert not any(row["sharpness"] for row in rows)
    assert any(row["loss"] for row in rows) != lost


def trained(cells, algorithms, epochs, seeds_):
    rows = cells("losses")
    assert number(algorithms) == len({row["algorithm"] for row in rows})
    assert number(epochs) == max(int(row["epoch"]) for row in rows)
    assert seeds_ == ("one seed" if (n := len({row["seed"] for row in rows})) == 1 else f"{n} seeds")


def lowest_loss(cells, label, value):
    rows = [row for row in cells("summary") if row["final_loss_mean"]]
    best = min(rows, key=lambda row: float(row["final_loss_mean"]))
    assert plain(label) == best["algorithm"]
    same(value, float(best["final_loss_mean"]), 4)


def tuned(cells, count):
    assert number(count) == len(cells("tuned_learning_rates"))


def untuned(cells):
    assert not cells("tuned_learning_rates")


def diverged(cells, runs, algorithms):
    lost = [int(row["diverged"]) for row in cells("summary") if int(row["diverged"])]
    assert [one_or(runs), one_or(algorithms)] == [sum(lost), len(lost)]


def one_or(text):
    return 1 if text.lower() == "one" else number(text)


def most_right(cells, label, percent):
    labels = {row["algorithm"] for row in cells("best_epochs")}
    means = {each: fmean(cells.numbers("best_epochs", "test_accuracy", algorithm=each)) for each in labels}
    assert plain(label) == max(means, key=means.get)
    assert float(percent) == round(100 * means[plain(label)], 1)


def ended(cells, label, loss, low, high, rests, rate, apart, side, other, after, of, lost):
    (row,) = cells("summary", algorithm=plain(label))
    same(loss, float(row["final_loss_mean"]), 4)
    assert (rate is None) == (row["lr"] == "") and (rate is None or float(rate) == float(f"{float(row['lr']):.3g}"))
    finals = []
    for seed in dict.fromkeys(each["seed"] for each in cells("losses")):
        last = [each for each in cells("losses", algorithm=plain(label), seed=seed) if each["epoch"] == "4"]
        if last:
            weights = [float(each["examples"]) for each in last]
            finals.append(fmean([float(each["loss"]) for each in last], weights))
    if low is None:
        assert rests == "one seed" and len(finals) == 1
    else:
        half = T_975[len(finals) - 1] * stdev(finals) / math.sqrt(len(finals))
        assert rests == f"{len(finals)} seeds"
        assert abs(number(low) - fmean(finals) + half) < 1e-3 and abs(number(high) - fmean(finals) - half) < 1e-3
    if apart is not None:
        (sgd,) = cells("summary", algorithm="sgd")
        difference = float(row["final_loss_mean"]) - float(sgd["final_loss_mean"])
        assert plain(other) == "sgd" and (side == "below") == (difference < 0)
        same(apart, abs(difference))
    if after is None:
        assert row["steps_to_sgd_loss"] == "" or plain(label) == "sgd"
    else:
        assert (number(after), number(of)) == (round(float(row["steps_to_sgd_loss"])), 20)
    assert int(lost or 0) == int(row["diverged"])


def all_diverged(cells, label, rate, seeds_):
    (row,) = cells("summary", algorithm=plain(label))
    assert row["final_loss_mean"] == "" and float(rate) == float(row["lr"])
    assert seeds_ == ("its only seed" if row["diverged"] == "1" else f"all {row['diverged']} seeds")


def tensors(cells, count, batches):
    assert number(count) == len(cells("blocks", batch="mean"))
    assert number(batches) == len({row["batch"] for row in cells("blocks")}) - 1


def bends_most(cells, block, value):
    best = max(cells("blocks", batch="mean"), key=lambda row: float(row["eigenvalue"]))
    assert plain(block) == best["block"]
    same(value, float(best["eigenvalue"]))


def correlated(cells, words, value, low, high):
    (row,) = cells("heterogeneity", batch="mean", grouping="all")
    for text, column in ((value, "spearman"), (low, "spearman_low"), (high, "spearman_high")):
        assert float(text.replace("−", "-")) == round(float(row[column]), 2)
    crosses = float(row["spearman_low"]) <= 0 <= float(row["spearman_high"])
    assert words == ("do not clearly have larger or smaller" if crosses else "have larger")


def ginis(cells, gradient, eigenvalue):
    (row,) = cells("heterogeneity", batch="mean", grouping="all")
    assert [float(gradient), float(eigenvalue)] == [
        round(float(row[f"gini_{name}"]), 2) for name in ("gradient", "eigenvalue")
    ]


def times_curvature(cells, value):
    (row,) = cells("heterogeneity", batch="mean", grouping="all")
    same(value, float(row["complexity_ratio"]))


def unconverged(cells, count, of):
    rows = [row for row in cells("blocks") if row["batch"] != "mean"]
    assert (number(count), number(of)) == (sum(row["converged"] == "0" for row in rows), len(rows))


def smooth(cells, examples, value, share, robust):
    (row,) = cells("robust_smoothness")
    assert number(examples) == int(row["examples"])
    same(value, float(row["smoothness"]))
    same(share, 100 * float(row["removed_share"]))
    same(robust, float(row["robust_smoothness"]))


BASIS = rf" \({NUMBER} to {NUMBER}, (\d+ points|\d+ seeds)\)"
KINDS = {
    rf"The next steps of {NUMBER} algorithms were measured at {NUMBER} points of (one run|\d+ runs, one per seed,) that "
    r"(\w+) trained, in epochs? ([\d, and]+)\.": measured_at,
    rf"In epoch (\d+) the step of {NAME} is the flattest: its directional sharpness is {NUMBER}( of that of sgd)?\.": (
        flattest
    ),
    rf"The step that the run itself takes \((\w+)\) ends at {NUMBER} of its edge\.": own_step,
    rf"At their learning rates, {NUMBER} of {NUMBER} algorithms step beyond their edge(?:: (.+))?\.": beyond,
    rf"In the scans of epoch (\d+)(?: of seed (\d+))? the loss falls furthest along the step of {NAME}: from {NUMBER} to "
    rf"{NUMBER}, at distance {NUMBER}\.": deepest,
    r"One seed was measured, so nothing is known of the differences between seeds: brackets below go from the lowest to "
    r"the highest of the epoch's points\.": one_seed,
    rf"Brackets below are 95 % intervals over {NUMBER} seeds\.": several_seeds,
    r"No row serves as reference, so sharpness stands for itself here and not relative to that of SGD\.": no_reference,
    rf"The loss bends down along the step of {NAME} itself at {NUMBER} of {NUMBER} points; ratios divide by the size of "
    r"its sharpness there\.": negative_reference,
    rf"{NUMBER} algorithms trained for {NUMBER} epochs from (\d+ seeds|one seed), all with the same start and the same "
    r"batches\.": trained,
    rf"The loss of the last epoch is lowest for {NAME}: {NUMBER}\.": lowest_loss,
    rf"Every learning rate is the best of its trials, {NUMBER} in all, on the first seed\.": tuned,
    r"The learning rates are those of the list\. They were not tuned here \(--tune_lr does\), so a row may be slow only "
    r"because its rate does not fit\.": untuned,
    r"One seed was run, so nothing is known of the differences between seeds\.": one_seed,
    r"(One|\d+) runs? of (one|\d+) algorithms? diverged; (?:it is|they are) left out of the means\.": diverged,
    rf"On the test examples {NAME} is right most often, in ([\d.]+) % of them, after the epoch that is best on the "
    r"evaluation examples \(mean over seeds\)\.": most_right,
    rf"{NAME} ended at the loss {NUMBER} \((?:{NUMBER} to {NUMBER}, )?(one seed|\d+ seeds)\)(?: with the learning rate "
    rf"([\d.e-]+))?(?:, {NUMBER} (below|above) {NAME}(?:, whose loss it reached after {NUMBER} of {NUMBER} updates)?)?"
    r"(?:; it diverged from (\d+) of \d+ seeds)?\.": ended,
    rf"{NAME} diverged with the learning rate ([\d.e-]+), from (its only seed|all \d+ seeds)\.": all_diverged,
    rf"Gradient and largest curvature of {NUMBER} tensors were measured, as means over {NUMBER} batches of examples\.": (
        tensors
    ),
    rf"The loss bends most within {NAME}: its largest eigenvalue is {NUMBER}\.": bends_most,
    r"Tensors with larger gradients (have larger|do not clearly have larger or smaller) curvature: the rank correlation "
    rf"of gradient norm and eigenvalue is {NUMBER} \(95 % interval over the tensors: {NUMBER} to {NUMBER}\)\.": correlated,
    rf"The Gini coefficient of the gradient norms is {NUMBER}, that of the eigenvalues {NUMBER} \(0: all tensors are "
    r"equal, near 1: one tensor holds everything\)\.": ginis,
    rf"The curvature that gradient methods meet is {NUMBER} times that which sign methods meet\.": times_curvature,
    rf"{NUMBER} of {NUMBER} eigenvalues did not converge; the column “converged” names them\.": unconverged,
    rf"Over {NUMBER} examples the smoothness is {NUMBER}; without the {NUMBER} % of coordinates that are longest it is "
    rf"{NUMBER}\.": smooth,
    rf"The step of {NAME} or its state is not finite in epoch (\d+); it was dropped\.": (
        lambda cells, label, epoch: nothing(cells, label, epoch, lost=True)
    ),
    rf"The step of {NAME} has no sharpness in epoch (\d+): its length is zero, or the loss is not finite\.": (
        lambda cells, label, epoch: nothing(cells, label, epoch, lost=False)
    ),
}
# A sentence about one row has parts: what its sharpness is, and what follows a semicolon.
FIRST = {
    r" is what the others are compared with": row_begins,
    rf" is {NUMBER} times (flatter|sharper) than that of sgd{BASIS}(?:, which the seeds do not tell from no difference)?": (
        compared
    ),
    rf" is {NUMBER} times flatter than that of sgd \(ratio {NUMBER} to {NUMBER}, (\d+ points)\)": crossing,
    rf" is about as sharp as that of sgd: {NUMBER} of it{BASIS}": alike,
    rf" bends the loss down: its ratio to sgd is {NUMBER}{BASIS}": lambda *a: with_bounds(a[0], "ratio", *a[1:]),
    rf" has the directional sharpness {NUMBER}{BASIS}": lambda *a: with_bounds(a[0], "sharpness", *a[1:]),
}


def lies(low, high):
    def check(cells, label, rate, edge):
        assert low < edge_of_row(cells, label, rate, edge) <= high

    return check


RATE = r" with its learning rate of ([\d.e-]+) it "
THEN = {
    rf"{RATE}ends at {NUMBER} of its edge": lies(0, 1),
    rf"{RATE}ends beyond its edge, at {NUMBER} of it: the loss rises": lies(1, math.inf),
    rf"{RATE}has the edge number {NUMBER}: the loss falls faster than its slope says": lies(-math.inf, 0),
    rf" it leads uphill at {NUMBER} of {NUMBER} points": uphill,
    rf" rounding may change its sharpness by more than 10 % at {NUMBER} of {NUMBER} points": blurred,
}


def trace(cells, sentence):
    """The patterns that the sentence consists of, each checked; fails for a sentence that none explains."""
    for pattern, check in KINDS.items():
        if found := re.fullmatch(pattern, sentence):
            check(cells, *found.groups())
            return [pattern]
    row = re.fullmatch(rf"The step of {NAME}(.*)\.", sentence)
    assert row, f"no pattern explains: {sentence}"
    label, (first, *then) = row[1], row[2].split(";")
    used = []
    for patterns, part in ((FIRST, first), *((THEN, part) for part in then)):
        (pattern,) = [each for each in patterns if re.fullmatch(each, part)] or pytest.fail(f"unexplained: {part}")
        patterns[pattern](cells, label, *re.fullmatch(pattern, part).groups())
        used.append(pattern)
    return used
