"""Numbers of the study's tables as Markdown, and what its data sets and trajectories are called on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runs.tables import markdown_table
from study.beyond import README
from study.plan import TUNED_ADAM
from study.tables import ALL, TUNED

DATA = {
    "translation": "Tatoeba",
    "snli": "SNLI",
    "masked": "IMDb, masked words",
    "imdb": "IMDb",
    "cifar10": "CIFAR-10",
    TUNED: "Tatoeba, tuned",
    README: "generated translations",
    ALL: "all",
}
RUNS = {"adam": "Adam's run", TUNED_ADAM: "Adam's tuned run", "sgd": "SGD's run"}
Tables = dict[str, list[dict[str, Any]]]


def listed(rows: Sequence[dict[str, Any]], value: str, where: Callable[[dict], str]) -> str:
    return ", ".join(f"{number(row[value])} {where(row)}" for row in rows)


def crossed(rows: Sequence[dict[str, Any]], down: str, across: Callable[[dict], str], value: str) -> str:
    """A table with a line per value of the column `down` and a column per name that `across` gives."""
    quote = "`" if down == "algorithm" else ""
    cells = {(str(row[down]), across(row)): spread(row, value) for row in rows}
    lines = list(dict.fromkeys(line for line, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    return markdown_table(
        [down.replace("_", " "), *columns],
        [[f"{quote}{n}{quote}", *(cells.get((n, c), "") for c in columns)] for n in lines],
    )


def spread(row: dict[str, Any], value: str) -> str:
    """A mean and its interval."""
    if row[value] is None:
        return "diverged"
    interval = "" if row["low"] is None else f" ({number(row['low'])} to {number(row['high'])})"
    return f"{number(row[value])}{interval}"


def number(value: float | None) -> str:
    """Three digits. A loss that is missing belongs to runs that diverged from every seed."""
    return "diverged" if value is None else f"{value:.3g}"
