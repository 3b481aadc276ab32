"""Checks, ratios and orderings as tables: for the terminal, in Markdown, and as rows of CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from statistics import fmean
from textwrap import fill
from typing import Any

from claims.paper import Beside, Ordering
from claims.result import Check
from runs.tables import format_table, markdown_table

Rows = Sequence[Mapping[str, Any]]
Draw = Callable[[Rows, Sequence[str]], str]  # a table's rows and columns -> text
CLAIMS = [
    "name", "folder", "holds", "of", "share_low", "share_high", "seeds", "effect", "effect_low", "effect_high",
    "effect_is", "paper", "source", "claim", "exceptions", "note",
]  # fmt: skip
PAPER_RATIOS = [field.name for field in fields(Beside)]
PAPER_ORDERINGS = [field.name for field in fields(Ordering)]
ALL = "all"  # in claims.csv: all folders together
WIDTH = 110  # of sentences on the terminal
SHOWN_EXCEPTIONS = 8  # per claim on the terminal; claims.csv has all


# ---- CSV -----------------------------------------------------------------------------------------------------


def claim_rows(checks: Iterable[Check]) -> Iterator[dict[str, Any]]:
    """Rows of claims.csv: per claim one of all folders together, and one of each folder, or pair of them."""
    for check in checks:
        low, high = check.interval or (None, None)
        effect_low, effect_high = (check.effect and check.effect.interval) or (None, None)
        yield dict(zip(CLAIMS, (
            check.name, ALL, check.holds, check.of, low, high, " ".join(map(str, check.seeds)),
            check.effect and check.effect.value, effect_low, effect_high, check.effect and check.effect.what,
            check.paper, check.source, check.claim, "; ".join(check.exceptions), check.note,
        ), strict=True))  # fmt: skip
        for folder, holds, of in check.by_folder:
            exceptions = [text for text in check.exceptions if text.startswith(f"{folder}, ")]
            named = dict(name=check.name, folder=folder, holds=holds, of=of, exceptions="; ".join(exceptions))
            yield dict.fromkeys(CLAIMS) | named | dict(source=check.source, claim=check.claim, paper=check.paper)


def dataclass_rows(comparisons: Iterable[Beside] | Iterable[Ordering]) -> Iterator[dict[str, Any]]:
    """Rows of paper_ratios.csv, or of paper_orderings.csv."""
    yield from map(asdict, comparisons)


# ---- texts ---------------------------------------------------------------------------------------------------


def page(
    checks: Sequence[Check],
    ratios: Sequence[Beside],
    orders: Sequence[Ordering],
    left_out: Sequence[str],
    markdown: bool,
) -> str:
    """All that the script prints. `left_out`: sentences on runs that stand beside none of the paper's tables."""
    draw, head = (_markdown_table, "## {}\n") if markdown else (format_table, "{}")
    title = head.format("How often the papers' claims hold")
    parts = [title, answer(checks), draw(*_count_table(checks)), *_each_claim(checks, markdown)]
    for title, rows, columns in _ratio_tables(ratios):
        parts += [head.format(title), draw(rows, columns)]
    if orders:
        rows = [_ordering_cells(order) for order in orders]
        mean = f"Mean over the columns: {fmean(order.tau for order in orders):.2f}."
        parts += [
            head.format("Kendall's tau of the order of the rows with the paper's"),
            draw(rows, list(rows[0])),
            mean,
        ]
    return "\n\n".join([*parts, *(f"{line}." for line in left_out)])


def answer(checks: Sequence[Check]) -> str:
    """One line: how many claims hold everywhere, in part and nowhere, and how many were not measured."""
    measured = [check for check in checks if check.measured]
    always, never = sum(check.always_holds for check in measured), sum(check.holds == 0 for check in measured)
    counts = f"everywhere {always}, in part {len(measured) - always - never}, nowhere {never}"
    return f"Of {len(checks)} claims hold: {counts}; not measured: {len(checks) - len(measured)}."


def _count_table(checks: Sequence[Check]) -> tuple[Rows, list[str]]:
    rows = [
        {
            "claim": check.name,
            "holds": f"{check.holds} of {check.of}" if check.measured else None,
            "paper": check.paper or None,
            "share": check.holds / check.of if check.measured else None,
            "95 % interval": _interval(check.interval),
            "seeds": len(check.seeds) or None,
            "effect": check.effect and check.effect.value,
            "its interval": _interval(check.effect and check.effect.interval),
        }
        for check in checks
    ]
    return rows, list(rows[0])


def _each_claim(checks: Sequence[Check], markdown: bool) -> Iterator[str]:
    """Per claim its sentence, what its effect is, notes and exceptions."""
    bullet, name = ("- {}", "**{}**") if markdown else ("  - {}", "{}")
    for check in checks:
        says = [f"{name.format(check.name)}: {check.claim} ({check.source})"]
        if check.effect:
            says.append(f"Effect: {check.effect.what}, {check.effect.value:.3g}.")
        if check.note:
            says.append(f"{check.note[0].upper()}{check.note[1:]}.")
        shown = list(check.exceptions[:SHOWN_EXCEPTIONS])
        if more := len(check.exceptions) - len(shown):
            shown.append(f"and {more} more (claims.csv of --output_dir has all)")
        text = " ".join(says) + (" Exceptions:" if shown else "")
        lines = [bullet.format(exception) for exception in shown]
        yield "\n".join([text if markdown else fill(text, WIDTH), *([""] if lines and markdown else []), *lines])


def _ratio_tables(ratios: Sequence[Beside]) -> Iterator[tuple[str, Rows, list[str]]]:
    """One table per run: title, rows and columns."""
    for folder in dict.fromkeys(one.folder for one in ratios):
        of_run = [one for one in ratios if one.folder == folder]
        first = of_run[0]
        by = f"run of {first.train_optimizer}"
        here, there = f"{first.dataset}, {first.model}, {by}", f"{first.paper_dataset}, {first.paper_model}, {by}"
        title = f"Ratio to SGD's sharpness: {folder} ({here}) beside {first.paper_table} of Pan & Li ({there})"
        rows = [_ratio_cells(one) for one in of_run]
        columns = [c for c in rows[0] if c != "95 % interval" or any(row[c] is not None for row in rows)]
        yield title, rows, columns


def _ratio_cells(one: Beside) -> dict[str, Any]:
    interval = None if one.ratio_low is None or one.ratio_high is None else (one.ratio_low, one.ratio_high)
    return {
        "epoch": str(one.epoch),
        "paper's": str(one.paper_epoch),
        "algorithm": one.algorithm,
        "the paper's": one.paper_algorithm,
        "ratio": one.ratio,
        "95 % interval": _interval(interval),
        "paper's ratio": one.paper_ratio,
        "ratio / paper's": one.over_paper,
    }


def _ordering_cells(order: Ordering) -> dict[str, Any]:
    interval = None if order.tau_low is None or order.tau_high is None else (order.tau_low, order.tau_high)
    return {
        "folder": order.folder,
        "data, model": f"{order.dataset}, {order.model}",
        "epoch": order.epoch,
        "beside": f"{order.paper_table}, {order.paper_dataset}, {order.paper_model}",
        "paper's epoch": order.paper_epoch,
        "rows": order.rows,
        "seeds": order.seeds,
        "tau": order.tau,
        "95 % interval": _interval(interval),
    }


def _interval(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"


def _markdown_table(rows: Rows, columns: Sequence[str]) -> str:
    return markdown_table(columns, ([_cell(row[column]) for column in columns] for row in rows))


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|")
