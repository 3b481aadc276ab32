"""`python -m study.page docs/study`: the parts of docs/results.md that follow from the study's tables, as Markdown.

`--into docs/results.md` puts each between its two marks on that page. Every number is a cell of docs/study/*.csv,
rounded to three digits, or a count of rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.checks import CLAIMS
from runs.files import write_whole
from runs.tables import markdown_table, read_table
from study.beyond_page import beyond
from study.markdown import DATA, RUNS, Tables, crossed, listed, number, spread
from study.plan import SOURCES
from study.tables import ALL, CLASSES, COLUMNS, FROM_FIRST, GAP, TUNED

SAID = "SGD's loss less Adam's"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m study.page", description=__doc__)
    parser.add_argument("tables", type=Path, nargs="?", default=Path("docs/study"))
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace the part between the marks of this page")
    settings = parser.parse_args()
    tables = read(settings.tables)
    if settings.into is None:
        print("\n\n".join(part(tables) for part in PARTS.values()))
    else:
        write_whole(settings.into, replaced(settings.into.read_text(), tables))
    return 0


def read(folder: Path) -> Tables:
    return {name: read_table(folder / f"{name}.csv") for name in COLUMNS}


def replaced(document: str, tables: Tables) -> str:
    """The document with each part of PARTS between its marks."""
    for name, part in PARTS.items():
        begin, end = marks(name)
        before, _, rest = document.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the page has no {begin} with {end} after it")
        document = f"{before}{begin}\n{part(tables)}\n{end}{after}"
    return document


def marks(name: str) -> tuple[str, str]:
    """Where a part of the page begins and ends."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def page(tables: Tables) -> str:
    parts = [
        claims,
        scans,
        ratios,
        losses,
        batch_sizes,
        class_imbalance,
        parameter_scaling,
        pretraining,
        batches_compared,
    ]
    return "\n\n".join(part(tables) for part in parts if tables[part.__name__])


# ---- one table each --------------------------------------------------------------------------------------------------


def claims(tables: Tables) -> str:
    rows = tables["claims"]
    by = {(row["claim"], row["data"]): row for row in rows}
    data = [name for name in (*SOURCES, TUNED, ALL) if any(key[1] == name for key in by)]
    names = [claim.name for claim in CLAIMS if (claim.name, ALL) in by]

    def cell(name: str, where: str) -> str:
        row = by.get((name, where))
        return f"{row['holds']} of {row['of']}" if row else ""

    lines = [[_said(n), by[n, ALL]["paper"] or "-", *(cell(n, d) for d in data)] for n in names]
    said = [claim_sentence(by[name, ALL]) for name in names]
    return "\n\n".join([
        "### How often the claims hold",
        markdown_table(["claim", "paper", *(DATA[name] for name in data)], lines),
        "\n".join(said),
    ])  # fmt: skip


def _said(name: str) -> str:
    """The sentence of a claim, without what explains how it is decided."""
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    return claim.sentence.partition(":")[0].removesuffix(".")


def claim_sentence(row: dict[str, Any]) -> str:
    interval = ""
    if row["low"] is not None:
        interval = f" (share over {row['seeds']} seeds: {number(row['low'])} to {number(row['high'])})"
    return f"- {_said(row['claim'])}. This holds in {row['holds']} of {row['of']} comparisons{interval}."


def scans(tables: Tables) -> str:
    columns = [
        "clipped step against its partner's",
        "pairs",
        "flatter",
        "should fall further",
        "falls further",
        "as predicted",
    ]
    names = ("pairs", "flatter", "predicted_further", "fell_further", "as_predicted")
    rows = tables["scans"]
    total = [sum(row[name] for row in rows) for name in names]
    pairs, flatter, predicted, fell, agree = total
    table = markdown_table(columns, [[DATA[row["data"]], *(row[name] for name in names)] for row in rows])
    return (
        f"### Flatter, but not lower\n\n{table}\n\nThe quadratic model of a step lets the loss fall by slope^2 / (2 "
        f"v'Hv). Of {pairs} clipped steps {flatter} are flatter than their partner's, and {predicted} should fall "
        f"further by that model. {fell} do along the scan. In {agree} of {pairs} pairs scan and model agree."
    )


def ratios(tables: Tables) -> str:
    last = max(row["epoch"] for row in tables["ratios"])
    rows = [row for row in tables["ratios"] if row["epoch"] == last]
    title = f"### Sharpness over that of SGD's step, epoch {last}"
    text = crossed(rows, "algorithm", lambda row: f"{DATA[row['data']]}, {RUNS[row['trajectory']]}", "ratio")
    upward = {place(row) for row in rows if (row["algorithm"], row["ratio"]) == ("sgd", 1)}
    adam = [row for row in rows if row["algorithm"] == "adam" and place(row) in upward]
    below = sum(row["ratio"] < 1 for row in adam)
    sure = sum(row["high"] is not None and row["high"] < 1 for row in adam)
    others = len({place(row) for row in rows} - upward)
    negative = f" In the other {others} it is negative in some seed; ratios are to its size there." if others else ""
    return (
        f"{title}\n\n{text}\n\nIn {len(adam)} of these trajectories the sharpness of SGD's step is positive in every "
        f"seed. There Adam's ratio is below 1 in {below}, and its whole interval in {sure}.{negative}"
    )


