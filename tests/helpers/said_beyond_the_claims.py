"""Sentences of docs/results.md on what goes beyond the claims: each with what makes it true of the stored cells."""

from collections import Counter

from study.beyond_page import FOUND
from tests.helpers.study_page import cells, column


def sure_taus(trajectory):
    rows = [row for row in cells("flat_and_fast", trajectory=trajectory) if row["low"] is not None]
    return {row["data"] for row in rows if row["low"] > 0 or row["high"] < 0}


def one_run_is_past_the_edge_most():
    past = Counter((row["data"], row["trajectory"]) for row in cells("own_steps") if row["edge"] >= 1)
    (first, most), (_, second) = past.most_common(2)
    return first == ("cifar10", "sgd") and most > second


def quotients(name, **where):
    return column("own_curvature", name, quantity="adam over muon_adamw", **where)


def swept(label, quantity, name="value"):
    """By clip fraction, from k = 0."""
    return {row["fraction"]: row[name] for row in cells("clip_sweep", algorithm=label, quantity=quantity)}


def is_falling(values):
    return list(values) == sorted(values, reverse=True)


def share(quantity):
    return {row["fraction"]: row["value"] for row in cells("curvature_by_size", quantity=quantity)}


def no_small_set_carries_the_curvature():
    length, curvature = share("share of the squared length"), share("share of the curvature, alone")
    return all(curvature[k] < length[k] for k in length if k <= 0.3)


def modern(quantity, name="value"):
    return {row["algorithm"]: row[name] for row in cells("modern", quantity=quantity)}


def two_end_below_all_others_and_are_flattest():
    best = {"adafactor", "muon_adamw"}
    low, high, ratios = modern("loss", "low"), modern("loss", "high"), modern("ratio")
    others = [low[label] for label in low if label not in best]
    return max(high[label] for label in best) < min(others) and set(sorted(ratios, key=ratios.get)[:2]) == best


HOLDS = {
    "*Flatness and speed.* Along Adam's run flatter rows tend to train to lower losses on every data set.": lambda: (
        min(column("flat_and_fast", "tau", trajectory="adam")) > 0
    ),
    "But only on Tatoeba and on IMDb's labels does the interval exclude zero.": lambda: (
        sure_taus("adam") == {"translation", "imdb"}
    ),
    "Along SGD's run no interval does.": lambda: sure_taus("sgd") == set(),
    "*Own steps.* Most runs step inside the edge.": lambda: (
        sum(edge < 1 for edge in column("own_steps", "edge")) > 0.8 * len(cells("own_steps"))
    ),
    "SGD at its tuned rate on CIFAR-10 is the clearest exception.": one_run_is_past_the_edge_most,
    "*Largest eigenvalues* misjudge the step: they are six times 2 / lr and more, while the step itself stays inside "
    "its edge.": lambda: (
        round(min(column("eigenvalues", "value", quantity="largest eigenvalue of P^-1 H over 2 / lr"))) == 6
        and max(column("eigenvalues", "value", quantity="edge of the run's own step")) < 1
    ),
    "*Later optimizers.* Torch's Adafactor and Muon end below all others by the whole interval, and their steps are "
    "the flattest.": two_end_below_all_others_and_are_flattest,
    "Along Adam's run, which trains at the paper's rate, most rows would step past the edge at the rates that suit "
    "their own runs.": lambda: sum(edge > 1 for edge in modern("edge at this rate").values()) > 4,
    "*Muon's curvature.* Adam's own step meets four to six times the curvature of Muon's, more than in that "
    "paper.": lambda: (
        {round(value) for value in quotients("value")} == {4, 5, 6}
        and min(quotients("value")) > max(adam / muon for adam, muon in FOUND.values())
    ),
    "As there, the quotient rises with the exponent, but here its intervals overlap.": lambda: (
        is_falling(quotients("value", measured_on="test")[::-1]) and max(quotients("low")) < min(quotients("high"))
    ),
    "*Clipping* makes the steps of SGD, Adam and Adafactor flatter, the more the larger k is.": lambda: all(
        is_falling(swept(label, "sharpness").values()) for label in ("sgd", "adam", "adafactor")
    ),
    "Lion's become sharper from k = 0.1 on: they have the same size in every coordinate already.": lambda: (
        [k for k, low in swept("lion", "sharpness", "low").items() if low > 1] == [0.1, 0.3, 0.9]
    ),
    "At the largest k the quadratic model promises Adam and Adafactor a larger decrease, by the whole "
    "interval.": lambda: (
        [label for label in ("sgd", "adam", "adafactor", "lion") if swept(label, "predicted decrease", "low")[0.9] > 1]
        == ["adam", "adafactor"]
    ),
    "As Theorem 1 of Pan & Li supposes, SGD's step meets a smoother loss without its largest coordinates.": lambda: (
        is_falling(share("sharpness along what is left, over the whole").values())
    ),
    "But no small set carries the curvature: up to k = 0.3 the share of the curvature stays below the share of the "
    "length.": no_small_set_carries_the_curvature,
}
