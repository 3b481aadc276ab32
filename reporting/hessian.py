"""The answer of run_hessian.py: how unevenly gradient and curvature are spread over the tensors."""

from __future__ import annotations

from collections.abc import Iterator

from figures.run_tables import RunTables
from reporting.contents import Sentence, View, quoted
from reporting.numbers import count, hundredths, said

MEAN = "mean"  # in the column `batch`
MEASURES = {
    "group": "group",
    "tensors": "blocks",
    "Gini of gradients": "gini_gradient",
    "Gini of eigenvalues": "gini_eigenvalue",
    "curvature of gradient methods": "complexity_gradient",
    "of sign methods": "complexity_sign",
    "ratio": "complexity_ratio",
    "rank correlation": "spearman",
    "from": "spearman_low",
    "to": "spearman_high",
}
TENSORS = {
    "tensor": "block",
    "kind": "kind",
    "elements": "numel",
    "gradient norm": "gradient_norm",
    "largest eigenvalue": "eigenvalue",
    "converged": "converged",
}


def answer(run: RunTables) -> Iterator[Sentence]:
    blocks = run.table("blocks", "batch block eigenvalue converged")
    means = [row for row in blocks if row["batch"] == MEAN]
    measured = [row for row in means if row["eigenvalue"] is not None]
    batches = {row["batch"] for row in blocks} - {MEAN}
    if not measured:
        return
    text = f"Gradient and largest curvature of {count(len(means), 'tensor')} were measured, as means over "
    yield Sentence(f"{text}{count(len(batches), 'batch', 'batches')} of examples.", ("blocks.csv",))
    sharpest = max(measured, key=lambda row: row["eigenvalue"])
    text = f"The loss bends most within {quoted(sharpest['block'])}: its largest eigenvalue is "
    yield Sentence(f"{text}{said(sharpest['eigenvalue'])}.", ("blocks.csv",))
    yield from _spread(run)
    single = [row for row in blocks if row["batch"] != MEAN and row["eigenvalue"] is not None]
    unsure = sum(not row["converged"] for row in single)
    if unsure:
        text = f"{unsure} of {count(len(single), 'eigenvalue')} did not converge; the column “converged” names them."
        yield Sentence(text, ("blocks.csv",))
    for row in run.table("robust_smoothness", "examples smoothness robust_smoothness removed_share"):
        text = f"Over {count(row['examples'], 'example')} the smoothness is {said(row['smoothness'])}; without the "
        text += f"{100 * row['removed_share']:.2g} % of coordinates that are longest it is "
        yield Sentence(f"{text}{said(row['robust_smoothness'])}.", ("robust_smoothness.csv",))


def _spread(run: RunTables) -> Iterator[Sentence]:
    columns = "batch grouping blocks gini_gradient gini_eigenvalue complexity_ratio spearman spearman_low spearman_high"
    rows = [row for row in run.table("heterogeneity", columns) if (row["batch"], row["grouping"]) == (MEAN, "all")]
    for row in rows:
        if row["spearman"] is not None:
            low, high = row["spearman_low"], row["spearman_high"]
            text = f"Tensors with larger gradients {_bend(row['spearman'], low, high)}: the rank correlation of "
            text += f"gradient norm and eigenvalue is {hundredths(row['spearman'])}"
            if None not in (low, high):
                text += f" (95 % interval over the tensors: {hundredths(low)} to {hundredths(high)})"
            yield Sentence(f"{text}.", ("heterogeneity.csv",))
        if None not in (row["gini_gradient"], row["gini_eigenvalue"]):
            text = f"The Gini coefficient of the gradient norms is {row['gini_gradient']:.2f}, that of the eigenvalues "
            text += f"{row['gini_eigenvalue']:.2f} (0: all tensors are equal, near 1: one tensor holds everything)."
            yield Sentence(text, ("heterogeneity.csv",))
        if row["complexity_ratio"] is not None:
            text = f"The curvature that gradient methods meet is {said(row['complexity_ratio'])} times that which sign "
            yield Sentence(f"{text}methods meet.", ("heterogeneity.csv",))


def _bend(value: float, low: float | None, high: float | None) -> str:
    if low is not None and high is not None and low <= 0 <= high:
        return "do not clearly have larger or smaller curvature"
    return "have larger curvature" if value > 0 else "have smaller curvature"


def views(run: RunTables) -> Iterator[View]:
    rows = [row for row in run.table("heterogeneity", "batch grouping group") if row["batch"] == MEAN]
    rows = [row for row in rows if row["grouping"] != "layer"]
    if rows:
        shown = [{name: row.get(column) for name, column in MEASURES.items()} for row in rows]
        note = "Means over the batches, of all tensors and of those of each kind; “from” and “to” are 95 % intervals."
        yield View("spread", "How unevenly they are spread", note, list(MEASURES), shown, "heterogeneity.csv")
    rows = [row for row in run.table("blocks", "batch block") if row["batch"] == MEAN]
    if rows:
        shown = [{name: row.get(column) for name, column in TENSORS.items()} for row in rows]
        note = "Means over the batches, in the model’s order."
        yield View("tensors", "Every tensor", note, list(TENSORS), shown, "blocks.csv")


def headline(run: RunTables) -> tuple[str, dict[str, float | None]]:
    """(what it is, measure -> number): what tells two runs apart."""
    rows = run.table("heterogeneity", "batch grouping")
    rows = [row for row in rows if (row["batch"], row["grouping"]) == (MEAN, "all")]
    names = {name: column for name, column in MEASURES.items() if column != "group"}
    return "Of all tensors", {name: rows[0].get(column) for name, column in names.items()} if rows else {}