def place(row: dict[str, Any]) -> tuple[str, str]:
    return row["data"], row["trajectory"]


def losses(tables: Tables) -> str:
    text = crossed(tables["losses"], "algorithm", lambda row: DATA[row["data"]], "loss")
    by = {(row["data"], row["algorithm"]): row["loss"] for row in tables["losses"]}
    pairs = [(d, by.get((d, "sgd")), by.get((d, "adam"))) for d in dict.fromkeys(d for d, _ in by)]
    ahead = [DATA[d] for d, sgd, adam in pairs if sgd is not None and adam is not None and adam < sgd]
    return (
        f"### Training loss of the last epoch, at tuned rates\n\n{text}\n\nAdam ends below SGD on {len(ahead)} of "
        f"{len(pairs)} data sets{': ' + '; '.join(ahead) if ahead else ''}."
    )


def batch_sizes(tables: Tables) -> str:
    columns = ["batch size", "equal", "updates", "loss of SGD", "loss of Adam", "SGD less Adam"]
    rows = [
        [
            row["batch_size"],
            row["equal"],
            row["updates"],
            *(number(row[name]) for name in ("sgd", "adam")),
            spread(row, "gap"),
        ]
        for row in tables["batch_sizes"]
    ]
    said = [_gap_sentence(tables["batch_sizes"], equal) for equal in ("updates", "examples")]
    text = f"### (a) The batch size; 128 is the full batch\n\n{markdown_table(columns, rows)}\n\n{' '.join(said)}"
    if tables["batch_ratios"]:
        crossing = crossed(tables["batch_ratios"], "batch_size", lambda row: f"epoch {row['epoch']}", "ratio")
        text += f"\n\nAdam's sharpness over SGD's, along Adam's run at equally many updates:\n\n{crossing}"
    return text


def _gap_sentence(rows: Sequence[dict[str, Any]], equal: str) -> str:
    same = [row for row in rows if row["equal"] == equal]
    if not same:
        return ""
    gaps = listed(same, "gap", lambda row: f"at batch size {row['batch_size']}")
    return f"At equally many {equal} {SAID} is {gaps}."


def class_imbalance(tables: Tables) -> str:
    rows = tables["class_imbalance"]
    text = crossed(rows, "quantity", lambda row: f"Zipf exponent {row['zipf']}", "value")
    said = []
    for whose in ("", FROM_FIRST, *(f", per {which} token" for which in CLASSES)):
        chosen = [row for row in rows if row["quantity"] == f"{GAP}{whose}"]
        if chosen:
            gaps = listed(chosen, "value", lambda row: f"at exponent {row['zipf']}")
            said.append(f"{SAID}{whose}{whose and ','} is {gaps}.")
    return f"### (b) Class imbalance\n\n{text}\n\n{' '.join(said)}"


def parameter_scaling(tables: Tables) -> str:
    rows = tables["parameter_scaling"]
    text = crossed(rows, "algorithm", lambda row: f"epoch {row['epoch']}", "ratio")
    last = max(row["epoch"] for row in rows)
    by = {row["algorithm"]: number(row["ratio"]) for row in rows if row["epoch"] == last}
    said = (
        f"In epoch {last} Adafactor's ratio is {by['adafactor']} with parameter scaling and "
        f"{by['adafactor, scale_parameter=False']} without. Adam's is {by['adam']}."
    )
    return f"### (c) Adafactor with and without parameter scaling\n\n{text}\n\n{said}"


def pretraining(tables: Tables) -> str:
    rows = tables["pretraining"]
    text = crossed(rows, "quantity", lambda row: f"{DATA[row['data']]}, {row['start']}", "value")
    gaps = [row for row in rows if row["quantity"] == GAP]
    said = listed(gaps, "value", lambda row: f"on {DATA[row['data']]} from {row['start']} weights")
    return f"### (d) Pretrained against fresh weights\n\n{text}\n\n{SAID} is {said}."


def batches_compared(tables: Tables) -> str:
    rows = tables["batches_compared"]
    last = max(row["epoch"] for row in rows)
    shown = [row for row in rows if row["epoch"] == last]
    text = crossed(shown, "algorithm", lambda row: RUNS[row["trajectory"]], "train_over_test")
    with_one = sum(row["low"] <= 1 <= row["high"] for row in shown if row["low"] is not None)
    return (
        f"### (e) Sharpness on the training batch over that on the test batch, epoch {last}\n\n{text}\n\n"
        f"The interval holds 1, where both batches agree, in {with_one} of {len(shown)} cells."
    )


PARTS: Mapping[str, Callable[[Tables], str]] = {"study": page, "beyond": beyond}  # the marks' names


if __name__ == "__main__":
    sys.exit(main())
