"""What the second paper claims about gradient and curvature, checked in the tables of run_hessian.py.

Two runs are compared that share their seed, that measure a trained model both or neither (--checkpoint), and a
selection of the tensors both or neither (--parameters). What a model is, its tensors tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from claims.folder import RunFolder
from claims.result import Claim, Trial

GRADIENT_AND_CURVATURE = Claim(
    "gradient_and_curvature_correlate",
    "Over the parameter tensors, gradient norm and largest curvature go together: the interval of their rank "
    "correlation lies above 0.",
    "Tomihari & Sato, arXiv:2502.00213",
    "",
    "rank correlation",
    "run_hessian.py",
    limits=(-1, 1),
)
TRANSFORMER_ABOVE_RESNET = Claim(
    "transformer_above_resnet",
    "A transformer's gradient norms are more unevenly spread than a ResNet's, by their Gini coefficient.",
    "Tomihari & Sato, arXiv:2502.00213",
    "",
    "the transformer's Gini coefficient less the ResNet's",
    "run_hessian.py on a transformer and on a ResNet, with the same --seed",
)
POST_NORM_ABOVE_PRE_NORM = Claim(
    "post_norm_above_pre_norm",
    "Gradient norms are more unevenly spread with the norms after the sublayers than before them, by their Gini "
    "coefficient.",
    "Tomihari & Sato, arXiv:2502.00213",
    "",
    "the post-norm model's Gini coefficient less the pre-norm model's",
    "run_hessian.py on RoBERTa and on RoBERTa-PreLayerNorm, with the same data and --seed",
)
MEAN, ALL, KIND = "mean", "all", "kind"  # what heterogeneity.csv calls them
POST_NORM, PRE_NORM = "roberta.", "roberta_prelayernorm."  # how the names of their tensors begin


@dataclass(frozen=True)
class Unevenness:
    """One seed of a folder: its measures over all tensors, averaged over the batches, and what the model is."""

    run: RunFolder
    seed: int
    spearman: float | None
    spearman_low: float | None
    gini: float | None  # of the gradient norms
    gini_rms: float | None  # of gradient norm / sqrt(size)
    kinds: frozenset[str]  # of tensors: attention, convolution, ...
    first_tensor: str

    @property
    def is_transformer(self) -> bool:
        return "attention" in self.kinds

    @property
    def is_resnet(self) -> bool:
        return "convolution" in self.kinds and not self.is_transformer

    @property
    def conditions(self) -> tuple:
        settings = self.run.settings
        return self.seed, settings.get("checkpoint") is None, settings.get("parameters") is None

    @property
    def data(self) -> tuple:
        return tuple(self.run.settings.get(name) for name in ("task", "dataset", "dataset_size", "max_length"))


def unevenness_of(run: RunFolder) -> list[Unevenness]:
    """One per seed of the folder; none where the run is not complete, or did not measure it."""
    columns = "batch grouping group spearman spearman_low gini_gradient gini_gradient_rms"
    rows = [row for row in run.table("heterogeneity", columns) if row["batch"] == MEAN]
    tensors = {row["seed"]: row["block"] for row in reversed(run.table("blocks", "block"))}
    return [
        Unevenness(
            run, row["seed"], row["spearman"], row["spearman_low"], row["gini_gradient"], row["gini_gradient_rms"],
            frozenset(r["group"] for r in rows if r["grouping"] == KIND and r["seed"] == row["seed"]),
            tensors.get(row["seed"], ""),
        )
        for row in rows
        if row["grouping"] == ALL
    ]  # fmt: skip


# ---- the claims ----------------------------------------------------------------------------------------------


def gradient_and_curvature_correlate(measured: Sequence[Unevenness]) -> Iterator[Trial]:
    for one in measured:
        if one.spearman is not None and one.spearman_low is not None:
            low = one.spearman_low
            text = f"seed {one.seed}: the interval of the correlation {one.spearman:.2f} begins at {low:.2f}"
            yield Trial(one.run.name, one.seed, low > 0, text, one.spearman)


def transformer_above_resnet(measured: Sequence[Unevenness]) -> list[tuple[Unevenness, Unevenness]]:
    """The pairs to compare."""
    return _pairs([one for one in measured if one.is_transformer], [one for one in measured if one.is_resnet])


def post_norm_above_pre_norm(measured: Sequence[Unevenness]) -> list[tuple[Unevenness, Unevenness]]:
    """The pairs to compare, on the same data."""
    post = [one for one in measured if one.first_tensor.startswith(POST_NORM)]
    pre = [one for one in measured if one.first_tensor.startswith(PRE_NORM)]
    return [(a, b) for a, b in _pairs(post, pre) if a.data == b.data]


def _pairs(above: Sequence[Unevenness], below: Sequence[Unevenness]) -> list[tuple[Unevenness, Unevenness]]:
    return [(a, b) for a, b in product(above, below) if a.conditions == b.conditions and None not in (a.gini, b.gini)]


def compared(pairs: Sequence[tuple[Unevenness, Unevenness]]) -> Iterator[Trial]:
    for a, b in pairs:
        text = f"seed {a.seed}: {a.gini:.3f} is not above {b.gini:.3f}"
        yield Trial(f"{a.run.name} against {b.run.name}", a.seed, a.gini > b.gini, text, a.gini - b.gini)


def notes_on(pairs: Sequence[tuple[Unevenness, Unevenness]]) -> list[str]:
    """What else the pairs say: the same count by norm / sqrt(size), and whose data differ."""
    scaled = [a.gini_rms > b.gini_rms for a, b in pairs if None not in (a.gini_rms, b.gini_rms)]
    notes = [f"by gradient norm / sqrt(size) it holds in {sum(scaled)} of {len(scaled)}"] if scaled else []
    differing = sum(a.data != b.data for a, b in pairs)
    return [*notes, f"in {differing} of {len(pairs)} the data differ, too"] if differing else notes
