"""The part of docs/results.md that goes beyond the papers' claims, from the tables of `study.beyond`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from runs.tables import TEST, TRAINING, markdown_table
from study.beyond import (
    ADAM,
    EDGE,
    LOSS,
    MUON,
    NORMS,
    OWN_EDGE,
    PARTS,
    PRECONDITIONED,
    QUOTIENT,
    README,
    SWEPT,
    THRESHOLD,
)
from study.markdown import DATA, RUNS, Tables, crossed, listed, number, spread

BATCHES = {TEST: "test batch", TRAINING: "own batch"}
SHOWN_FRACTIONS = (0, 0.01, 0.03, 0.1, 0.3, 0.9)
CUT = 0.1  # the fraction of SGD's largest coordinates that the page speaks of
SPECTRAL = NORMS["sharpness_spectral"]
SAID = {LOSS: "final loss", NORMS["sharpness"]: "sharpness", SPECTRAL: "sharpness in the spectral norm"}
FOUND = {"0": (1.63, 1.0), "1": (2.38, 1.25)}  # Adam's and Muon's in arXiv:2606.04662, by Zipf exponent
Row = dict[str, Any]


def beyond(tables: Tables) -> str:
    parts = [flat_and_fast, own_steps, eigenvalues, modern, own_curvature, clip_sweep, curvature_by_size]
    return "\n\n".join(part(tables) for part in parts if tables[part.__name__])


def section(title: str, *paragraphs: str) -> str:
    return "\n\n".join([f"### {title}", *paragraphs])


def flat_and_fast(tables: Tables) -> str:
    rows = tables["flat_and_fast"]
    text = crossed(
        [row | {"data": DATA[row["data"]]} for row in rows], "data", lambda row: RUNS[row["trajectory"]], "tau"
    )
    above = sum(row["tau"] > 0 for row in rows)
    sure = sum(row["low"] is not None and row["low"] > 0 for row in rows)
    toy = "".join(
        f" The line of {DATA[README]} is that of README's figure, with {row['rows']} rows and one seed."
        for row in rows
        if row["data"] == README
    )
    return section(
        "Do flatter rows train to lower losses?",
        "Kendall's tau over the rows of a list: their sharpness over SGD's in the last epoch against their final loss "
        f"at tuned rates. It is 1 where the flatter row always ends lower.{toy}",
        text,
        f"It is positive in {above} of {len(rows)} cells, and its whole interval in {sure}.",
    )


def own_steps(tables: Tables) -> str:
    rows = tables["own_steps"]
    ends = min(row["epoch"] for row in rows), max(row["epoch"] for row in rows)
    shown = [row | {"run": f"{DATA[row['data']]}, {RUNS[row['trajectory']]}"} for row in rows if row["epoch"] in ends]
    shown.sort(key=lambda row: (row["epoch"], row["measured_on"] != TEST))
    names = list(dict.fromkeys(row["run"] for row in shown))
    columns = list(dict.fromkeys(_edge_column(row) for row in shown))
    cells = {(row["run"], _edge_column(row)): spread(row, "edge") for row in shown}
    lines = [[name, *(cells.get((name, column), "uphill") for column in columns)] for name in names]
    on = {batch: [row for row in rows if row["measured_on"] == batch] for batch in BATCHES}
    inside = {batch: sum(row["edge"] < 1 for row in of) for batch, of in on.items()}
    own = {_point(row): row["edge"] for row in on[TRAINING]}
    pairs = [(own[_point(row)], row["edge"]) for row in on[TEST] if _point(row) in own]
    return section(
        "How far each run's own step goes",
        "The realized [edge number](edges.md) of the step that the run takes next: 1 is the edge, past which the step "
        "raises the loss. Seeds whose step leads uphill have none.",
        markdown_table(["run", *columns], lines),
        f"Over all measured epochs, the mean is below 1 on the test batch in {inside[TEST]} of {len(on[TEST])} cases, "
        f"and on the batch that the step came from in {inside[TRAINING]} of {len(on[TRAINING])}. It is smaller there "
        f"in {sum(a < b for a, b in pairs)} of {len(pairs)}.",
    )


def _edge_column(row: Row) -> str:
    return f"epoch {row['epoch']}, {BATCHES[row['measured_on']]}"


def _point(row: Row) -> tuple:
    return row["data"], row["trajectory"], row["epoch"]


def eigenvalues(tables: Tables) -> str:
    rows = tables["eigenvalues"]
    last = max(row["epoch"] for row in rows)
    text = crossed(rows, "quantity", lambda row: f"epoch {row['epoch']}", "value")
    by = {row["quantity"]: number(row["value"]) for row in rows if row["epoch"] == last}
    return section(
        "The largest eigenvalue against the step",
        "Tatoeba, Adam's run on 640 examples. P is the diagonal that Adam divides by. Descent with P is unstable where "
        "the eigenvalue exceeds 2 / lr, with momentum where it exceeds a larger threshold. All three numbers are 1 at "
        "their edge.",
        text,
        f"In epoch {last} the eigenvalue is {by[PRECONDITIONED]} times 2 / lr, {by[THRESHOLD]} of the threshold with "
        f"momentum, and the step's own edge number is {by[OWN_EDGE]}.",
    )


def modern(tables: Tables) -> str:
    rows = tables["modern"]
    by = {(row["algorithm"], row["quantity"]): row["value"] for row in rows}
    labels = list(dict.fromkeys(row["algorithm"] for row in rows))
    text = crossed(rows, "algorithm", lambda row: row["quantity"], "value")
    below = [label for label in labels if (by[label, LOSS] or math.inf) < by[ADAM, LOSS]]
    past = [label for label in labels if (by[label, EDGE] or 0) > 1]
    said = [
        f"{_names(below)} end{'s' * (len(below) < 2)} below Adam.",
        *(_lowest(by, labels, quantity, said) for quantity, said in SAID.items()),
        f"In the spectral norm, its own, Muon's sharpness is {number(by[MUON, SPECTRAL])} of SGD's, and Adam's is "
        f"{number(by[ADAM, SPECTRAL])}.",
        f"At the tuned rate {_names(past)} step{'s' * (len(past) < 2)} past the edge of the quadratic model.",
    ]
    return section(
        "Optimizers since",
        "The list `modern` on Tatoeba, 640 examples: loss at tuned rates, and the steps along Adam's run, in its last "
        "epoch. The ratios are to SGD's sharpness in the same norm. `Adafactor` is torch's, and `muon_adamw` is "
        "`torch.optim.Muon` with AdamW for what it does not take.",
        text,
        " ".join(said),
    )


def _lowest(by: dict, labels: Iterable[str], quantity: str, said: str) -> str:
    values = {label: by[label, quantity] for label in labels if by[label, quantity] is not None}
    least = min(values, key=values.__getitem__)
    return f"The lowest {said} is that of `{least}`, {number(values[least])}."


def _names(labels: Sequence[str]) -> str:
    names = [f"`{label}`" for label in labels]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "No row"


def own_curvature(tables: Tables) -> str:
    rows = tables["own_curvature"]
    said = {ADAM: "Adam", MUON: "Muon", QUOTIENT: "Adam over Muon"}
    exponents = [row | {"Zipf exponent": row["zipf"]} for row in rows]
    text = crossed(
        exponents, "Zipf exponent", lambda row: f"{said[row['quantity']]}, {BATCHES[row['measured_on']]}", "value"
    )
    quotients = [row for row in rows if row["quantity"] == QUOTIENT]
    above = sum(row["value"] > 1 for row in quotients)
    sure = sum(row["low"] is not None and row["low"] > 1 for row in quotients)
    on_test = [row for row in quotients if row["measured_on"] == TEST]
    found = "; ".join(f"{adam} and {muon} at exponent {zipf}" for zipf, (adam, muon) in FOUND.items())
    quotient = listed(on_test, "value", lambda row: f"at exponent {row['zipf']}")
    return section(
        "The curvature of Adam's step and of Muon's",
        "Wang et al. (arXiv:2606.04662) measure v'Hv / ‖v‖² of the step that each run takes itself, on the batch of "
        "the step, as a mean over the run. On generated data, words with Zipf exponents from 0 to 1, they find, for "
        f"Adam and Muon, {found}. Here the same on generated translations, 50 updates at learning rate 0.01.",
        text,
        f"Adam's step has the larger curvature in {above} of {len(quotients)} means, and by "
        f"the whole interval in {sure}. On the test batch the quotient is {quotient}.",
    )


def clip_sweep(tables: Tables) -> str:
    rows = tables["clip_sweep"]
    sharpness, predicted = ([row for row in rows if row["quantity"] == q.replace("_", " ")] for q in SWEPT)
    least = [(label, _from(rows, label)) for label in dict.fromkeys(row["algorithm"] for row in rows)]
    said = [
        f"From k = {k} on, the sharpness of `{label}` is lower than at k = 0 at every point."
        if k
        else f"No range of k up to the largest lowers the sharpness of `{label}` at every point."
        for label, k in least
    ]
    largest = max(row["fraction"] for row in predicted)
    gained = [row for row in predicted if row["fraction"] == largest]
    gains = ", ".join(f"{row['higher']} (`{row['algorithm']}`)" for row in gained)
    return section(
        "The clip fraction",
        "Tatoeba, Adam's run on 640 examples. Every optimizer is measured at clip fractions k; the state of each has "
        "followed the run from its start. Sharpness over that at k = 0, in the last epoch:",
        _by_fraction(sharpness),
        "The decrease that the quadratic model predicts, over that at k = 0:",
        _by_fraction(predicted),
        f"{' '.join(said)} At k = {largest} the predicted decrease is larger than at k = 0 at {gains} of "
        f"{gained[0]['of']} points.",
    )


def _from(rows: Sequence[Row], label: str) -> float | None:
    """The smallest k from which on the sharpness is lower than at k = 0 at every point."""
    found = None
    for row in sorted(rows, key=lambda row: -row["fraction"]):
        if (row["algorithm"], row["quantity"]) == (label, "sharpness"):
            if not row["fraction"] or row["lower"] < row["of"]:
                return found
            found = row["fraction"]
    return found


def _by_fraction(rows: Sequence[Row]) -> str:
    return crossed([row for row in rows if row["fraction"] in SHOWN_FRACTIONS[1:]], "algorithm", _k, "value")


def _k(row: Row) -> str:
    return f"k = {row['fraction']}"


def curvature_by_size(tables: Tables) -> str:
    rows = tables["curvature_by_size"]
    text = crossed([row for row in rows if row["fraction"] in SHOWN_FRACTIONS], "quantity", _k, "value")
    at = {row["quantity"]: number(row["value"]) for row in rows if row["fraction"] == CUT}
    length, alone, _, left = (at[quantity] for quantity in PARTS)
    return section(
        "The curvature by the size of the coordinates",
        "SGD's step in the same runs, cut in two by the size of its coordinates, the largest fraction k apart:",
        text,
        f"The largest {100 * CUT:g} % of the coordinates hold {length} of the squared length and {alone} of the "
        f"curvature. Without them the sharpness is {left} of the whole.",
    )
